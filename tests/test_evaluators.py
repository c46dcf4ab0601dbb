"""Every evaluator conforms; scores against slow loops and known networks; what wrappers make of them."""

import math
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from search_cases import IMAGES, TABLES, Digits, EvaluatorCase, Toy, needs_images, needs_tables
from torch import nn
from torch.nn import functional as F

from deepnets_gen.spaces.nasbench201 import OPS
from eval.evaluator import Arch, Evaluator, checked, fingerprint
from eval.images import SearchImages, balanced
from eval.latency import Latency
from eval.learned import Learned, pairwise_loss
from eval.predicted import Predicted, Steps, descend, statistics
from eval.rank import kendall
from eval.score import score
from eval.tabular import Tabular
from eval.trained import Trained
from eval.wrap import (
    Blended,
    Calibrated,
    Cascade,
    Ensemble,
    Joined,
    Neighborhood,
    Only,
    Partitioned,
    Standing,
    isotonic,
)
from eval.zerocost import SCORES, ZeroCost, grad_norm, jacov, naswot, rectified, snip, synflow
from ghn.errors import DataError, GHNError, ModelError
from ghn.hyper import Hypernet
from ghn.model import GHN, GHNConfig
from search.spaces import make_space
from search.spaces.nasbench201 import Nasbench201
from train.data import CLASSES, Images, load_sample
from train.sgd import Schedule

SMALL = Nasbench201(cells=1, channels=4)
CELLS = [(3, 1, 2, 4, 3, 0), (2, 2, 0, 1, 3, 4), (0, 0, 0, 3, 0, 0), (1, 3, 0, 0, 0, 0)]  # the last one is cut off


def noise(count: int = 24, side: int = 8) -> SearchImages:
    """Real images, made small; here it does not matter whose."""
    sample = load_sample().take(torch.arange(0, 1000, 1000 // count)[:count]).resized(side)
    return SearchImages(sample, "val")


def hyper() -> Hypernet:
    torch.manual_seed(0)
    return Hypernet(GHN(GHNConfig(hid=8, max_shape=(8, 8, 3, 3))), {}, 8, CLASSES)


def toys() -> list[Arch]:
    return [Toy().arch(genes) for genes in ([1, 2, 3, 0, 1], [0, 0, 1, 2, 0], [3, 3, 3, 3, 0], [2, 0, 0, 1, 3])]


class OnCells(EvaluatorCase):
    @pytest.fixture(scope="class")
    @classmethod
    def archs(cls) -> list[Arch]:
        return [SMALL.arch(genes) for genes in CELLS]


class OnToys(EvaluatorCase):
    @pytest.fixture(scope="class")
    @classmethod
    def archs(cls) -> list[Arch]:
        return toys()


class TestPredicted(OnCells):
    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls) -> Evaluator:
        return Predicted(hyper(), SMALL, noise(), batch=12)

    def test_accuracy_and_loss_are_those_of_score(self, evaluator: Predicted, archs: list[Arch]) -> None:
        model = evaluator.hyper.init(SMALL.build(archs[0], 10, 8))
        found, wanted = evaluator.evaluate(archs[:1])[0], score(model, noise().images, batch=12)
        assert found.metrics["accuracy"] == wanted.accuracy
        assert found.metrics["loss"] == pytest.approx(wanted.loss, rel=1e-5)
        assert found.cost.images == 24

    def test_the_batch_and_the_images_are_in_the_fingerprint(self, evaluator: Evaluator) -> None:
        others = [Predicted(hyper(), SMALL, noise(), 8), Predicted(hyper(), SMALL, noise(20), 12)]
        others.append(Predicted(hyper().untrained(1), SMALL, noise(), 12))
        assert len({e.fingerprint for e in (evaluator, *others)}) == 4
        assert Predicted(hyper(), SMALL, noise(), 12).fingerprint == evaluator.fingerprint


class TestPredictedAfterSteps(OnCells):
    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls) -> Evaluator:
        return Predicted(hyper(), SMALL, noise(), 12, Steps(SearchImages(load_sample().resized(8), "train"), 2))

    def test_it_has_seen_what_it_trained_on(self, evaluator: Evaluator, archs: list[Arch]) -> None:
        assert evaluator.sees == {"train", "val"}
        assert evaluator.fingerprint != Predicted(hyper(), SMALL, noise(), 12).fingerprint
        assert evaluator.evaluate(archs[:1])[0].cost.images == 24 + 2 * 64

    def test_steps_go_down_and_are_as_long_as_told(self) -> None:
        (x, y), model = next(noise().images.batches(24)), SMALL.build(SMALL.arch(CELLS[0]), 10, 8)
        before = [p.detach().clone() for p in model.parameters()]
        first = F.cross_entropy(model(x), y).item()
        descend(model, [(x, y)], 0.03)
        assert F.cross_entropy(model(x), y).item() < first
        lengths = [((p - b).norm() / b.norm()).item() for p, b in zip(model.parameters(), before, strict=True)]
        assert all(length == pytest.approx(0.03, rel=1e-3) for length in lengths if not math.isnan(length))


@pytest.mark.parametrize("name", list(SCORES))
class TestZeroCost:
    def test_conforms(self, name: str) -> None:
        evaluator = ZeroCost(name, SMALL, noise())
        archs = [SMALL.arch(genes) for genes in CELLS]
        case = OnCells()
        results = evaluator.evaluate(archs, 5)
        case.test_each_gets_its_result_in_order(evaluator, archs, results)
        case.test_a_score_does_not_depend_on_the_company(evaluator, archs, results)
        case.test_results_are_kept_as_json(results)
        case.test_no_score_for_search_has_seen_test_data(evaluator)
        if name not in ("params", "flops"):
            assert evaluator.evaluate(archs[:1], 6) != results[:1], "the seed makes no difference"


class TestTabular(EvaluatorCase):
    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls) -> Evaluator:
        if not TABLES.is_dir():
            pytest.skip("../shared/data/nas is not at hand")
        return Tabular(SMALL.tables, "cifar10_valid_12", TABLES)

    @pytest.fixture(scope="class")
    @classmethod
    def archs(cls) -> list[Arch]:
        return [SMALL.arch(genes) for genes in CELLS]


class TestLatency(OnCells):
    exact = False

    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls) -> Evaluator:
        return Latency(SMALL, image_size=8, repeats=3)

    def test_larger_networks_take_longer(self) -> None:
        wide = Nasbench201(cells=5, channels=32)
        heavy, light = (Latency(s, 16).evaluate([s.arch(CELLS[0])])[0].metrics["latency_ms"] for s in (wide, SMALL))
        assert heavy > 3 * light > 0


class TestTrained(OnCells):
    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls) -> Evaluator:
        return trained()

    def test_what_is_under_training_is_kept_and_gone_on_with(self, tmp_path: Path) -> None:
        arch, whole = SMALL.arch(CELLS[0]), trained(3)
        wanted = whole.evaluate([arch], 5)
        again = trained(3, tmp_path)
        assert [again.evaluate([arch], 5) for _ in range(2)] == [wanted] * 2
        files = list(tmp_path.iterdir())
        assert len(files) == 1
        files[0].write_bytes(b"damaged")
        assert "delete it" in str(again.evaluate([arch], 5)[0].error)

    def test_training_helps_and_a_ghn_may_give_the_start(self) -> None:
        arch = SMALL.arch(CELLS[0])
        images = SearchImages(noise(200).images, "train")
        losses = [
            Trained(SMALL, images, images, Schedule(epochs, 20, lr=0.1), start).evaluate([arch])[0].metrics["loss"]
            for epochs, start in ((1, None), (6, None), (1, hyper()))
        ]
        assert losses[1] < losses[0] - 0.1
        assert losses[2] != losses[0]

    def test_what_explodes_is_an_error(self) -> None:
        found = trained(2, lr=1e30).evaluate([SMALL.arch(CELLS[0])])[0]
        assert "lower lr" in str(found.error)


def trained(epochs: int = 1, folder: Path | None = None, lr: float = 0.025) -> Trained:
    part = SearchImages(noise(40).images, "train")
    return Trained(SMALL, part, noise(), Schedule(epochs, 16, lr), folder=folder)


class TestBlended(OnToys):
    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls) -> Evaluator:
        return Blended([Digits(), Constant("loss", 2.0)], [Toy().sample(Random(i)) for i in range(30)])

    def test_it_is_the_mean_standing_with_losses_turned(self, evaluator: Evaluator) -> None:
        sample = [Toy().sample(Random(i)) for i in range(40)]
        seen = [r.metrics for r in Digits().evaluate(sample) if r.error is None]
        own = Digits().evaluate(toys()[:1])[0].metrics
        places = [
            sum((row[name] < own[name]) + (row[name] == own[name]) / 2 for row in seen) / len(seen) for name in own
        ]
        blended = Blended([Digits()], sample)
        assert blended.evaluate(toys()[:1])[0].metrics["blend"] == pytest.approx(np.mean(places), abs=0.02)
        turned = Blended([Digits()], sample, lower=("total", "largest"))
        both = [e.evaluate(toys()[:1])[0].metrics["blend"] for e in (blended, turned)]
        assert sum(both) == pytest.approx(1)
        assert evaluator.evaluate(toys())[3].error == "the last digit is 3"

    def test_beyond_the_sample_values_still_differ(self) -> None:
        standing = Standing([1.0, 2.0, 2.0, 5.0])
        places = [standing.of(x) for x in (-50, 0, 1, 1.5, 2, 4, 5, 6, 500)]
        assert places == sorted(set(places))
        assert (standing.of(2), standing.of(1), standing.of(5)) == (0.5, 0.125, 0.875)
        assert 0 < places[0] < places[-1] < 1
        with pytest.raises(GHNError, match="hardly any of 1"):
            Blended([Digits()], toys()[:1])


class TestNeighborhood(OnToys):
    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls) -> Evaluator:
        return Neighborhood(Digits(), Toy(), 3)

    def test_is_the_mean_over_neighbours_and_charges_them(self) -> None:
        inner, arch = Digits(), toys()[0]
        whole = Neighborhood(inner, Toy(), None)
        found = whole.evaluate([arch])[0]
        ways = [a for a in Toy().neighbors(arch) if a.genes[-1] != 3]
        assert found.metrics["total"] == pytest.approx(np.mean([sum(a.genes) for a in (arch, *ways)]))
        assert found.cost.evaluations == 1 + len(Toy().neighbors(arch)) <= whole.price
        assert set(inner.calls[1:]) == {a.genes for a in Toy().neighbors(arch)}
        assert Neighborhood(Digits(), Toy(), 3, "min").evaluate([arch])[0].metrics != found.metrics


class TestJoined(OnToys):
    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls) -> Evaluator:
        return Joined([Digits(), Constant("speed", 2.0)])

    def test_metrics_and_costs_are_united(self, evaluator: Evaluator) -> None:
        found = evaluator.evaluate(toys())
        assert found[0].metrics == {"total": 7.0, "largest": 3.0, "speed": 2.0}
        assert found[0].cost.evaluations == evaluator.price == 1
        assert found[0].cost.images == 10
        assert found[3].error == "the last digit is 3"
        with pytest.raises(GHNError, match="same metric"):
            Joined([Digits(), Digits()])


class TestOnly(OnToys):
    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls) -> Evaluator:
        return Only(Digits(), "largest")

    def test_it_leaves_one_metric_at_the_same_cost(self, evaluator: Evaluator) -> None:
        found, whole = evaluator.evaluate(toys()), Digits().evaluate(toys())
        assert found[0].metrics == {"largest": whole[0].metrics["largest"]}
        assert [r.cost.images for r in found] == [r.cost.images for r in whole]
        assert (found[3].metrics, found[3].error) == ({}, "the last digit is 3")
        with pytest.raises(GHNError, match="gives total, largest, not 'speed'"):
            Only(Digits(), "speed")


class TestEnsemble(OnToys):
    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls) -> Evaluator:
        return Ensemble([Constant("speed", 2.0), Constant("speed", 4.0)])

    def test_is_the_mean(self, evaluator: Evaluator) -> None:
        assert [r.metrics for r in evaluator.evaluate(toys())] == [{"speed": 3.0}] * 4
        with pytest.raises(GHNError, match="the same metrics"):
            Ensemble([Digits(), Constant("speed", 1.0)])


class TestPartitioned(OnToys):
    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls) -> Evaluator:
        return Partitioned({"0": Constant("x", 0.0), "1": Constant("x", 1.0)}, lambda a: str(a.genes[0] % 2))

    def test_each_region_has_its_own(self, evaluator: Evaluator) -> None:
        assert [r.metrics["x"] for r in evaluator.evaluate(toys())] == [1.0, 0.0, 1.0, 0.0]
        with pytest.raises(GHNError, match="no evaluator for the region"):
            Partitioned({"0": Constant("x", 0.0)}, lambda a: "7").evaluate(toys())


class TestCalibrated(OnToys):
    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls) -> Evaluator:
        return Calibrated(Digits(), "total", [(0, 50.0), (6, 80.0), (12, 90.0), (9, 95.0)], "val")

    def test_scores_come_on_the_scale_of_the_labels(self, evaluator: Evaluator) -> None:
        assert evaluator.evaluate(toys())[0].metrics["total"] == pytest.approx(80 + 12.5 / 3)
        assert evaluator.evaluate([Toy().arch([3, 3, 3, 3, 2])])[0].metrics["total"] == 92.5  # beyond the labels
        with pytest.raises(GHNError, match="needs labels"):
            Calibrated(Digits(), "speed", [(0, 1.0)], "val")


class TestCascade(OnToys):
    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls) -> Evaluator:
        return Cascade(Constant("x", 1.0), Digits(), "x", 0.5)

    def test_what_is_below_the_threshold_is_not_looked_at_again(self) -> None:
        second = Digits()
        cascade = Cascade.above_quantile(Digits(), second, "largest", [*toys()[:3], Toy().arch([1, 0, 0, 0, 0])], 0.5)
        assert cascade.threshold == 3.0
        found = cascade.evaluate(toys())
        assert second.calls == [(1, 2, 3, 0, 1), (3, 3, 3, 3, 0)]
        assert found[1].error == "largest 2 is below 3"
        assert [r.cost.evaluations for r in found] == [2, 1, 2, 1]
        with pytest.raises(GHNError, match="not 'x'"):
            Cascade(Digits(), Digits(), "x", 0.0)


class Constant(Evaluator):
    """The same for all."""

    def __init__(self, metric: str, value: float) -> None:
        self.metrics, self.value, self.fingerprint = (metric,), value, fingerprint(metric, value=value)

    def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
        return {self.metrics[0]: self.value}, 0


class TestLearned(OnToys):
    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls) -> Evaluator:
        return Learned(Toy().encode, _labels(40), "val")

    def test_orders_what_it_never_saw_and_sees_what_its_labels_saw(self, evaluator: Evaluator) -> None:
        others = [arch for arch, _ in _labels(120)[40:]]
        scores = np.array([r.metrics["rank_score"] for r in evaluator.evaluate(others)])
        assert kendall(scores, np.array([sum(a.genes) for a in others])) > 0.8
        assert Learned(Toy().encode, _labels(40), "test").sees == {"test"}
        assert Learned(Toy().encode, _labels(40), "val").evaluate(toys()) == evaluator.evaluate(toys())
        with pytest.raises(GHNError, match="5 labelled architectures"):
            Learned(Toy().encode, _labels(3), "val")


class TestLearnedFromMetrics(OnToys):
    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls) -> Evaluator:
        return Learned(lambda arch: [], _labels(60), "val", inner=Digits())

    def test_it_stacks_metrics_and_learns_nothing_from_what_has_none(self, evaluator: Learned) -> None:
        failing = sum(arch.genes[-1] == 3 for arch, _ in _labels(60))
        assert evaluator.labels == 60 - failing < 60
        others = [arch for arch, _ in _labels(120)[60:] if arch.genes[-1] != 3]
        scores = np.array([r.metrics["rank_score"] for r in evaluator.evaluate(others)])
        assert kendall(scores, np.array([sum(a.genes) for a in others])) > 0.95, "one of the metrics is the truth"
        result = evaluator.evaluate(toys())[3]
        assert result.error == "the last digit is 3"
        assert evaluator.told == {arch.key for arch, _ in _labels(60)}
        assert Neighborhood(evaluator, Toy()).told == evaluator.told
        assert evaluator.evaluate(toys())[0].cost.images == 10


def _labels(count: int) -> list[tuple[Arch, float]]:
    archs = [Toy().sample(Random(i)) for i in range(count)]
    return [(arch, float(sum(arch.genes))) for arch in archs]


def test_the_ranking_loss_by_a_loop() -> None:
    rng = np.random.default_rng(0)
    scores, truth = rng.normal(size=7), rng.integers(0, 3, 7)
    pairs = [(i, j) for i in range(7) for j in range(7) if truth[i] != truth[j]]
    wanted = [math.log1p(math.exp(-(scores[i] - scores[j]) * np.sign(truth[i] - truth[j]))) for i, j in pairs]
    found = pairwise_loss(torch.from_numpy(scores), torch.from_numpy(truth))
    assert found.item() == pytest.approx(np.mean(wanted))
    assert pairwise_loss(torch.ones(3), torch.ones(3)).item() == 0


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12))
def test_isotonic_regression_is_the_nearest_increasing_sequence(values: list[float]) -> None:
    """By the min-max formula of Barlow et al. 1972: max over starts of min over ends of means."""
    n, found = len(values), isotonic(values)
    for i in range(n):
        wanted = max(min(np.mean(values[a : b + 1]) for b in range(i, n)) for a in range(i + 1))
        assert found[i] == pytest.approx(wanted, abs=1e-9)


def test_a_metric_that_is_no_number_is_an_error() -> None:
    found = checked(Constant("x", math.inf).evaluate(toys()[:1])[0])
    assert (found.metrics, found.error) == ({}, "x is inf")


# Zero-cost scores against slow loops, on a small cell and one with every operation.


def cell(genes: tuple[int, ...] = CELLS[0]) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    images = noise(10).images
    x, y = next(images.batches(10))
    return SMALL.build(SMALL.arch(genes), 10, 8).train(), x, y


def test_naswot_counts_units_in_the_same_state() -> None:
    """Mellor et al. 2021, equation 2, unit by unit, from what hooks on ReLU modules see."""
    model, x, y = cell()
    codes: list[torch.Tensor] = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda m, args, out: codes.append((args[0] > 0).flatten(1)))
    found = naswot(model, x, y)
    codes_NA = torch.cat(codes, 1)
    kernel = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        for j in range(len(x)):
            distance = int((codes_NA[i] != codes_NA[j]).sum())
            kernel[i, j] = codes_NA.shape[1] - distance
    assert found == pytest.approx(math.log(abs(np.linalg.det(kernel / 1000))) + len(x) * math.log(1000), rel=1e-6)


def test_naswot_does_not_mind_the_order_but_minds_a_copy() -> None:
    model, x, y = cell()
    order = torch.randperm(len(x))
    assert naswot(model, x[order], y) == pytest.approx(naswot(model, x, y), rel=1e-5)
    assert naswot(model, torch.cat([x, x[:1]]), y) < naswot(model, x, y) - 10
    assert naswot(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), x, y) == -math.inf  # nothing is rectified


def test_rectified_units_are_seen_however_they_are_called() -> None:
    class Calls(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(F.relu(nn.ReLU()(x).sub(1)).sub(1).relu()) + F.relu6(x)

    seen = rectified(Calls(), torch.randn(3, 5))
    assert [tuple(s.shape) for s in seen] == [(3, 5)] * 5


def test_synflow_is_the_same_in_every_layer_of_a_chain() -> None:
    """Tanaka et al. 2020: |w dR/dw| summed over a layer is conserved; here each layer's sum is R."""
    torch.manual_seed(0)
    widths = (12, 7, 9, 4)
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
    chain = nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    out = torch.ones(12, dtype=torch.float64)
    for layer in layers:
        out = layer.weight.detach().abs().double() @ out
    x = torch.randn(5, 3, 2, 2)
    assert synflow(chain, x, torch.zeros(5)) == pytest.approx(math.log(3 * out.sum().item()), rel=1e-9)


def test_gradient_scores_by_hand() -> None:
    """For one linear layer dL/dW = (p - onehot) x^T / B."""
    torch.manual_seed(0)
    layer = nn.Linear(12, 4, bias=False)
    x, y = torch.randn(6, 3, 2, 2), torch.tensor([0, 1, 2, 3, 0, 1])
    flat, w = x.flatten(1), layer.weight.detach()
    p = (flat @ w.T).softmax(1) - F.one_hot(y, 4)
    gradient = p.T @ flat / 6
    model = nn.Sequential(nn.Flatten(), layer)
    assert grad_norm(model, x, y) == pytest.approx(gradient.norm().item(), rel=1e-5)
    assert snip(model, x, y) == pytest.approx((w * gradient).abs().sum().item(), rel=1e-5)
    two = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 4))
    F.cross_entropy(two(x), y).backward()
    norms = [two[i].weight.grad.norm().item() for i in (1, 2)]
    assert grad_norm(two, x, y) == pytest.approx(sum(norms), rel=1e-5)


def test_jacov_by_a_loop() -> None:
    """Jacobians one image at a time (without norms, which mix images), correlations by numpy."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    x = next(noise(8).images.batches(8))[0]
    rows = []
    for image in x:
        one = image[None].clone().requires_grad_()
        model(one).sum().backward()
        rows.append(one.grad.flatten().double().numpy())
    values = np.linalg.eigvalsh(np.corrcoef(np.stack(rows))) + 1e-5
    assert jacov(model, x, torch.zeros(8)) == pytest.approx(-float((np.log(values) + 1 / values).sum()), rel=1e-3)


@needs_tables
def test_params_and_flops_are_the_tables() -> None:
    """At the benchmark's own size; its formula counts the layers of dead edges too, so cells without any."""
    full, images = make_space("nasbench201"), noise(4, 32)
    cells = [full.arch(genes) for genes in ((3, 1, 2, 4, 3, 1), (2, 3, 3, 1, 2, 4))]
    for name, column in (("params", "params_m_c10_formula"), ("flops", "macs_m_c10_formula")):
        table = Tabular(full.tables, column, TABLES)
        found = ZeroCost(name, full, images).evaluate(cells)
        for ours, theirs in zip(found, table.evaluate(cells), strict=True):
            assert ours.metrics[name] == pytest.approx(1e6 * theirs.metrics[column], rel=1e-3)
            assert ours.cost.images == 0
    assert OPS.index("nor_conv_3x3") == 3


# Statistics of logits, and which images there are.


@given(st.integers(2, 5), st.integers(0, 2**31 - 1))
def test_the_lead_is_what_the_loss_tends_to_at_a_high_temperature(classes: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(7, classes, generator=draw, dtype=torch.float64)
    labels = torch.randint(classes, (7,), generator=draw)
    hot = 1e5
    limit = hot * (math.log(classes) - F.cross_entropy(logits / hot, labels).item())
    assert statistics(logits, labels)["lead"] == pytest.approx(limit, abs=1e-3)


def test_one_confident_mistake_decides_the_loss_and_not_the_lead() -> None:
    """Of two networks, the one that is better on 99 images of 100, and very wrong on one."""
    labels = torch.zeros(100, dtype=torch.long)
    good, poor = (torch.tensor([[x, 0.0, 0.0]]).repeat(100, 1) for x in (2.0, 1.0))
    good[0] = torch.tensor([0.0, 99.0, 0.0])
    better, worse = statistics(good, labels), statistics(poor, labels)
    assert better["lead"] > worse["lead"]
    assert better["loss"] > worse["loss"]  # larger is worse


def test_margin_is_the_log_odds_to_the_best_other() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    found = statistics(logits, torch.tensor([0, 2]))
    assert found["accuracy"] == 0.5
    assert found["margin"] == pytest.approx((1.0 - 2.0) / 2)
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, torch.tensor([0, 2])).item())


def test_test_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no search may see"):
        SearchImages(load_sample(), "test")
    with pytest.raises(DataError, match="sees no test images"):
        SearchImages.load("anywhere", "test")
    with pytest.raises(DataError, match="train or val"):
        SearchImages(load_sample(), "all")
    monkeypatch.delenv("GHN_DATA", raising=False)
    with pytest.raises(DataError, match="full image set is needed"):  # never the packaged test images
        SearchImages.load(None)


@needs_images
def test_images_for_search_are_of_the_validation_part_and_balanced(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing reads the batch that tests."""
    from train.cifar import Cifar10

    asked: list[str] = []

    def watched(self: Cifar10, split: str, augmentation: str) -> Images:
        asked.append(split)  # decoding 40,000 images would take longer than all other tests here
        return load_sample()

    monkeypatch.setattr(Cifar10, "load", watched)
    images = SearchImages.load(IMAGES, count=50, side=16).images
    assert asked == ["val"]
    assert torch.bincount(images.labels).tolist() == [5] * 10
    assert (len(images), images.side) == (50, 16)
    assert torch.bincount(images.take(torch.arange(10)).labels).tolist() == [1] * 10  # also each batch


def test_too_few_images_of_a_class_are_told() -> None:
    with pytest.raises(DataError, match="need 11 of airplane; there are 10"):
        balanced(_ten_each(), 101)


def _ten_each() -> Images:
    sample = load_sample()
    return sample.take(torch.cat([torch.nonzero(sample.labels == c).flatten()[:10] for c in range(10)]))


def test_what_is_wrong_with_a_table_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GHN_TABLES", raising=False)
    with pytest.raises(DataError, match=r"nasbench201.parquet is needed.*--tables.*GHN_TABLES"):
        Tabular(SMALL.tables, "cifar10_valid_12")
    with pytest.raises(DataError, match=r"no nasbench201.parquet in"):
        Tabular(SMALL.tables, "cifar10_valid_12", tmp_path)
    with pytest.raises(DataError, match=r"no table of this space has 'nonsense'; known are cifar10_valid_12"):
        Tabular(SMALL.tables, "nonsense", tmp_path)
    (tmp_path / "nasbench201.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match="cannot be read as a table with the columns ops, cifar10_valid_12"):
        Tabular(SMALL.tables, "cifar10_valid_12", tmp_path)
    with pytest.raises(ModelError, match="no zero-cost score"):
        ZeroCost("nonsense", SMALL, noise())
    with pytest.raises(ModelError, match="needs images"):
        ZeroCost("naswot", SMALL, None)
