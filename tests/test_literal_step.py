"""The trainer's gradient against a training step written plainly, for networks of the train split."""

import copy
import dataclasses
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

import deepnets_gen
from deepnets_gen.genotype import Genotype
from ghn.model import GHN, GHNConfig
from train.data import load_sample
from train.fast import quicken
from train.step import Job, meta_gradient

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import literal_step
import step_floor

SIDE, IMAGES = 16, 12


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def ghn() -> GHN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GHN(GHNConfig(hid=8, max_shape=(16, 16, 5, 5)))


def networks(count: int, *, attention: bool) -> list[Genotype]:
    """The first small ones, with or without attention."""
    found = (
        genotype
        for genotype in deepnets_gen.generate("train", 10**6)
        if genotype.is_vit == attention and small(genotype)
    )
    return list(islice(found, count))


def small(genotype: Genotype) -> bool:
    sketch = deepnets_gen.sketch(genotype, 10, SIDE)
    return len(sketch) <= 90 and sketch.num_params <= 4 * 10**5


def drawn() -> tuple[Tensor, Tensor]:
    return load_sample().resized(SIDE).draw(IMAGES, torch.Generator().manual_seed(3))


def relative(found: Tensor | None, expected: Tensor | None, scale: float) -> float:
    if found is None or expected is None:
        return 0.0 if found is expected else float("inf")
    return ((found - expected).norm() / max(expected.norm().item(), scale)).item()


@pytest.mark.parametrize("attention", [False, True], ids=["convolutions", "attention"])
def test_losses_and_gradients(ghn: GHN, attention: bool) -> None:
    genotypes = networks(3, attention=attention)
    images, labels = drawn()
    plain = copy.deepcopy(ghn)
    expected = literal_step.gradient(plain, genotypes, images, labels, train=False)
    jobs = [
        Job(
            deepnets_gen.graph(g, 10, SIDE),
            quicken(deepnets_gen.build(g, 10, SIDE, device="meta")).eval(),
            images,
            labels,
        )
        for g in genotypes
    ]
    result = meta_gradient(ghn, jobs, budget=10_000)
    assert result.networks == len(genotypes)
    assert result.loss == pytest.approx(sum(expected.losses) / len(genotypes), rel=1e-4)
    total = torch.stack([p.grad.norm() for p in plain.parameters() if p.grad is not None]).norm().item()
    for (name, ours), theirs in zip(ghn.named_parameters(), plain.parameters(), strict=True):
        assert relative(ours.grad, theirs.grad, 1e-3 * total) < 1e-4, name


def test_every_way_of_the_floor_runs() -> None:
    for case in step_floor.cases(networks(2, attention=False)):
        for way in step_floor.WAYS.values():
            step_floor.prepared(case, dataclasses.replace(way, images=4))()
