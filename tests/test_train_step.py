"""The meta-batch's gradient against the plain joint backward, and what is not finite left out and counted."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.assign import functional
from ghn.model import GHN, GHNConfig
from ghn.tracing import trace
from train import step
from train.fast import quicken
from train.step import Job, Local, Trial, accuracy, meta_gradient, try_network


def network(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width, track_running_stats=False),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 10),
    )


def jobs(widths: tuple[int, ...] = (4, 8, 12), images: int = 5) -> list[Job]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for width in widths:
        module = network(width)
        x = torch.randn(images, 3, 8, 8, generator=generator)
        labels = torch.randint(0, 10, (images,), generator=generator)
        found.append(Job(trace(module, image_size=8), module.to("meta"), x, labels))
    return found


@pytest.fixture
def ghn() -> GHN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GHN(GHNConfig(hid=8, max_shape=(16, 16, 3, 3)))


def joint_gradient(ghn: GHN, given: list[Job], smoothing: float) -> tuple[float, dict[str, Tensor]]:
    """Oracle: one graph from the GHN's parameters to the mean loss."""
    ghn.zero_grad()
    predicted = ghn(ghn.collate([job.graph for job in given]))
    losses = [
        F.cross_entropy(functional(job.module, w, job.images), job.labels, label_smoothing=smoothing)
        for job, w in zip(given, predicted, strict=True)
    ]
    loss = torch.stack(losses).mean()
    loss.backward()
    return loss.item(), gradients(ghn)


def gradients(ghn: GHN) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in ghn.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("budget", [1, 15, 10_000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_the_joint_backward(ghn: GHN, budget: int, smoothing: float) -> None:
    given = jobs()
    loss, expected = joint_gradient(copy.deepcopy(ghn), given, smoothing)
    result = meta_gradient(ghn, given, budget=budget, smoothing=smoothing)
    assert (result.networks, result.skipped) == (3, 0)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert_close(gradients(ghn), expected)


PARTS = {
    "mlp": {"propagation": "mlp", "decoder": "mlp"},
    "ghn3": {"propagation": "graphormer", "decoder": "centred", "layers": 2, "heads": 2},
    "logah": {"propagation": "graphormer", "decoder": "lowrank", "layers": 1, "heads": 2, "rank": 4},
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_every_kind_of_ghn_gets_its_gradient(parts: dict) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ghn = GHN(GHNConfig(hid=8, max_shape=(16, 16, 3, 3), **parts)).double()
    given = [Job(job.graph, job.module, job.images.double(), job.labels) for job in jobs()]
    loss, expected = joint_gradient(copy.deepcopy(ghn), given, 0.0)
    result = meta_gradient(ghn, given, budget=15)
    assert result.loss == pytest.approx(loss, rel=1e-6)
    assert_close(gradients(ghn), expected)


def test_the_penalty_is_on_the_norm_of_every_weight(ghn: GHN) -> None:
    given = jobs()
    loss, plain = joint_gradient(copy.deepcopy(ghn), given, 0.0)
    other = copy.deepcopy(ghn)
    other.zero_grad()
    predicted = other(other.collate([job.graph for job in given]))
    (0.01 * sum(w.norm() for weights in predicted for w in weights.values()) / len(given)).backward()
    expected = {name: plain.get(name, 0) + value for name, value in gradients(other).items()}
    result = meta_gradient(ghn, given, budget=10_000, penalty=0.01)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert_close(gradients(ghn), expected)


@pytest.mark.parametrize("twice", [False, True], ids=["distinct modules", "one module twice"])
def test_threads_change_no_bit(ghn: GHN, twice: bool) -> None:
    torch.set_num_threads(1)
    given = jobs()
    given += given[:1] if twice else []
    meta_gradient(ghn, given, budget=10_000)
    expected = gradients(ghn)
    with ThreadPoolExecutor(3) as threads:
        meta_gradient(ghn, given, budget=10_000, run=threads.map)
    assert all(torch.equal(value, expected[name]) for name, value in gradients(ghn).items())


@pytest.mark.parametrize("parts", [[[0, 1, 2]], [[1], [0, 2]], [[2], [0], [1]]])
def test_parts_add_up_to_the_whole(ghn: GHN, parts: list[list[int]]) -> None:
    given = jobs()
    loss, expected = joint_gradient(copy.deepcopy(ghn), given, 0.0)
    result = meta_gradient(ghn, dict(enumerate(given)), budget=10_000, parts=parts)
    assert (result.networks, result.skipped) == (3, 0)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert_close(gradients(ghn), expected)


def test_dropout_depends_on_the_jobs_seed_alone(ghn: GHN) -> None:
    given = jobs((4,))[0]
    module = nn.Sequential(network(4), nn.Dropout(0.5))
    graph = trace(module, image_size=8)
    weights = ghn(ghn.collate([graph]))[0]

    def loss(seed: int | None, before: int) -> float:
        torch.manual_seed(before)
        return try_network(Job(graph, module, given.images, given.labels, seed), weights, 0.0, False).loss

    with torch.random.fork_rng(devices=[]):
        assert loss(7, before=1) == loss(7, before=2) != loss(8, before=1)
        assert loss(None, before=1) != loss(None, before=2)


def test_everything_follows_the_device(ghn: GHN) -> None:
    """The meta device stands for a GPU, which the machine may not have: it too refuses tensors of the CPU."""
    given = jobs()
    ghn = copy.deepcopy(ghn).to("meta")
    predicted = ghn(ghn.collate([job.graph for job in given]))
    trials = []
    for job, weights in zip(given, predicted, strict=True):
        leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
        logits = functional(quicken(job.module), leaves, job.images.to("meta"))
        found = torch.autograd.grad(F.cross_entropy(logits, job.labels.to("meta")), list(leaves.values()))
        trials.append(Trial(0.0, 0, len(job.labels), found))
    step._backward(predicted, trials)
    assert step._taken_gradient(ghn).shape == (sum(p.numel() for p in ghn.parameters()),)
    with pytest.raises(RuntimeError, match="device"):
        functional(given[0].module, predicted[0], given[0].images)


def test_a_network_that_is_not_finite_leaves_the_mean_of_the_others(ghn: GHN) -> None:
    given = jobs()
    bad = Job(given[1].graph, given[1].module, given[1].images * float("inf"), given[1].labels)
    _, expected = joint_gradient(copy.deepcopy(ghn), [given[0], given[2]], 0.0)
    result = meta_gradient(ghn, [given[0], bad, given[2]], budget=10_000)
    assert (result.networks, result.skipped) == (2, 1)
    assert_close(gradients(ghn), expected)


class Cliff(torch.autograd.Function):
    """Finite forward, infinite backward."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0] * float("inf")


def test_a_gradient_that_is_not_finite_is_left_out_too(ghn: GHN) -> None:
    class Falls(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return Cliff.apply(self.inner(x))

    given = jobs((4,))[0]
    module = Falls(network(4))
    graph = trace(module, image_size=8)
    result = meta_gradient(ghn, [Job(graph, module.to("meta"), given.images, given.labels), given], budget=100)
    assert (result.networks, result.skipped) == (1, 1)
    assert all(torch.isfinite(g).all() for g in gradients(ghn).values())


def test_nothing_finite_gives_no_gradient(ghn: GHN) -> None:
    given = jobs((4,))[0]
    bad = Job(given.graph, given.module, given.images * float("nan"), given.labels)
    result = meta_gradient(ghn, [bad], budget=100)
    assert (result.networks, result.skipped) == (0, 1)
    assert result.loss != result.loss
    assert gradients(ghn) == {}


def test_long_network_gradients_are_shortened(ghn: GHN) -> None:
    given = jobs((4,))[0]
    weights = ghn(ghn.collate([given.graph]))[0]
    free = try_network(given, weights, 0.0, False).gradients
    assert free is not None
    norm = nn.utils.get_total_norm([g for g in free if g is not None]).item()
    for limit in (norm / 3, norm * 3):
        clipped = try_network(given, weights, 0.0, False, limit).gradients
        assert clipped is not None
        for a, b in zip(free, clipped, strict=True):
            assert a is not None
            assert b is not None
            assert torch.allclose(a * min(1, limit / norm), b, rtol=1e-5)


def test_activations_of_one_network_at_a_time(ghn: GHN) -> None:
    alive: list[int] = []
    waiting: list[int] = []

    class Counted(nn.Module):
        """Notes how many networks have run forward but not backward when it runs."""

        def forward(self, x: Tensor) -> Tensor:
            out = x * 1.0
            if out.requires_grad:
                waiting.append(1)
                alive.append(len(waiting))
                out.register_hook(lambda grad: (waiting.pop(), None)[1])
            return out

    def counted(width: int) -> nn.Module:
        return nn.Sequential(network(width), Counted())

    given = [
        Job(trace(counted(4), image_size=8), counted(4).to("meta"), job.images, job.labels) for job in jobs((4, 4, 4))
    ]
    meta_gradient(ghn, given, budget=10_000)
    assert alive == [1, 1, 1]


def test_bf16_is_close_to_float32(ghn: GHN) -> None:
    given = jobs()
    full = meta_gradient(ghn, given, budget=10_000)
    half = meta_gradient(ghn, given, budget=10_000, bf16=True)
    assert half.loss == pytest.approx(full.loss, rel=0.05)
    assert all(g.dtype == torch.float32 for g in gradients(ghn).values())


def test_accuracy_by_hand(ghn: GHN) -> None:
    job = jobs((8,), images=12)[0]
    ghn.eval()
    weights = ghn(ghn.collate([job.graph]))[0]
    expected = (functional(job.module, weights, job.images).argmax(1) == job.labels).float().mean().item()
    found = accuracy(ghn, job.graph, job.module, [(job.images, job.labels)])
    assert found == pytest.approx(expected)
    assert job.module.training


def test_local_steps_add_up_the_gradients_along_the_way(ghn: GHN) -> None:
    """Against steps written out with autograd on parameters of a module; loss and accuracy are of the first."""
    (job,) = jobs((8,), images=9)
    weights = ghn(ghn.collate([job.graph]))[0]
    trial = try_network(job, weights, 0.1, False, None, Local(3, 0.05))
    module = network(8)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(weights[name])
    total = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for number, (x, y) in enumerate(zip(job.images.split(3), job.labels.split(3), strict=True)):
        logits = module(x)
        loss = F.cross_entropy(logits, y, label_smoothing=0.1)
        if number == 0:
            assert (trial.loss, trial.images) == (pytest.approx(loss.item()), 3)
            assert trial.correct == int((logits.argmax(1) == y).sum())
        module.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, p in module.named_parameters():
                total[name] += p.grad
                p -= 0.05 * p.norm() / p.grad.norm() * p.grad
    for name, gradient in zip(weights, trial.gradients, strict=True):
        torch.testing.assert_close(gradient, total[name], rtol=1e-4, atol=1e-6)


def test_a_network_that_fails_on_its_way_is_left_out(ghn: GHN) -> None:
    (job,) = jobs((8,), images=8)
    images = job.images.clone()
    images[4:] = float("inf")
    spoilt = Job(job.graph, job.module, images, job.labels)
    weights = ghn(ghn.collate([job.graph]))[0]
    assert try_network(spoilt, weights, 0.0, False, None, Local(1, 0.0)).gradients is None
    trial = try_network(spoilt, weights, 0.0, False, None, Local(2, 0.01))
    assert trial.gradients is None
    assert math.isnan(trial.loss)
    assert meta_gradient(ghn, [spoilt, job], budget=10**6, local=Local(2, 0.01)).skipped == 1
