"""Layers beyond the usual: recurrent ones, weights in other orders, norms written out, layers of the user's own."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_trace_modules import IMAGE, Net, check, conv, edges, ops, param, roles, traced, uncovered
from torch import nn

import ghn
from ghn.axes import as_stored, outputs_first
from ghn.errors import CoverageError, TraceError
from ghn.graph import ArchGraph
from ghn.primitives import Role
from ghn.tracing import Kind, Rule, register, trace
from ghn.tracing.rules import RULES


def slots(graph: ArchGraph) -> dict[str, ghn.ParamSlot]:
    return {s.fqn: s for s in graph.slots}


# Recurrent layers


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layer_is_its_first_step(cell):
    graph = traced(lambda m, x: m.fc(m.rnn(x)[0]), rnn=cell(8, 4, batch_first=True), fc=nn.Linear(4, 2))
    assert edges(graph) == {
        ("input", "rnn.weight_ih_l0"),
        ("rnn.weight_ih_l0", "rnn.bias_ih_l0"),
        ("rnn.bias_ih_l0", "rnn.weight_hh_l0"),
        ("rnn.weight_hh_l0", "rnn.bias_hh_l0"),
        ("rnn.bias_hh_l0", "rnn.sum"),
        ("rnn.bias_ih_l0", "rnn.sum"),
        ("rnn.sum", "fc.weight"),
        ("fc.weight", "fc.bias"),
    }
    assert not graph.uncovered


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.LSTM(8, 4, 2, bidirectional=True), {"conv": 8, "bias": 8, "sum": 4, "concat": 2}),
        (nn.LSTM(8, 4, proj_size=3), {"conv": 3, "bias": 2, "sum": 1}),
        (nn.GRU(8, 4, bias=False), {"conv": 2, "sum": 1}),
    ],
)
def test_layers_directions_and_projections(layer, expected):
    graph = traced(lambda m, x: m.layer(x)[0], layer=layer)
    assert {op: ops(graph).count(op) for op in set(ops(graph)) - {"input"}} == expected
    assert len(graph.slots) == len(list(layer.parameters()))


def test_packed_sequence():
    def forward(m, x):
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([6, 6]), batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(m.rnn(packed)[0])[0]

    assert len(traced(forward, rnn=nn.LSTM(8, 4)).slots) == 4


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cell_in_a_loop(cell):
    def forward(m, x):
        state = None
        for t in range(2):
            state = m.cell(x[:, t], state)
        return m.fc(state[0] if isinstance(state, tuple) else state)

    graph = traced(forward, cell=cell(8, 4), fc=nn.Linear(4, 2))
    assert not graph.uncovered
    first, second = (i for i, op in enumerate(ops(graph)) if op == "sum")  # one a step
    assert graph.distances[first, second] == 3  # through the weight of the state and its bias


# Weights in other orders


@pytest.mark.parametrize(
    ("forward", "shape", "axes", "first"),
    [
        (lambda m, x: x @ m.w, (8, 5), "io", (5, 8)),
        (lambda m, x: F.linear(x, m.w.t()), (8, 5), "io", (5, 8)),
        (lambda m, x: x @ m.w.t(), (5, 8), "", (5, 8)),
        (lambda m, x: F.linear(x, m.w.t()), (8, 8), "io", (8, 8)),
        (lambda m, x: m.w @ x.transpose(1, 2), (5, 8), "", (5, 8)),
        (lambda m, x: torch.addmm(x.new_zeros(5), x[0], m.w), (8, 5), "io", (5, 8)),
        (lambda m, x: torch.einsum("btd,dhk->bthk", x, m.w), (8, 2, 3), "ioo", (6, 8)),
        (lambda m, x: torch.einsum("hkd,bthk->btd", m.w, x.unflatten(2, (2, 4))), (2, 4, 3), "iio", (3, 8)),
        (lambda m, x: torch.bmm(x, m.w), (2, 8, 5), "oio", (10, 8)),
        (lambda m, x: x @ m.w.flatten(1), (8, 2, 3), "ioo", (6, 8)),
        (lambda m, x: F.linear(x, m.w[1]), (3, 5, 8), "ooi", (15, 8)),
        (lambda m, x: F.linear(x, m.w.chunk(3)[1]), (15, 8), "", (15, 8)),
    ],
)
def test_fan_in_is_what_the_layer_sums_over(forward, shape, axes, first):
    graph = traced(forward, w=param(*shape))
    slot = slots(graph)["w"]
    assert slot.role in (Role.WEIGHT, Role.CLASSIFIER_WEIGHT)
    assert (slot.axes, slot.outputs_first, slot.fan_in) == (axes, first, 8)
    assert graph.shapes[slot.node].tolist() == [*first, 1, 1]
    assert ArchGraph.from_json(graph.to_json()) == graph


@pytest.mark.parametrize(
    ("layer", "axes", "fan_in"),
    [
        (nn.ConvTranspose2d(4, 6, 3), "iokk", 36),
        (nn.ConvTranspose2d(4, 4, 3, groups=4), "ookk", 9),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), "iokk/2", 18),
        (nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last), "", 36),
        (nn.Conv2d(4, 4, 3, groups=4), "", 9),
    ],
)
def test_fan_in_of_convolutions(layer, axes, fan_in):
    slot = slots(traced(lambda m, x: m.layer(x), IMAGE, layer=layer))["layer.weight"]
    assert (slot.axes, slot.fan_in) == (axes, fan_in)


@pytest.mark.parametrize(("shape", "axes"), [((8, 5), "io"), ((2, 8, 5), "oio"), ((4, 3, 2, 2), "iokk"), ((5, 8), "")])
def test_stored_order_is_the_inverse(shape, axes):
    stored = torch.arange(math.prod(shape)).view(shape)
    order = sorted(range(len(shape)), key=lambda d: "oik".index((axes or "oi")[d]))
    assert torch.equal(as_stored(stored.permute(order).reshape(outputs_first(shape, axes)), shape, axes), stored)


@pytest.mark.parametrize("groups", [2, 3])
def test_a_transposed_convolution_in_groups_is_stored_as_it_sums(groups):
    """What is decoded as (out, in, *kernel) has the same outputs and inputs in the layer."""
    layer = nn.ConvTranspose2d(12, 6, 3, groups=groups, bias=False)
    slot = slots(traced(lambda m, x: m.layer(x), torch.rand(1, 12, 4, 4), layer=layer))["layer.weight"]
    assert slot.outputs_first == (6, 12 // groups, 3, 3)
    weight = torch.rand(slot.outputs_first)
    stored = as_stored(weight, slot.shape, slot.axes)
    assert stored.is_contiguous()
    x = torch.rand(1, 12, 4, 4)
    # Seen as a map of channels alone, at the kernel's corner, it is the grouped convolution with the same numbers.
    corner = torch.zeros_like(stored)
    corner[..., 0, 0] = stored[..., 0, 0]
    expected = F.conv2d(x, weight[..., :1, :1], groups=groups)
    assert torch.allclose(F.conv_transpose2d(x, corner, groups=groups)[..., :4, :4], expected, atol=1e-6)


def test_a_layer_written_either_way_gets_the_same_weights() -> None:
    hyper = ghn.load("ghn2-cifar10")
    product = Net(lambda m, x: m.b(x @ m.w), w=param(8, 100), b=nn.Linear(100, 10))
    linear = Net(lambda m, x: m.b(m.a(x)), a=nn.Linear(8, 100, bias=False), b=nn.Linear(100, 10))
    given, usual = (hyper.predict(m, example_input=IMAGE)[0] for m in (product, linear))
    assert torch.equal(given["w"], usual["a.weight"].t())
    assert given["w"].is_contiguous()
    assert torch.equal(hyper.init(product, example_input=IMAGE).w, given["w"])


# Norms written out


def rms(m, x):
    return m.g * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def standardised(m, x):
    centred = x - x.mean(1, keepdim=True)
    x = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)
    return m.g[:, None, None] * x + m.b[:, None, None]


def by_its_deviation(m, x):
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6) * m.g + m.b


@pytest.mark.parametrize(("norm", "size"), [(rms, 8), (standardised, 4), (by_its_deviation, 8)])
def test_norm_written_out(norm, size):
    parts = {"g": param(size)} | ({} if norm is rms else {"b": param(size)})
    graph = traced(lambda m, x: norm(m, m.conv(x)), IMAGE, conv=conv(), **parts)
    assert edges(graph) == {("input", "conv.weight"), ("conv.weight", "g")}
    assert ops(graph)[-1] == "ln"
    assert roles(graph)["g"] is Role.NORM_WEIGHT
    assert norm is rms or roles(graph)["b"] is Role.NORM_BIAS


def test_norm_whose_weight_is_an_offset_from_one():
    def forward(m, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True)) * (1.0 + m.g)

    assert roles(traced(forward, g=param(8))) == {"g": Role.NORM_BIAS}


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: torch.relu(x / x.norm(dim=-1, keepdim=True)) * m.g,
        lambda m, x: x / m.other(x).std(-1, keepdim=True) * m.g,
        lambda m, x: x / x.sqrt() * m.g,
    ],
)
def test_other_scaled_features_are_no_norm(forward):
    assert roles(traced(forward, IMAGE, g=param(8), other=conv()))["g"] is Role.SCALE


def test_an_offset_stays_one_whatever_is_multiplied_later():
    graph = traced(lambda m, x: (m.a(x) + m.t) * 0.5, IMAGE, a=conv(), t=param(1, 4, 1, 1))
    assert roles(graph)["t"] is Role.OFFSET


def test_threshold_is_an_offset():
    graph = traced(lambda m, x: torch.maximum(m.a(x), m.t), IMAGE, a=conv(), t=param(1, 4, 1, 1))
    assert roles(graph)["t"] is Role.OFFSET


# Layers of the user's own


class Scan(nn.Module):
    """A layer that no rule sees through."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.shift, self.decay = param(5, 8), param(5), param(5)
        self.inner = nn.LayerNorm(5)

    def forward(self, x: torch.Tensor, *, gain: float = 1.0) -> torch.Tensor:
        return self.inner(torch.expm1(x @ self.kernel.t() + self.shift) ** self.decay.cumsum(0) * gain)


class Derived(Scan):
    """What is derived from a registered layer is one too."""


ROLES = {
    "kernel": Role.WEIGHT,
    "shift": Role.BIAS,
    "decay": Role.SCALE,
    "inner.weight": Role.NORM_WEIGHT,
    "inner.bias": Role.NORM_BIAS,
}


@pytest.fixture
def registered():
    register(Scan, ROLES)
    yield
    del RULES[Scan]


def network() -> Net:
    def forward(m, x):
        return m.head(m.b(m.a(x, gain=2.0)[..., :1].expand(-1, -1, 8)))

    return Net(forward, a=Scan(), b=Derived(), head=nn.Linear(5, 2))


def test_unregistered_layer_is_refused_by_name_and_way_out() -> None:
    hyper, x = ghn.load("ghn2-cifar10"), torch.zeros(2, 6, 8)
    with pytest.raises(CoverageError) as caught:
        hyper.predict(network(), example_input=x)
    for part in ("a.decay [5]", "`cumsum`", "`pow`", "in module 'a'", "ghn.register(", "strict=False"):
        assert part in str(caught.value)
    _, report = hyper.predict(network(), example_input=x, strict=False)
    assert [u.fqn for u in report.skipped] == ["a.decay", "b.decay"]


@pytest.mark.usefixtures("registered")
def test_registered_layer_is_one_call() -> None:
    model = network()
    graph = trace(model, torch.zeros(2, 6, 8))
    check(graph, model)
    assert not graph.uncovered
    assert {k[2:]: r for k, r in roles(graph).items() if k.startswith("b.")} == ROLES
    chain = ["input", "a.kernel", "a.shift", "a.inner.weight", "b.kernel", "b.shift", "b.inner.weight", "head.weight"]
    assert edges(graph) == set(zip(chain, [*chain[1:], "head.bias"], strict=True))


@pytest.mark.usefixtures("registered")
def test_parameters_that_the_registration_does_not_name_are_refused() -> None:
    register(Derived, {"kernel": Role.WEIGHT})
    try:
        graph = trace(network(), torch.zeros(2, 6, 8))
    finally:
        del RULES[Derived]
    assert {u.fqn for u in graph.uncovered} == {"b.shift", "b.decay", "b.inner.weight", "b.inner.bias"}
    assert all(u.used and "`Derived`" in u.reason for u in graph.uncovered)


@pytest.mark.parametrize(
    ("layer", "rule", "message"),
    [
        (torch.relu, {"w": Role.WEIGHT}, "no nn.Module class"),
        (Scan, {"kernel": Role.CLASSIFIER_WEIGHT}, r"Scan\.kernel has the role.*Role\.WEIGHT"),
        (Scan, {"kernel": "weight"}, r"Scan\.kernel has the role 'weight'"),
    ],
)
def test_wrong_registration(layer, rule, message):
    with pytest.raises(TraceError, match=message):
        register(layer, rule)
    assert layer not in RULES


@torch.library.custom_op("ghn_test::mix", mutates_args=())
def mix(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x @ w


@mix.register_fake
def _(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], w.shape[1])


def test_operator_of_torch_library_can_be_registered():
    def forward(m, x):
        return mix(x, m.w)

    assert uncovered(traced(forward, w=param(8, 3)))["w"][0]
    operator = torch.ops.ghn_test.mix.default
    register(operator, Rule(Kind.LAYER, ("input", "weight"), ghn.Primitive.CONV, axes="io"))
    try:
        assert slots(traced(forward, w=param(8, 3)))["w"].fan_in == 8
    finally:
        del RULES[operator]
