"""Recording: the shortcuts' shapes, the module left as it was, the ways of running it, and what is said on failure."""

import copy
import random
import time

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ghn.errors import TraceError
from ghn.primitives import Primitive
from ghn.tracing import capture, trace
from ghn.tracing.shapes import SHORTCUTS


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def assert_same_or_none(function, *args, **kwargs) -> bool:
    """The shortcut agrees with the function on meta tensors, or declines; it must decline where that raises."""
    ours = SHORTCUTS[function](*args, **kwargs)
    try:
        theirs = function(*args, **kwargs)
    except (RuntimeError, ValueError, AssertionError, IndexError):
        assert ours is None
        return False
    if ours is None:
        return False
    for a, b in zip(*((x if isinstance(x, tuple) else (x,)) for x in (ours, theirs)), strict=True):
        assert (a is None) == (b is None)
        assert a is None or (a.shape == b.shape and a.dtype == b.dtype)
    return True


def pairs(low: int, high: int):
    return st.one_of(st.integers(low, high), st.tuples(st.integers(low, high), st.integers(low, high)))


@settings(max_examples=60)
@given(
    side=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=pairs(1, 3),
    padding=st.one_of(pairs(0, 2), st.sampled_from(["same", "valid"])),
    dilation=pairs(1, 2),
    groups=st.integers(1, 3),
    extra=st.integers(0, 1),
    bias=st.sampled_from([None, 6, 5]),
)
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_convolution(side, kernel, stride, padding, dilation, groups, extra, bias):
    x, weight = meta(2, 2 * groups + extra, *side), meta(6, 2, *kernel)
    bias = None if bias is None else meta(bias)
    assert_same_or_none(torch.conv2d, x, weight, bias, stride, padding, dilation, groups)


@settings(max_examples=60)
@given(
    side=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=pairs(1, 4),
    stride=st.one_of(st.none(), pairs(1, 3)),
    padding=pairs(0, 2),
    ceil=st.booleans(),
)
def test_pools(side, kernel, stride, padding, ceil):
    x = meta(2, 3, *side)
    assert_same_or_none(F.max_pool2d, x, kernel, stride, padding, 1, ceil)
    assert_same_or_none(F.avg_pool2d, x, kernel, stride, padding, ceil)
    assert_same_or_none(F.adaptive_avg_pool2d, x, kernel)


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (F.batch_norm, (meta(2, 4, 5, 5), meta(4), meta(4), meta(4), meta(4)), {}),
        (F.batch_norm, (meta(2, 4), None, None, meta(4)), {"training": True}),
        (F.linear, (meta(2, 7, 4), meta(5, 4), meta(5)), {}),
        (F.linear, (meta(4), meta(5, 4)), {}),
        (F.layer_norm, (meta(2, 7, 4), (7, 4), meta(7, 4)), {}),
        (F.layer_norm, (meta(2, 4), [4]), {"eps": 1e-6}),
        (F.scaled_dot_product_attention, (meta(2, 3, 5, 8), meta(2, 3, 7, 8), meta(2, 3, 7, 6)), {}),
        (F.softmax, (meta(2, 5), -1), {}),
        (F.dropout, (meta(2, 5),), {"p": 0.2, "training": True}),
        (F.leaky_relu, (meta(2, 5), 0.2), {}),
        (F.gelu, (meta(2, 5),), {"approximate": "tanh"}),
        (torch.cat, ([meta(2, 5), meta(2, 3)], -1), {}),
        (torch.cat, ((meta(2, 5), meta(4, 5)),), {}),
        (torch.cat, ([meta(2, 5), meta(3, 5)],), {"dim": 0}),
    ],
)
def test_other_shortcuts(function, args, kwargs):
    assert assert_same_or_none(function, *args, **kwargs)


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (F.batch_norm, (meta(2, 4, 5, 5), meta(5), meta(5))),
        (F.linear, (meta(2, 7), meta(5, 4))),
        (F.linear, (meta(2, 4), meta(5, 4), meta(4))),
        (F.layer_norm, (meta(2, 7), (4,))),
        (F.scaled_dot_product_attention, (meta(2, 5, 8), meta(2, 7, 8), meta(2, 6, 8))),
        (torch.cat, ([meta(2, 5), meta(3, 4)],)),
        (torch.cat, ([meta(2, 5), meta(2, 5)], 2)),
    ],
)
def test_shortcuts_leave_wrong_shapes_to_torch(function, args):
    assert not assert_same_or_none(function, *args)


@pytest.mark.parametrize("weights", [(True, True), (True, False), (False, True)])
def test_multihead_shortcut(weights):
    need, average = weights
    x = meta(5, 2, 8)
    positional = (x, x, x, 8, 2, meta(24, 8), meta(24), None, None, False, 0.0, meta(8, 8), meta(8))
    named = {"training": False, "need_weights": need, "average_attn_weights": average}
    assert assert_same_or_none(F.multi_head_attention_forward, *positional, **named)


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}, {"batch_first": True}])
def test_recurrent_layers_are_not_unrolled(cell, options):
    layer = cell(4, 6, **options, device="meta")
    x = meta(3, 5, 4)
    out, _ = layer(x)

    class Checked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = layer, nn.Linear(out.shape[-1], 2, device="meta")

        def forward(self, x):
            y, state = self.layer(x)
            assert y.shape == out.shape
            for s in state if isinstance(state, tuple) else (state,):
                assert s.shape[1:] == (3 if options.get("batch_first") else x.shape[1], 6)
            return self.head(y)

    graph = trace(Checked(), x)
    assert {s.fqn for s in graph.slots} == {n for n, _ in Checked().named_parameters()}
    start = time.process_time()
    trace(layer, meta(9999, 9999, 4))
    assert time.process_time() - start < 1


@pytest.mark.parametrize("function", [F.relu, F.relu6, F.silu, F.hardswish, F.hardsigmoid, F.leaky_relu, F.elu, F.mish])
def test_activations_in_place_return_their_input(function):
    x = meta(2, 3)
    assert SHORTCUTS[function](x, inplace=True) is x
    assert SHORTCUTS[function](x).shape == x.shape


class Everything(nn.Module):
    """State of every sort: buffers, a plain tensor, caches, a recurrent layer, hidden flags, random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.rnn = nn.GRU(4, 4, batch_first=True)
        self.drop = nn.Dropout()
        self.head = nn.Linear(4, 2)
        self.plain = torch.ones(4)
        self.cache: dict = {}
        self.seen: list = []

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.conv(x)))
        x, self.last = self.rnn(x.flatten(2).transpose(1, 2))
        self.cache[len(self.cache)] = x
        self.seen.append(x)
        return self.head(x.mean(1) * self.plain + torch.rand(4) * random.random())


def snapshot(model: nn.Module) -> list:
    found = []
    for name, module in model.named_modules():
        entries = {k: v for k, v in vars(module).items() if k not in ("_parameters", "_buffers", "_modules")}
        found.append(
            (name, {k: (id(v), copy.copy(v)) if isinstance(v, dict | list) else v for k, v in entries.items()})
        )
        found += [
            (name, k, id(t), t.clone()) for k, t in (module._parameters | module._buffers).items() if t is not None
        ]
    return found


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.device == b.device and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a is b or a == b


class Broken(Everything):
    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        raise KeyError("no such thing")


class Asking(Everything):
    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out * 2 if out.sum().item() > 0 else out * 3


@pytest.mark.parametrize("kind", [Everything, Broken, Asking])
@pytest.mark.parametrize("training", [True, False])
def test_the_module_is_given_back_as_it_was(kind, training):
    model = kind()
    model.norm.train(training)
    before, states = snapshot(model), (torch.get_rng_state(), random.getstate())
    if kind is Broken:
        with pytest.raises(TraceError, match="KeyError"):
            trace(model, image_size=6)
    else:
        assert "conv.weight" in [s.fqn for s in trace(model, image_size=6).slots]
    assert same(snapshot(model), before)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert not hasattr(model, "last")


class Branching(nn.Module):
    """Asks for a number of the data: neither meta nor fake tensors have one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x) if float(x.abs().sum()) >= 0 else x


class Counting(nn.Module):
    """Asks for a number that fake tensors remember: a constant that the code made itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        times = torch.tensor([2]).item()
        return self.a(x) * times


@pytest.mark.parametrize("kind", [Branching, Counting])
def test_numbers_asked_for_are_found(kind):
    model = kind()
    graph = trace(model, image_size=12)
    assert not graph.uncovered
    assert [Primitive(o).label for o in graph.ops] == ["input", "conv", "bias"] + ["conv", "bias"] * (kind is Branching)


def test_no_kernel_runs_on_the_module_s_own_numbers():
    """A trace takes no time that grows with the image."""
    model = nn.Sequential(*[nn.Conv2d(16, 16, 3, padding=1) for _ in range(8)])
    trace(model, torch.empty(1, 16, 8, 8))
    start = time.process_time()
    trace(model, meta(64, 16, 512, 512))
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 4)), 4),  # MNIST's size
        (nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 30 * 30, 4)), 4),  # CIFAR's
        (nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 2, 3)), 2),
        (nn.Sequential(nn.Linear(7, 4), nn.ReLU(), nn.Linear(4, 2)), 4),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)), 2),
    ],
)
def test_inputs_are_guessed(model, found):
    assert len(trace(model).slots) == found


def test_the_model_may_know_its_input():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 8 * 8, 4))
    with pytest.raises(TraceError):
        trace(model)
    model.expected_input_sz = 10
    assert len(trace(model).slots) == 4
    model.expected_input_sz = (3, 6, 18)
    assert len(trace(model).slots) == 4
    model.expected_input_sz = (3, 5, 18)
    with pytest.raises(TraceError):
        trace(model)


class Words(nn.Module):
    """A network of token ids that says so, in the words of transformers."""

    def __init__(self, main: str | None) -> None:
        super().__init__()
        if main is not None:
            self.main_input_name = main
        self.embed = nn.Embedding(9, 4)
        self.stem = nn.Conv2d(3, 4, 1)

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        return {"input_ids": torch.zeros(1, 5, dtype=torch.long)}

    def forward(self, pixel_values: Tensor | None = None, input_ids: Tensor | None = None) -> Tensor:
        return self.embed(input_ids) if input_ids is not None else self.stem(pixel_values)


@pytest.mark.parametrize(
    ("main", "seen"), [(None, "embed.weight"), ("input_ids", "embed.weight"), ("pixel_values", "stem.weight")]
)
def test_the_model_may_bring_its_own_inputs(main, seen):
    assert trace(Words(main)).names[1] == seen
    image = torch.empty(1, 3, 8, 8)
    assert trace(Words(main), image).names[1] == "stem.weight"


def test_half_precision_and_meta_modules():
    assert len(trace(nn.Conv2d(3, 4, 3).half())) == 3
    with torch.device("meta"):
        model = nn.Conv2d(3, 4, 3)
    assert len(trace(model)) == 3


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.complex64])
def test_what_is_no_real_number_is_left_alone(dtype):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    model[0].levels = nn.Parameter(torch.zeros(3, dtype=dtype), requires_grad=False)
    graph = trace(model)
    assert [s.fqn for s in graph.slots] == ["0.weight", "0.bias"]
    (left,) = graph.uncovered
    assert (left.fqn, left.used) == ("0.levels", False)
    assert left.reason.startswith(f"left as it is: {dtype}")


def test_frozen_parts_are_left_alone_but_a_frozen_network_is_not():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    model[0].requires_grad_(False)
    graph = trace(model)
    assert [s.fqn for s in graph.slots] == ["1.weight", "1.bias"]
    assert [(u.fqn, u.used) for u in graph.uncovered] == [("0.weight", False), ("0.bias", False)]
    assert all("frozen" in u.reason for u in graph.uncovered)
    assert len(graph) == 5  # they are a part of the architecture
    assert not trace(model.requires_grad_(False)).uncovered


def test_what_does_not_fit_into_memory_twice_is_not_run_for_real(monkeypatch):
    monkeypatch.setattr(capture, "LARGEST", 4)
    with pytest.raises(TraceError, match="Branching"):
        trace(Branching(), image_size=12)


def test_lazy_parameter_is_named():
    with pytest.raises(TraceError, match=r"'1\.weight' has no shape yet"):
        trace(nn.Sequential(nn.Flatten(), nn.LazyLinear(4)))


def test_failure_names_the_model_the_module_and_the_reason():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Flatten(), nn.Linear(5, 2)))
    with pytest.raises(TraceError) as caught:
        trace(model, image_size=8)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("Sequential", "'1.1'", "shapes cannot be multiplied", "pass example_input"):
        assert part in message
