"""Traces of plain user modules: each small network has one right graph, written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ghn.errors import TraceError
from ghn.graph import ArchGraph
from ghn.primitives import Primitive, Role
from ghn.tracing import Kind, Rule, register, trace
from ghn.tracing.rules import RULES


def edges(graph: ArchGraph) -> set[tuple[str, str]]:
    return {(graph.names[u], graph.names[v]) for u, v in graph.edges.tolist()}


def ops(graph: ArchGraph) -> list[str]:
    return [Primitive(o).label for o in graph.ops]


def roles(graph: ArchGraph) -> dict[str, Role]:
    return {s.fqn: s.role for s in graph.slots}


def uncovered(graph: ArchGraph) -> dict[str, tuple[bool, str]]:
    return {u.fqn: (u.used, u.reason) for u in graph.uncovered}


def check(graph: ArchGraph, model: nn.Module) -> None:
    """Each parameter is in one place exactly, and all nodes but position encodings can be reached from the input."""
    named = [s.fqn for s in graph.slots] + [u.fqn for u in graph.uncovered]
    assert sorted(named) == sorted(n for n, _ in model.named_parameters())
    for v, preds in enumerate(graph.predecessors):
        assert preds or v == 0 or graph.ops[v] == Primitive.POS_ENC
    reaching = set(graph.outputs)
    for v in reversed(range(len(graph))):
        if v in reaching:
            reaching |= set(graph.predecessors[v])
    assert reaching | {0} == set(range(len(graph)))


class Net(nn.Module):
    """A module from a function of (self, x) and the submodules and parameters it uses."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = forward

    def forward(self, *args, **kwargs):
        return self.run(self, *args, **kwargs)


def traced(forward, example=None, **parts) -> ArchGraph:
    model = Net(forward, **parts)
    graph = trace(model, torch.zeros(2, 6, 8) if example is None else example)
    check(graph, model)
    return graph


def conv(i=4, o=4, **kwargs):
    return nn.Conv2d(i, o, 3, padding=1, bias=False, **kwargs)


def param(*shape):
    return nn.Parameter(torch.zeros(shape))


IMAGE = torch.zeros(2, 4, 8, 8)


def test_layer_is_weight_then_bias_and_the_last_one_classifies():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    graph = trace(model, image_size=8)
    assert ops(graph) == ["input", "conv", "bias", "conv", "bias"]
    assert graph.shapes.tolist() == [[0] * 4, [8, 3, 3, 3], [8, 1, 1, 1], [5, 288, 1, 1], [5, 1, 1, 1]]
    assert edges(graph) == {
        ("input", "0.weight"),
        ("0.weight", "0.bias"),
        ("0.bias", "3.weight"),
        ("3.weight", "3.bias"),
    }
    assert [s.role for s in graph.slots] == [Role.WEIGHT, Role.BIAS, Role.CLASSIFIER_WEIGHT, Role.CLASSIFIER_BIAS]
    assert graph.outputs == (4,)


@pytest.mark.parametrize(
    ("layer", "op"),
    [
        (conv(groups=2), "sep_conv"),
        (conv(groups=4, dilation=2), "dil_conv"),
        (conv(dilation=2), "conv"),
        (nn.ConvTranspose2d(4, 4, 2, bias=False), "conv"),
        (nn.Conv2d(4, 4, (1, 3), groups=4, dilation=(1, 2), bias=False), "sep_conv"),
    ],
)
def test_kinds_of_convolution(layer, op):
    graph = traced(lambda m, x: m.layer(x), IMAGE, layer=layer)
    assert ops(graph) == ["input", op]
    assert roles(graph) == {"layer.weight": Role.WEIGHT}


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv1d(4, 6, 3), (2, 4, 9), (6, 4, 3, 1)),
        (nn.Conv3d(4, 6, (3, 2, 2)), (2, 4, 5, 5, 5), (6, 4, 3, 4)),
        (nn.ConvTranspose1d(4, 6, 3), (2, 4, 9), (6, 4, 3, 1)),
        (nn.Bilinear(4, 4, 6), (2, 4), (6, 4, 4, 1)),
    ],
)
def test_other_dimensions(layer, shape, expected):
    x = torch.zeros(shape)
    graph = trace(layer, (x, x) if isinstance(layer, nn.Bilinear) else x)
    check(graph, layer)
    assert graph.shapes[1].tolist() == list(expected)
    assert roles(graph)["bias"] in (Role.BIAS, Role.CLASSIFIER_BIAS)


def test_one_by_one_convolution_before_the_pool_classifies():
    model = nn.Sequential(conv(), nn.Conv2d(4, 7, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert roles(trace(model, IMAGE))["1.weight"] is Role.CLASSIFIER_WEIGHT
    assert ops(trace(model, IMAGE))[-1] == "glob_avg"


@pytest.mark.parametrize("last", [nn.ConvTranspose2d(4, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 3)])
def test_other_convolutions_never_classify(last):
    model = nn.Sequential(conv(), last)
    assert {r.value for r in roles(trace(model, IMAGE)).values()} == {"weight", "bias"}


@pytest.mark.parametrize(
    ("norm", "op"),
    [
        (nn.BatchNorm2d(4), "bn"),
        (nn.InstanceNorm2d(4, affine=True), "bn"),
        (nn.GroupNorm(2, 4), "ln"),
        (nn.LayerNorm((4, 8, 8)), "ln"),
        (nn.RMSNorm(8), "ln"),
        (nn.LayerNorm(8, bias=False), "ln"),
    ],
)
def test_norm_is_one_node_for_weight_and_bias(norm, op):
    graph = traced(lambda m, x: m.norm(m.conv(x)), IMAGE, conv=conv(), norm=norm)
    assert ops(graph) == ["input", "conv", op]
    assert {s.node for s in graph.slots if s.fqn.startswith("norm")} == {2}
    expected = {Role.NORM_WEIGHT, Role.NORM_BIAS} if getattr(norm, "bias", None) is not None else {Role.NORM_WEIGHT}
    assert {s.role for s in graph.slots if s.node == 2} == expected


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4, affine=False), nn.InstanceNorm2d(4), nn.LayerNorm(8, bias=False)])
def test_norm_without_parameters_is_no_node(norm):
    if isinstance(norm, nn.LayerNorm):
        norm = nn.LayerNorm(8, elementwise_affine=False)
    assert ops(traced(lambda m, x: m.norm(m.conv(x)), IMAGE, conv=conv(), norm=norm)) == ["input", "conv"]


def test_subclassed_layers_and_bare_functions_are_seen():
    class Scaled(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight, self.bias, padding=1) * 0.5

    graph = traced(
        lambda m, x: F.layer_norm(m.conv(x), (8,), m.g, m.b), IMAGE, conv=Scaled(4, 4, 3), g=param(8), b=param(8)
    )
    assert ops(graph) == ["input", "conv", "bias", "ln"]
    assert roles(graph)["g"] is Role.NORM_WEIGHT
    assert roles(graph)["b"] is Role.NORM_BIAS


@pytest.mark.parametrize(
    "add", [lambda a, b: a + b, lambda a, b: torch.add(a, b), lambda a, b: a.add_(b), lambda a, b: sum([a, b])]
)
def test_residual(add):
    graph = traced(lambda m, x: add(m.b(F.relu(m.a(x))), m.a(x) if m.twice else x), IMAGE, a=conv(), b=conv(), twice=0)
    assert edges(graph) == {("input", "a.weight"), ("a.weight", "b.weight"), ("b.weight", "sum"), ("input", "sum")}


def test_augmented_assignment_changes_what_the_name_means():
    def forward(m, x):
        y = m.a(x)
        y += x
        return m.b(y)

    graph = traced(forward, IMAGE, a=conv(), b=conv())
    assert edges(graph) == {("input", "a.weight"), ("input", "sum"), ("a.weight", "sum"), ("sum", "b.weight")}


def test_three_summands_are_two_sums():
    graph = traced(lambda m, x: m.a(x) + m.b(x) + m.c(x), IMAGE, a=conv(), b=conv(), c=conv())
    assert ops(graph).count("sum") == 2
    assert len(graph.predecessors[-1]) == 2


def test_sum_of_one_node_with_itself_is_none():
    assert ops(traced(lambda m, x: (y := m.a(x)) + F.relu(y), IMAGE, a=conv())) == ["input", "conv"]


def test_concatenation_of_a_growing_list():
    def forward(m, x):
        features = [x]
        for layer in (m.a, m.b):
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)

    graph = traced(forward, IMAGE, a=conv(), b=conv(8, 4))
    assert edges(graph) == {
        ("input", "a.weight"),
        ("input", "concat"),
        ("a.weight", "concat"),
        ("concat", "b.weight"),
        ("b.weight", "concat"),
    }
    assert ops(graph) == ["input", "conv", "concat", "conv", "concat"]


def test_pools_have_their_window_and_global_ones_none():
    def forward(m, x):
        x = F.avg_pool2d(F.max_pool2d(m.a(x), (2, 1)), 3, 1, 1)
        return x.mean((2, 3))

    graph = traced(forward, IMAGE, a=conv())
    assert ops(graph) == ["input", "conv", "max_pool", "avg_pool", "glob_avg"]
    assert graph.shapes[2:].tolist() == [[1, 1, 2, 1], [1, 1, 3, 3], [0] * 4]


@pytest.mark.parametrize(
    ("pool", "op"),
    [
        (lambda x: x.mean((-1, -2), keepdim=True), "glob_avg"),
        (lambda x: torch.mean(x, dim=[2, 3]), "glob_avg"),
        (lambda x: x.permute(0, 2, 3, 1).mean((1, 2)), "glob_avg"),
        (lambda x: x.flatten(2).mean(-1), "glob_avg"),
        (lambda x: x.flatten(2).transpose(1, 2).mean(1), "glob_avg"),
        (lambda x: F.adaptive_avg_pool2d(x, (2, None)), "glob_avg"),
        (lambda x: F.adaptive_max_pool2d(x, 1), "max_pool"),
        (lambda x: x.amax((2, 3)), "max_pool"),
        (lambda x: x.mean(1, keepdim=True), None),
        (lambda x: x.mean(), None),
    ],
)
def test_reductions(pool, op):
    graph = traced(lambda m, x: pool(m.a(x)), IMAGE, a=conv())
    assert ops(graph)[2:] == ([op] if op else [])


def test_max_pool_that_also_returns_indices():
    graph = traced(lambda m, x: F.max_pool2d(m.a(x), 2, return_indices=True)[0], IMAGE, a=conv())
    assert ops(graph) == ["input", "conv", "max_pool"]


def gate(m, x):
    scale = F.adaptive_avg_pool2d(x, 1).flatten(1)
    return torch.sigmoid(m.fc2(F.relu(m.fc1(scale))))[..., None, None]


@pytest.mark.parametrize("swap", [False, True])
def test_squeeze_excite(swap):
    def forward(m, x):
        x = m.conv(x)
        return gate(m, x) * x if swap else x * gate(m, x)

    graph = traced(forward, IMAGE, conv=conv(), fc1=nn.Linear(4, 2), fc2=nn.Linear(2, 4))
    assert edges(graph) == {
        ("input", "conv.weight"),
        ("conv.weight", "fc1.weight"),
        ("fc1.weight", "fc1.bias"),
        ("fc1.bias", "fc2.weight"),
        ("fc2.weight", "fc2.bias"),
        ("fc2.bias", "cse"),
        ("conv.weight", "cse"),
    }


def test_squeeze_that_is_also_an_output_stays():
    def forward(m, x):
        x = m.conv(x)
        pooled = x.mean((2, 3))
        return x * torch.sigmoid(m.fc(pooled))[..., None, None], pooled

    graph = traced(forward, IMAGE, conv=conv(), fc=nn.Linear(4, 4))
    assert sorted(ops(graph)) == ["bias", "conv", "conv", "cse", "glob_avg", "input"]
    assert len(graph.outputs) == 2


def test_gate_without_a_squeeze_is_no_node():
    graph = traced(lambda m, x: m.a(x) * torch.sigmoid(m.b(x)), IMAGE, a=conv(), b=conv())
    assert ops(graph) == ["input", "conv", "conv"]
    assert len(graph.outputs) == 2


def heads(x):
    return x.unflatten(-1, (2, -1)).transpose(1, 2)


def softmax_matmul(q, k, v):
    return (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v


def softmax_einsum(q, k, v):
    scores = torch.einsum("bhid,bhjd->bhij", q, k).masked_fill(torch.zeros(1, dtype=torch.bool), -1e9)
    return torch.einsum("bhij,bhjd->bhid", F.dropout(F.softmax(scores, -1), 0.1, False), v)


def mask_added(q, k, v):
    scores = q @ k.transpose(-1, -2)
    return F.softmax(scores + torch.full_like(scores, -1.0).triu(1), -1) @ v


ATTENTIONS = [softmax_matmul, softmax_einsum, mask_added, F.scaled_dot_product_attention]


@pytest.mark.parametrize("attend", ATTENTIONS)
def test_attention_with_one_projection(attend):
    def forward(m, x):
        q, k, v = map(heads, m.qkv(x).chunk(3, -1))
        return x + m.out(attend(q, k, v).transpose(1, 2).flatten(2))

    graph = traced(forward, qkv=nn.Linear(8, 24, bias=False), out=nn.Linear(8, 8))
    assert edges(graph) == {
        ("input", "qkv.weight"),
        ("qkv.weight", "msa"),
        ("msa", "out.weight"),
        ("out.weight", "out.bias"),
        ("out.bias", "sum"),
        ("input", "sum"),
    }


@pytest.mark.parametrize("attend", ATTENTIONS)
def test_attention_with_three_projections(attend):
    def forward(m, x):
        return m.out(attend(heads(m.q(x)), heads(m.k(x)), heads(m.v(x))).transpose(1, 2).flatten(2))

    parts = {n: nn.Linear(8, 8, bias=False) for n in ("q", "k", "v", "out")}
    graph = traced(forward, **parts)
    assert {e for e in edges(graph) if "msa" in e} == {
        ("q.weight", "msa"),
        ("k.weight", "msa"),
        ("v.weight", "msa"),
        ("msa", "out.weight"),
    }


def test_values_projected_after_the_softmax():
    def forward(m, x):
        weights = (m.q(x) @ m.k(x).transpose(1, 2)).softmax(-1)
        return m.out(weights @ m.v(x))

    graph = traced(forward, **{n: nn.Linear(8, 8, bias=False) for n in ("q", "k", "v", "out")})
    assert len(graph.predecessors[graph.names.index("msa")]) == 3


def test_relative_position_table_rides_on_the_attention():
    def forward(m, x):
        bias = m.table[torch.arange(36) % 9].view(6, 6, 2).permute(2, 0, 1)
        q, k, v = map(heads, m.qkv(x).chunk(3, -1))
        return m.out(softmax_plus(q, k, v, bias.unsqueeze(0)).transpose(1, 2).flatten(2))

    def softmax_plus(q, k, v, bias):
        return F.softmax(q @ k.transpose(-1, -2) + bias, -1) @ v

    graph = traced(forward, qkv=nn.Linear(8, 24, bias=False), out=nn.Linear(8, 8, bias=False), table=param(9, 2))
    assert ops(graph) == ["input", "conv", "msa", "conv"]
    table = next(s for s in graph.slots if s.fqn == "table")
    assert (table.role, graph.names[table.node]) == (Role.OFFSET, "msa")


def test_softmax_of_logits_is_no_attention():
    assert ops(traced(lambda m, x: m.fc(x).softmax(-1), fc=nn.Linear(8, 3))) == ["input", "conv", "bias"]


@pytest.mark.parametrize("separate", [False, True])
def test_multihead_attention_module(separate):
    sizes = {"kdim": 8, "vdim": 6} if separate else {}
    model = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True, **sizes)
    q, v = torch.zeros(2, 5, 8), torch.zeros(2, 7, 6 if separate else 8)
    graph = trace(model, (q, torch.zeros(2, 7, 8), v))
    check(graph, model)
    projections = ["conv"] * (3 if separate else 1)
    assert ops(graph) == ["input", *projections, "bias", "msa", "conv", "bias"]
    msa = ops(graph).index("msa")
    assert {s.fqn: s.role for s in graph.slots if s.node == msa} == {"bias_k": Role.OFFSET, "bias_v": Role.OFFSET}


def test_transformer_encoder_layer_does_not_take_its_fast_path():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    graph = trace(model, torch.zeros(2, 5, 8))
    check(graph, model)
    assert sorted(ops(graph)) == sorted(["input", *["conv", "bias"] * 4, "msa", "sum", "sum", "ln", "ln"])
    assert not graph.uncovered


def test_token_position_and_layer_scale():
    def forward(m, x):
        x = m.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([m.token.expand(2, -1, -1), x], 1) + m.position
        x = x + m.gamma * m.fc(x)
        return m.head(x[:, 0])

    graph = traced(
        forward,
        torch.zeros(2, 3, 8, 8),
        patch=nn.Conv2d(3, 6, 4, 4),
        token=param(1, 1, 6),
        position=param(1, 5, 6),
        gamma=param(6),
        fc=nn.Linear(6, 6, bias=False),
        head=nn.Linear(6, 2),
    )
    assert edges(graph) == {
        ("input", "patch.weight"),
        ("patch.weight", "patch.bias"),
        ("patch.bias", "sum"),
        ("position", "sum"),
        ("sum", "fc.weight"),
        ("sum", "sum"),
        ("fc.weight", "sum"),
        ("sum", "head.weight"),
        ("head.weight", "head.bias"),
    }
    where = {s.fqn: (s.role, graph.names[s.node]) for s in graph.slots}
    assert where["token"] == (Role.OFFSET, "sum")
    assert where["position"] == (Role.POSITION, "position")
    assert where["gamma"] == (Role.SCALE, "fc.weight")
    assert graph.shapes[graph.names.index("position")].tolist() == [1, 6, 2, 2]


def test_position_map_with_channels():
    graph = traced(lambda m, x: m.b(m.a(x) + m.pos), IMAGE, a=conv(), b=conv(), pos=param(1, 4, 8, 8))
    assert ops(graph) == ["input", "pos_enc", "conv", "sum", "conv"]


def test_embeddings():
    def forward(m, ids):
        return m.head(m.words(ids) + m.places(torch.arange(5)))

    graph = traced(
        forward,
        torch.zeros(2, 5, dtype=torch.long),
        words=nn.Embedding(11, 4),
        places=nn.Embedding(5, 4),
        head=nn.Linear(4, 11),
    )
    assert edges(graph) == {
        ("input", "words.weight"),
        ("words.weight", "sum"),
        ("places.weight", "sum"),
        ("sum", "head.weight"),
        ("head.weight", "head.bias"),
    }
    assert roles(graph)["words.weight"] is Role.POSITION


def test_slope_and_temperature_scale_what_came_before():
    graph = traced(
        lambda m, x: m.b(m.act(m.a(x))) * m.t.exp(),
        IMAGE,
        a=conv(),
        b=conv(),
        act=nn.PReLU(),
        t=nn.Parameter(torch.ones(())),
    )
    where = {s.fqn: (s.role, graph.names[s.node]) for s in graph.slots}
    assert where["act.weight"] == (Role.SCALE, "a.weight")
    assert where["t"] == (Role.SCALE, "b.weight")
    assert ops(graph) == ["input", "conv", "conv"]


@pytest.mark.parametrize(
    "multiply",
    [
        lambda m, x: x @ m.w.t() + m.b,
        lambda m, x: torch.matmul(x, m.w.T) + m.b,
        lambda m, x: torch.einsum("btc,oc->bto", x, m.w) + m.b,
        lambda m, x: torch.addmm(m.b, x.flatten(0, 1), m.w.t()),
    ],
)
def test_a_layer_written_out(multiply):
    graph = traced(multiply, w=param(5, 8), b=param(5))
    assert edges(graph) == {("input", "w"), ("w", "b")}
    assert roles(graph) == {"w": Role.WEIGHT, "b": Role.BIAS}


def test_tied_weights_are_one_slot_with_aliases():
    words, head = nn.Embedding(11, 4), nn.Linear(4, 11, bias=False)
    head.weight = words.weight
    graph = traced(lambda m, i: m.head(m.words(i)), torch.zeros(2, 5, dtype=torch.long), words=words, head=head)
    (slot,) = graph.slots
    assert (slot.fqn, slot.aliases, slot.node) == ("words.weight", ("head.weight",), 1)
    assert graph.num_params == 44


def test_shared_layer_has_a_node_per_call_and_its_slot_on_the_first():
    graph = traced(lambda m, x: m.a(F.relu(m.a(x))), IMAGE, a=conv())
    assert ops(graph) == ["input", "conv", "conv"]
    assert [s.node for s in graph.slots] == [1]


def test_unused_parameters_say_so():
    def forward(m, x):
        m.dead(x)
        return m.a(x)

    graph = traced(forward, IMAGE, a=conv(), dead=conv(), never=conv())
    assert uncovered(graph) == {
        "dead.weight": (False, "nothing computed from it reaches an output"),
        "never.weight": (False, "the forward pass does not use it"),
    }
    assert len(graph) == 2


def test_layers_that_only_training_uses():
    def forward(m, x):
        x = m.a(x)
        return (m.b(x), m.aux(x)) if m.training else m.b(x)

    assert not traced(forward, IMAGE, a=conv(), b=conv(), aux=conv()).uncovered


def test_cached_tensors_are_traced_where_they_are_made():
    def forward(m, x):
        if m.training or not hasattr(m, "cache"):
            m.cache = None if m.training else m.table * 2
            return m.a(x) * (m.table * 2)
        return m.a(x) * m.cache

    model = Net(forward, a=conv(), table=param(4, 1, 1))
    model.eval()(IMAGE)
    assert model.cache is not None
    assert not trace(model, IMAGE).uncovered
    assert model.cache.device.type == "cpu"


def test_learned_queries_start_at_the_input():
    def forward(m, x):
        memory = m.a(x).flatten(2).transpose(1, 2)
        return m.out(F.scaled_dot_product_attention(m.q(m.queries), memory, memory))

    graph = traced(
        forward, IMAGE, a=conv(), q=nn.Linear(4, 4, bias=False), out=nn.Linear(4, 4, bias=False), queries=param(2, 3, 4)
    )
    assert {("input", "q.weight"), ("q.weight", "msa"), ("a.weight", "msa")} <= edges(graph)
    assert roles(graph)["queries"] is Role.OFFSET


@pytest.mark.parametrize(
    "norm", [torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.parametrizations.spectral_norm]
)
def test_reparametrised_weight_is_the_parameter_of_its_size(norm):
    graph = traced(lambda m, x: m.b(m.a(x)), IMAGE, a=norm(conv()), b=conv())
    named = {n.removeprefix("a.parametrizations.weight."): r for n, r in roles(graph).items() if n != "b.weight"}
    if norm is torch.nn.utils.parametrizations.weight_norm:
        assert named == {"original0": Role.SCALE, "original1": Role.WEIGHT}
    else:
        assert named == {"original": Role.WEIGHT}
    assert ops(graph) == ["input", "conv", "conv"]


def test_low_rank_update_of_a_weight_has_no_rule():
    graph = traced(lambda m, x: F.linear(x, m.w + m.up @ m.down), w=param(5, 8), up=param(5, 2), down=param(2, 8))
    assert roles(graph) == {"w": Role.CLASSIFIER_WEIGHT}
    assert uncovered(graph) == dict.fromkeys(
        ("up", "down"), (True, "it takes part through `add` and `linear`, for which there is no rule")
    )


def test_standardised_weight():
    def forward(m, x):
        w = m.a.weight
        w = F.batch_norm(w.reshape(1, 4, -1), None, None, training=True).reshape_as(w)
        return F.conv2d(x, (w - w.mean((1, 2, 3), keepdim=True)) / 2, padding=1)

    graph = traced(forward, IMAGE, a=conv())
    assert ops(graph) == ["input", "conv"]
    assert roles(graph) == {"a.weight": Role.WEIGHT}


def test_gain_of_a_standardised_weight_is_a_scale():
    def forward(m, x):
        gain = (m.gain * 0.1).view(-1)
        w = F.batch_norm(m.a.weight.reshape(1, 4, -1), None, None, weight=gain, training=True).reshape_as(m.a.weight)
        return F.conv2d(x, w, padding=1)

    graph = traced(forward, IMAGE, a=conv(), gain=param(4, 1, 1, 1))
    assert roles(graph) == {"a.weight": Role.WEIGHT, "gain": Role.SCALE}
    assert {s.node for s in graph.slots} == {1}


def test_parts_of_a_bias_are_biases():
    def forward(m, x):
        bias = torch.cat([m.q_bias, torch.zeros_like(m.q_bias), m.v_bias])
        return F.linear(x, m.w, bias).relu()

    graph = traced(forward, w=param(12, 8), q_bias=param(4), v_bias=param(4))
    assert ops(graph) == ["input", "conv", "bias"]
    assert {s.fqn for s in graph.slots if s.node == 2} == {"q_bias", "v_bias"}


def test_fused_scale_and_shift():
    graph = traced(
        lambda m, x: m.b(torch.addcmul(m.beta, m.alpha, m.a(x))),
        IMAGE,
        a=conv(),
        b=conv(),
        alpha=param(4, 1, 1),
        beta=param(4, 1, 1),
    )
    where = {s.fqn: (s.role, graph.names[s.node]) for s in graph.slots}
    assert where["alpha"] == (Role.SCALE, "a.weight")
    assert where["beta"] == (Role.OFFSET, "b.weight")
    assert ops(graph) == ["input", "conv", "conv"]


def test_positions_multiplied_with_the_queries_ride_on_the_attention():
    def forward(m, x):
        q, k, v = m.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(1, 2)
        scores[:, 1:] = scores[:, 1:] + torch.einsum("bic,ijc->bij", q, m.table[torch.arange(36).view(6, 6) % 5])[:, 1:]
        return m.out(scores.softmax(-1) @ v)

    graph = traced(forward, qkv=nn.Linear(8, 24, bias=False), out=nn.Linear(8, 8, bias=False), table=param(5, 8))
    assert edges(graph) == {("input", "qkv.weight"), ("qkv.weight", "msa"), ("msa", "out.weight")}
    assert roles(graph)["table"] is Role.OFFSET


def test_heads_that_are_averaged_all_classify():
    graph = traced(lambda m, x: (m.a(x) + m.b(x)) / 2, a=nn.Linear(8, 3), b=nn.Linear(8, 3, bias=False))
    assert {r.value for r in roles(graph).values()} == {"classifier_weight", "classifier_bias"}
    residual = traced(lambda m, x: m.a(x) + m.b(m.a(x).relu()), a=nn.Linear(8, 8), b=nn.LayerNorm(8))
    assert roles(residual)["a.weight"] is Role.WEIGHT


def test_unknown_function_with_a_parameter_is_named():
    graph = traced(lambda m, x: torch.pow(m.a(x).clamp(min=1e-6), m.p), IMAGE, a=conv(), p=param(1))
    assert uncovered(graph)["p"] == (True, "it takes part through `pow`, for which there is no rule")
    whole = Net(lambda m, x: m.a(m.part(x)), part=Net(lambda m, x: x.abs() ** m.p, p=param(1)), a=conv())
    assert "through `pow` in module 'part', for" in uncovered(trace(whole, IMAGE))["part.p"][1]


def test_parameter_that_is_returned():
    graph = traced(lambda m, x: (m.a(x), m.t), IMAGE, a=conv(), t=param(1))
    assert uncovered(graph) == {"t": (True, "the network returns it as it is")}


def test_writes_through_views_are_followed():
    def forward(m, x):
        y = x.clone()
        half = y[:, :2]
        half += m.a(x)[:, :2]
        out = torch.zeros(2, 4, 8, 8)
        out[:, :2] = m.b(y)[:, :2]
        return m.c(out)

    graph = traced(forward, IMAGE, a=conv(), b=conv(), c=conv())
    assert {("a.weight", "sum"), ("input", "sum"), ("b.weight", "c.weight")} <= edges(graph)
    assert ("sum", "b.weight") in edges(graph)
    assert not graph.uncovered


def test_view_taken_before_the_write_is_followed_too():
    def forward(m, x):
        y = x.clone()
        flat = y.view(2, -1)
        y.add_(m.a(x))
        return m.fc(flat)

    graph = traced(forward, IMAGE, a=conv(), fc=nn.Linear(256, 2))
    assert ("sum", "fc.weight") in edges(graph)


def test_several_inputs_are_one_node_and_outputs_may_be_nested():
    def forward(m, image, other):
        return {"logits": [m.a(image) + m.b(other)], "extra": (m.b(other), None)}

    graph = traced(forward, {"image": IMAGE, "other": IMAGE}, a=conv(), b=conv())
    assert ops(graph).count("input") == 1
    assert {("input", "a.weight"), ("input", "b.weight")} <= edges(graph)
    assert len(graph.outputs) == 2


def test_registered_function_becomes_a_layer():
    def mix(x, w):
        if torch.overrides.has_torch_function((x, w)):
            return torch.overrides.handle_torch_function(mix, (x, w), x, w)
        return torch.einsum("bchw,oc->bohw", x, w).exp()

    register(mix, Rule(Kind.LAYER, ("input", "weight"), Primitive.CONV))
    try:
        graph = traced(lambda m, x: mix(x, m.w), IMAGE, w=param(5, 4))
    finally:
        del RULES[mix]
    assert edges(graph) == {("input", "w")}


def shifted(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x) + 1


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_scripted_function_does_not_cut_the_graph():
    scripted = torch.jit.script(shifted)
    graph = traced(lambda m, x: m.b(scripted(m.a(x))), IMAGE, a=conv(), b=conv())
    assert edges(graph) == {("input", "a.weight"), ("a.weight", "b.weight")}


def test_no_tensor_comes_out():
    with pytest.raises(TraceError, match="outputs do not depend"):
        trace(Net(lambda m, x: m.a(x).shape, a=conv()), IMAGE)
