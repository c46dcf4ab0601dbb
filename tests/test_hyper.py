"""Hypernet: what predict, init and embed promise, on networks small enough to see whole."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from strategies import reordered
from torch import Tensor, nn
from torch.nn import functional as F

import ghn
from ghn.errors import CoverageError, GraphError, ModelError
from ghn.hyper import BN_CAVEAT
from ghn.model import GHNConfig


class Residual(nn.Module):
    """Convolutions, a residual sum, tied convolutions, layer norm, pooling, a classifier."""

    def __init__(self, width: int = 12, classes: int = 7) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.left = nn.Conv2d(width, width, 3, padding=1)
        self.right = nn.Conv2d(width, width, 3, padding=1)
        self.right.weight = self.left.weight
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = x + self.right(F.relu(self.left(x)))
        return self.head(self.norm(x.mean((2, 3))))


class Powered(nn.Module):
    """A learned exponent, which no rule covers, and a layer that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.power = nn.Parameter(torch.ones(8))
        self.head = nn.Linear(8, 7)
        self.idle = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((2, 3)).abs() ** self.power)


@pytest.fixture(scope="module")
def hyper() -> ghn.Hypernet:
    config = GHNConfig(num_classes=7, hid=8, max_shape=(16, 16, 5, 5))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return ghn.Hypernet(ghn.GHN(config), {"name": "test"}, 32, tuple("abcdefg"))


def content(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_predict_leaves_everything_as_it_was(hyper: ghn.Hypernet) -> None:
    model = Residual().train()
    model.bn.eval()
    before, flags = content(model), [m.training for m in model.modules()]
    values = [id(p) for p in model.parameters()]
    random_state, own = torch.get_rng_state(), content(hyper.model)
    weights, _ = hyper.predict(model)
    for value in weights.values():
        value.zero_()
    assert_equal(content(model), before)
    assert_equal(content(hyper.model), own)
    assert [m.training for m in model.modules()] == flags
    assert [id(p) for p in model.parameters()] == values
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_predict_gives_every_parameter_its_own_memory(hyper: ghn.Hypernet) -> None:
    model = Residual()
    weights, _ = hyper.predict(model)
    assert {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in model.named_parameters()}
    assert all(w.dtype == torch.float32 and not w.requires_grad and w.isfinite().all() for w in weights.values())
    copies = {k: v.clone() for k, v in weights.items()}
    weights["stem.weight"].fill_(9)
    del copies["stem.weight"], weights["stem.weight"]
    assert_equal(weights, copies)


def test_predict_is_what_the_ghn_itself_gives(hyper: ghn.Hypernet) -> None:
    graph = ghn.trace(Residual())
    with torch.no_grad():
        (expected,) = hyper.model(hyper.model.collate([graph]))
    assert_equal(hyper.predict(graph=graph)[0], expected)


def test_a_given_graph_changes_nothing(hyper: ghn.Hypernet) -> None:
    model = Residual()
    graph = ghn.trace(model)
    first, _ = hyper.predict(model)
    assert_equal(hyper.predict(graph=graph)[0], first)
    assert_equal(hyper.predict(model, graph=graph)[0], first)
    assert_equal(dict(hyper.init(Residual(), graph=graph).named_parameters()), first)
    assert torch.equal(hyper.embed(model, graph=graph), hyper.embed(model))


def test_init_is_predict_written_into_the_model(hyper: ghn.Hypernet) -> None:
    model = Residual()
    buffers = {k: v.clone() for k, v in model.named_buffers()}
    values = [id(p) for p in model.parameters()]
    weights, _ = hyper.predict(model)
    assert hyper.init(model) is model
    assert_equal(dict(model.named_parameters()), weights)
    assert_equal(dict(model.named_buffers()), buffers)
    assert [id(p) for p in model.parameters()] == values
    assert model.right.weight is model.left.weight
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model.eval()
    torch.testing.assert_close(model(x), ghn.functional(model, weights, x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_init_keeps_the_dtype(hyper: ghn.Hypernet, dtype: torch.dtype) -> None:
    weights, _ = hyper.predict(Residual())
    model = hyper.init(Residual().to(dtype))
    assert_equal(dict(model.named_parameters()), {k: v.to(dtype) for k, v in weights.items()})


def test_init_keeps_the_memory_layout(hyper: ghn.Hypernet) -> None:
    weights, _ = hyper.predict(Residual())
    model = Residual().to(memory_format=torch.channels_last)
    model.head.weight = nn.Parameter(torch.empty(12, 7).t())  # a transposed view
    strides = {k: p.stride() for k, p in model.named_parameters()}
    assert not model.left.weight.is_contiguous()
    hyper.init(model)
    assert_equal(dict(model.named_parameters()), weights)
    assert {k: p.stride() for k, p in model.named_parameters()} == strides


def test_init_reaches_frozen_parameters(hyper: ghn.Hypernet) -> None:
    model = Residual().requires_grad_(False)
    assert_equal(dict(hyper.init(model).named_parameters()), hyper.predict(Residual())[0])
    assert not any(p.requires_grad for p in model.parameters())


def test_predict_needs_no_memory_of_the_model(hyper: ghn.Hypernet) -> None:
    with torch.device("meta"):
        model = Residual()
    assert_equal(hyper.predict(model)[0], hyper.predict(Residual())[0])
    with pytest.raises(ModelError, match=r"'stem.weight' is on the meta device"):
        hyper.init(model)


def test_strict_names_the_parameter_and_changes_nothing(hyper: ghn.Hypernet) -> None:
    model = Powered()
    before = content(model)
    for call in (hyper.predict, hyper.init):
        with pytest.raises(CoverageError, match=r"power \[8\] .*`pow`.*strict=False") as caught:
            call(model)
        assert "idle" not in str(caught.value)
    assert_equal(content(model), before)


def test_partial_prediction_reports_the_rest(hyper: ghn.Hypernet) -> None:
    model = Powered()
    weights, report = hyper.predict(model, strict=False)
    rest = {u.fqn: u for u in report.skipped}
    assert rest.keys() == {n for n, _ in model.named_parameters() if n.startswith(("power", "idle"))}
    assert weights.keys() == set(report.predicted) == {n for n, _ in model.named_parameters()} - rest.keys()
    assert rest["power"].used
    assert not rest["idle.weight"].used
    assert "not predicted: idle.bias [2]" in str(report)
    before = content(model)
    hyper.init(model, strict=False)
    for name in rest:
        assert torch.equal(model.state_dict()[name], before[name])
    for name in weights:
        assert torch.equal(model.state_dict()[name], weights[name])


def test_unused_parameters_alone_are_no_error(hyper: ghn.Hypernet) -> None:
    model = Residual()
    model.idle = nn.Linear(3, 3)
    _, report = hyper.predict(model)
    assert [u.fqn for u in report.skipped] == ["idle.weight", "idle.bias"]


def test_report(hyper: ghn.Hypernet) -> None:
    model = Residual()
    graph = ghn.trace(model)
    _, report = hyper.predict(model)
    assert set(report.predicted) == {n for n, _ in model.named_parameters()}
    assert report.num_params == sum(p.numel() for p in model.parameters())
    assert report.nodes == len(graph)
    assert set(report.seconds) == {"graph", "propagation", "decoding", "writing"}
    assert all(s >= 0 for s in report.seconds.values())
    assert report.notes == (BN_CAVEAT,)
    assert report.skipped == ()
    data = report.to_dict()
    assert data["predicted"] == list(report.predicted)
    assert data["num_params"] == report.num_params
    assert f"{report.num_params:,} numbers" in str(report)


def test_report_says_nothing_of_batch_norm_where_there_is_none(hyper: ghn.Hypernet) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 7))
    assert hyper.predict(model)[1].notes == ()


def test_embedding(hyper: ghn.Hypernet) -> None:
    model = Residual()
    graph = ghn.trace(model)
    vector = hyper.embed(model)
    assert vector.shape == (8,)
    assert not vector.requires_grad
    other = Residual()
    assert torch.equal(hyper.embed(other), vector)  # weights play no part
    for seed in range(5):
        again = hyper.embed(model, graph=_reordered(graph, seed))
        torch.testing.assert_close(again, vector, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(hyper.embed(Residual(width=20)), vector)
    assert hyper.embed(Powered()).shape == (8,)  # needs no coverage


def _reordered(graph: ghn.ArchGraph, seed: int) -> ghn.ArchGraph:
    return reordered(graph, np.random.default_rng(seed))


def test_the_graph_of_another_model_is_refused(hyper: ghn.Hypernet) -> None:
    model = Residual(width=20)
    before = content(model)
    with pytest.raises(GraphError, match=r"not that of this Residual: .*'stem.weight' \[12, 3, 3, 3\] has shape \[20"):
        hyper.init(model, graph=ghn.trace(Residual()))
    with pytest.raises(GraphError, match=r"'stem.weight' .* is not there; trace the model again"):
        hyper.init(Powered(), graph=ghn.trace(Residual()))
    assert_equal(content(model), before)


def test_neither_model_nor_graph_is_an_error(hyper: ghn.Hypernet) -> None:
    with pytest.raises(ValueError, match="a model or a graph"):
        hyper.predict()


def test_untrained_is_reproducible_and_draws_from_no_one(hyper: ghn.Hypernet) -> None:
    before, own = torch.get_rng_state(), content(hyper.model)
    first, second, other = hyper.untrained(5), hyper.untrained(5), hyper.untrained(6)
    assert torch.equal(torch.get_rng_state(), before)
    assert_equal(content(first.model), content(second.model))
    assert not torch.equal(first.model.embed.weight, other.model.embed.weight)
    assert_equal(content(hyper.model), own)
    assert first.model.config == hyper.model.config
    assert (first.image_size, first.classes) == (hyper.image_size, hyper.classes)
    assert first.card["name"] == "untrained"


def test_predicted_weights_can_be_saved(hyper: ghn.Hypernet, tmp_path: object) -> None:
    weights, _ = hyper.predict(Residual())
    save_file(weights, f"{tmp_path}/weights.safetensors")
    assert_equal(load_file(f"{tmp_path}/weights.safetensors"), weights)


def test_models_can_be_copied_after_init(hyper: ghn.Hypernet) -> None:
    model = hyper.init(Residual())
    assert_equal(content(copy.deepcopy(model)), content(model))
