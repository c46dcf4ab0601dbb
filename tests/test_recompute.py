"""Recomputing what blocks compute changes no bit of a gradient, and keeps less."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training import kept_bytes

import deepnets_gen
from ghn.assign import functional
from train import recompute
from train.data import load_sample
from train.fast import quicken
from train.recompute import blocks, recomputing

SIDE, IMAGES = 16, 6
Gradients = tuple[Tensor | None, ...]


def networks(split: str, count: int) -> list[Any]:
    return list(islice(deepnets_gen.generate(split, 10**6), count))


GENOTYPES = [
    *networks("train", 6),
    *networks("search", 1),
    *networks("vit", 1),
    *networks("mobile", 1),
    *networks("nasbench201", 1),
]


def case(genotype: Any) -> tuple[nn.Module, dict[str, Tensor], Callable[[], Gradients]]:
    """The network on meta in training mode, weights for it, and their gradient on real images."""
    module = quicken(deepnets_gen.build(genotype, 10, SIDE, device="meta")).train()
    draw = torch.Generator().manual_seed(0)
    graph = deepnets_gen.graph(genotype, 10, SIDE)
    weights = {s.fqn: (0.1 * torch.randn(s.shape, generator=draw)).requires_grad_() for s in graph.slots}
    images, labels = load_sample().resized(SIDE).draw(IMAGES, draw)

    def gradient() -> Gradients:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)  # of dropout
            loss = F.cross_entropy(functional(module, weights, images), labels)
            return torch.autograd.grad(loss, list(weights.values()), allow_unused=True)

    return module, weights, gradient


def assert_same(found: Gradients, expected: Gradients) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)  # ty: ignore[invalid-argument-type]


@pytest.mark.parametrize("genotype", GENOTYPES, ids=[f"{n} {type(g).__name__}" for n, g in enumerate(GENOTYPES)])
def test_no_bit_changes(genotype: Any) -> None:
    module, _, gradient = case(genotype)
    assert list(blocks(module))
    expected = gradient()
    with recomputing(module):
        found = gradient()
    assert any(g is not None for g in expected)
    assert_same(found, expected)
    assert not any("forward" in vars(block) for block in blocks(module))


def test_the_backward_pass_may_come_later() -> None:
    module, weights, _ = case(GENOTYPES[0])
    images, labels = load_sample().resized(SIDE).draw(IMAGES, torch.Generator().manual_seed(3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        with recomputing(module):
            loss = F.cross_entropy(functional(module, weights, images), labels)
        late = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        torch.manual_seed(1)
        loss = F.cross_entropy(functional(module, weights, images), labels)
    assert_same(late, torch.autograd.grad(loss, list(weights.values()), allow_unused=True))


@pytest.mark.parametrize("genotype", GENOTYPES[:3])
def test_less_is_kept(genotype: Any) -> None:
    module, weights, _ = case(genotype)
    images = load_sample().pixels[:IMAGES, :, :SIDE, :SIDE].float() / 255
    whole = kept_bytes(lambda: functional(module, weights, images))
    with recomputing(module):
        less = kept_bytes(lambda: functional(module, weights, images))
    assert less < 0.7 * whole


def test_threads_change_no_bit() -> None:
    cases = [case(genotype) for genotype in GENOTYPES[:4]]
    for module, _, _ in cases:
        module.eval()  # what drops units draws from one generator, and so never runs in threads

    def recomputed(place: int) -> Gradients:
        module, _, gradient = cases[place]
        with recomputing(module):
            return gradient()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a kernel's sums depend on how many share them
    try:
        expected = [gradient() for _, _, gradient in cases]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(recomputed, range(len(cases))))
    finally:
        torch.set_num_threads(threads)
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)


def test_an_error_leaves_the_module_as_it_was() -> None:
    module, _, gradient = case(GENOTYPES[0])
    expected = gradient()
    with pytest.raises(RuntimeError, match="interrupted"), recomputing(module):
        raise RuntimeError("interrupted")
    assert not any("forward" in vars(block) for block in module.modules() if any(block.children()))
    assert_same(gradient(), expected)


def test_blocks_are_apart() -> None:
    def within(module: nn.Module) -> Iterator[int]:
        return (id(part) for part in module.modules())

    for genotype in GENOTYPES:
        module = deepnets_gen.build(genotype, 10, SIDE, device="meta")
        parts = [part for block in blocks(module) for part in within(block)]
        assert len(parts) == len(set(parts))
        assert len(parts) > 0.5 * len(list(module.modules()))


def test_memory_is_given_back_where_the_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    library = type("Library", (), {"malloc_trim": staticmethod(called.append)})
    for given, times in ((library, 1), (None, 0), (object(), 0)):
        called.clear()
        monkeypatch.setattr(recompute, "_LIBC", given)
        recompute.give_back()
        assert len(called) == times
