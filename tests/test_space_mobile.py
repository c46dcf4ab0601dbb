"""Inverted residuals: the stated graph is the traced one; published networks; a table of real ones; records."""

import json
from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import SHARED
from spaces import assert_stated_as_traced, multiply_adds

import ghn
from deepnets_gen.genotype import GenotypeError
from deepnets_gen.spaces.mobile import (
    ACTIVATIONS,
    MNASNET_A1,
    MOBILENET_V2,
    MobileAxes,
    MobileGenotype,
    Stage,
    candidate,
    num_params,
    sketch,
    small_enough,
)
from deepnets_gen.spaces.mobile_net import SqueezeExcite, build
from ghn.norms import batch_statistics
from ghn.primitives import Primitive

MNAS_SPACE = SHARED / "data" / "nas" / "accel_nasbench_imagenet.parquet"
PLAIN = MobileGenotype((Stage(8, 2, 1, 3, 1), Stage(16, 2, 2, 5, 3)), stem=8, head=24)
SMALL = {
    "plain": PLAIN,
    "gates": replace(PLAIN, stages=(Stage(8, 2, 1, 7, 2, 4, "relu"), Stage(16, 1, 2, 3, 6, 200, "hardswish"))),
    "hidden": replace(PLAIN, hidden=12, stem_stride=1, activation="silu"),
    "one block": MobileGenotype((Stage(8, 1, 1, 3, 1, 2),), stem=8, stem_stride=1, head=8),
}
# Tan et al. 2019, figure 7's predecessor without gates (B1), and Tan & Le 2019 (EfficientNet-B0), as torchvision has
# them: channels, repeats, stride, kernel, expansion.
MNASNET_B1 = (
    (16, 1, 1, 3, 1),
    (24, 3, 2, 3, 3),
    (40, 3, 2, 5, 3),
    (80, 3, 2, 5, 6),
    (96, 2, 1, 3, 6),
    (192, 4, 2, 5, 6),
)
EFFICIENTNET_B0 = (
    (16, 1, 1, 3, 1),
    (24, 2, 2, 3, 6),
    (40, 2, 2, 5, 6),
    (80, 3, 2, 3, 6),
    (112, 3, 1, 5, 6),
    (192, 4, 2, 5, 6),
)
PUBLISHED = {
    "mobilenet_v2": MOBILENET_V2,
    "mnasnet1_0": MobileGenotype(
        tuple(Stage(*row, 0, "relu") for row in (*MNASNET_B1, (320, 1, 1, 3, 6))), activation="relu"
    ),
    "efficientnet_b0": MobileGenotype(  # gates are made from a quarter of a block's input
        tuple(Stage(*row, 4 * row[-1], "silu") for row in (*EFFICIENTNET_B0, (320, 1, 1, 3, 6))), activation="silu"
    ),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(seed: int) -> MobileGenotype:
    genotype = candidate(Random(seed), MobileAxes())
    assert genotype is not None, "the default axes have no more halvings than stages"
    return genotype


@pytest.mark.parametrize("seed", range(20))
def test_the_stated_graph_is_the_traced_one(seed: int) -> None:
    genotype = drawn(seed)
    assert_stated_as_traced(sketch(genotype), build(genotype, device="meta"))


@pytest.mark.parametrize("name", SMALL)
def test_the_stated_graph_is_the_traced_one_of_modules_that_hold_numbers(name: str) -> None:
    assert_stated_as_traced(sketch(SMALL[name], 7, 8), build(SMALL[name], 7, 8))


@st.composite
def stages(draw: st.DrawFn) -> Stage:
    whole = st.integers
    return Stage(
        channels=8 * draw(whole(1, 3)),
        repeats=draw(whole(1, 3)),
        stride=draw(whole(1, 2)),
        kernel=draw(st.sampled_from((3, 5, 7))),
        expansion=draw(whole(1, 6)),
        reduction=draw(st.sampled_from((0, 1, 3, 8, 1000))),
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )


@st.composite
def genotypes(draw: st.DrawFn) -> MobileGenotype:
    """Anything that is allowed, at its smallest and where numbers coincide."""
    return MobileGenotype(
        stages=tuple(draw(st.lists(stages(), min_size=1, max_size=4))),
        stem=8 * draw(st.integers(1, 3)),
        stem_stride=draw(st.integers(1, 2)),
        head=8 * draw(st.integers(1, 3)),
        hidden=draw(st.sampled_from((0, 1, 8, 10))),
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )


@settings(max_examples=60)
@given(genotypes(), st.sampled_from((32, 33, 47)), st.integers(1, 12))
def test_graphs_of_odd_networks_are_the_traced_ones(genotype: MobileGenotype, side: int, classes: int) -> None:
    stated = sketch(genotype, classes, side)
    assert_stated_as_traced(stated, build(genotype, classes, side, "meta"))
    assert num_params(genotype, classes) == stated.num_params


@settings(max_examples=60)
@given(genotypes())
def test_records_give_the_genotype_back(genotype: MobileGenotype) -> None:
    again = MobileGenotype.from_dict(json.loads(json.dumps({**genotype.to_dict(), "more": 1})))
    assert again == genotype
    assert hash(again) == hash(genotype)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_are_torchvision_s(name: str) -> None:
    """Same graph, hence same types, shapes and connections; MobileNetV2 by name too."""
    try:
        models = ghn.import_torchvision().models
    except ImportError:
        pytest.skip("torchvision is not installed (pip install 'ghn-predict[models]')")
    with torch.device("meta"):
        theirs = getattr(models, name)()
    stated, traced = sketch(PUBLISHED[name], 1000, 224), ghn.trace(theirs, image_size=224)
    assert stated.num_params == sum(p.numel() for p in theirs.parameters())
    assert stated.graph().key == traced.key
    if name == "mobilenet_v2":
        assert {(s.fqn, s.role, s.shape) for s in stated.slots} == {(s.fqn, s.role, s.shape) for s in traced.slots}


def test_mobilenet_v2_computes_what_torchvision_s_does() -> None:
    try:
        models = ghn.import_torchvision().models
    except ImportError:
        pytest.skip("torchvision is not installed (pip install 'ghn-predict[models]')")
    torch.manual_seed(0)
    theirs, ours = models.mobilenet_v2(num_classes=7).eval(), build(MOBILENET_V2, 7, 64).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in dict(ours.named_parameters())})
    x = torch.randn(2, 3, 64, 64)
    with batch_statistics(theirs):
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("genotype", "params", "millions"),
    [
        (MOBILENET_V2, 3_504_872, 300),  # Sandler et al. 2018, table 4: 3.4 M parameters, 300 M multiply-adds
        (MNASNET_A1, 3_887_038, 312),  # Tan et al. 2019, table 1: 3.9 M parameters, 312 M multiply-adds
    ],
)
def test_sizes_of_published_networks(genotype: MobileGenotype, params: int, millions: int) -> None:
    stated = sketch(genotype, 1000, 224)
    assert stated.num_params == num_params(genotype, 1000) == params
    assert stated.macs / 1e6 == pytest.approx(millions, abs=1)


def test_sizes_of_5138_networks_of_the_mnasnet_space() -> None:
    """Parameters counted by others for networks that were trained on ImageNet."""
    table = pytest.importorskip("pyarrow.parquet", reason="reads a parquet table")
    if not MNAS_SPACE.exists():
        pytest.skip(f"{MNAS_SPACE.name} is in the shared data, which this checkout does not have")
    rows = table.read_table(MNAS_SPACE).to_pylist()
    forms = list(zip((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 2, 1, 2, 1), strict=True))

    def genotype(row: dict) -> MobileGenotype:
        blocks = [tuple(row[f"block{i}_{key}"] for key in ("l", "k", "e", "se")) for i in range(7)]
        found = [
            Stage(c, repeats, stride, kernel, e, 4 * e * se)
            for (c, stride), (repeats, kernel, e, se) in zip(forms, blocks, strict=True)
        ]
        return MobileGenotype(tuple(found))

    assert len(rows) == 5138
    differing = [row for row in rows if num_params(genotype(row), 1000) != round(row["params"] * 1e6)]
    assert differing == []


@pytest.mark.parametrize("name", SMALL)
def test_multiply_adds_are_those_of_the_running_module(name: str) -> None:
    for side in (8, 9):
        model = build(SMALL[name], 7, side)
        assert sketch(SMALL[name], 7, side).macs == multiply_adds(model, torch.randn(1, 3, side, side))


@pytest.mark.parametrize("name", SMALL)
def test_networks_run_and_every_parameter_has_a_finite_gradient(name: str) -> None:
    torch.manual_seed(0)
    model = build(SMALL[name], 7, 8)
    out = model(torch.randn(4, 3, 8, 8))
    assert out.shape == (4, 7)
    assert out.isfinite().all()
    out.square().sum().backward()
    for fqn, parameter in model.named_parameters():
        assert parameter.grad is not None, fqn
        assert parameter.grad.isfinite().all(), fqn
    assert list(model.buffers()) == []


def test_a_gate_scales_channels_by_what_their_means_say() -> None:
    torch.manual_seed(0)
    for hard in (False, True):
        block, x = SqueezeExcite(6, 2, hard), torch.randn(2, 6, 3, 5)
        means = x.mean((2, 3))
        z = torch.relu(means @ block.fc1.weight[:, :, 0, 0].T + block.fc1.bias) @ block.fc2.weight[:, :, 0, 0].T
        z = z + block.fc2.bias
        gate = (z / 6 + 0.5).clamp(0, 1) if hard else 1 / (1 + (-z).exp())
        torch.testing.assert_close(block(x), torch.einsum("bchw,bc->bchw", x, gate))


def test_random_networks_stay_within_the_axes() -> None:
    axes = MobileAxes()
    genotypes = [drawn(seed) for seed in range(300)]
    assert sum(small_enough(g, axes) for g in genotypes) > 250
    for g in genotypes:
        halvings = (g.stem_stride == 2) + sum(stage.stride == 2 for stage in g.stages)
        assert halvings in axes.halvings
        assert len(g.stages) in axes.stages
        assert all(stage.channels <= axes.widest for stage in g.stages)
        assert num_params(g) == sketch(g).num_params
    assert {s.kernel for g in genotypes for s in g.stages} == {3, 5, 7}
    assert {s.expansion for g in genotypes for s in g.stages} == set(range(1, 7))
    gated = [any(s.reduction for s in g.stages) for g in genotypes]
    assert 0.5 < sum(gated) / len(gated) < 0.8
    assert [drawn(seed) for seed in range(20)] == genotypes[:20]


def test_gates_and_skips_are_where_the_stages_say() -> None:
    g = MobileGenotype((Stage(8, 3, 1, 3, 2, 4), Stage(8, 2, 2, 3, 2)), stem=16, stem_stride=1)
    assert [block.residual for block in g.blocks] == [False, True, True, False, True]
    assert [block.squeezed for block in g.blocks] == [8, 4, 4, 0, 0]
    assert sketch(g).ops.count(Primitive.SUM) == sketch(g).ops.count(Primitive.CSE) == 3


def test_axes_that_ask_for_too_many_halvings_give_nothing() -> None:
    axes = MobileAxes(stages=(2,), halvings=(4,))
    assert [candidate(Random(seed), axes) for seed in range(5)] == [None] * 5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stages": ()}, "stages is .*one Stage or more"),
        ({"stages": [Stage(8, 1, 1, 3, 1)]}, "give a tuple"),
        ({"stages": ((8, 1, 1, 3, 1),)}, "give a tuple of one Stage"),
        ({"stem": 12}, "stem is 12; give a positive multiple of 8"),
        ({"stem_stride": 3}, "stem_stride is 3; known are 1, 2"),
        ({"head": 0}, "head is 0"),
        ({"hidden": -1}, "hidden is -1"),
        ({"activation": "tanh"}, "activation is 'tanh'; known are relu"),
    ],
)
def test_messages_name_the_field_and_the_remedy(change: dict, says: str) -> None:
    with pytest.raises(GenotypeError, match=says):
        replace(PLAIN, **change)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channels", 20),
        ("channels", 8.0),
        ("repeats", 0),
        ("repeats", True),
        ("stride", 3),
        ("kernel", 4),
        ("kernel", [3]),
        ("expansion", 0),
        ("expansion", 7),
        ("expansion", True),
        ("reduction", -4),
        ("activation", None),
    ],
)
def test_messages_name_the_field_of_a_stage(field: str, value: object) -> None:
    with pytest.raises(GenotypeError, match=f"{field} is "):
        replace(PLAIN.stages[0], **{field: value})


@pytest.mark.parametrize(
    "record", [None, [], {}, {**PLAIN.to_dict(), "stages": 3}, {**PLAIN.to_dict(), "stages": [[8]]}]
)
def test_damaged_records_are_named(record: object) -> None:
    with pytest.raises(GenotypeError, match=r"not a mobile record|give a list of stages"):
        MobileGenotype.from_dict(record)


@pytest.mark.parametrize("side", [0, 1, -3, 16.0, 2, 8, 16])
def test_images_too_small_for_the_strides_are_named(side: float) -> None:
    """MobileNetV2 halves five times: 17 pixels are the fewest of which the last halving finds two."""
    for make in (sketch, build):
        with pytest.raises(GenotypeError, match="image_size is"):
            make(MOBILENET_V2, 10, side)
    assert len(sketch(MOBILENET_V2, 10, 17))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("relu", torch.relu),
        ("relu6", lambda x: x.clamp(0, 6)),
        ("hardswish", lambda x: x * (x / 6 + 0.5).clamp(0, 1)),
        ("silu", lambda x: x * torch.sigmoid(x)),
    ],
)
def test_activations_are_where_the_papers_have_them(name: str, function) -> None:
    """After expanding and after the depthwise convolution, none after projecting. Sandler et al. 2018, section 3."""
    torch.manual_seed(0)
    genotype = MobileGenotype((Stage(8, 1, 1, 3, 2, 0, name),), stem=8, stem_stride=1, head=8)
    block, x = build(genotype, 7, 8).features[1], torch.randn(2, 8, 5, 5)
    (expand, _), (depthwise, _), project = block.conv[0][:2], block.conv[1][:2], block.conv[2]

    def norm(y: torch.Tensor) -> torch.Tensor:
        return (y - y.mean((0, 2, 3), keepdim=True)) / (y.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()

    y = function(norm(torch.einsum("oi,bihw->bohw", expand.weight[:, :, 0, 0], x)))
    y = function(norm(torch.nn.functional.conv2d(y, depthwise.weight, padding=1, groups=16)))
    y = norm(torch.einsum("oi,bihw->bohw", project.weight[:, :, 0, 0], y))
    torch.testing.assert_close(block(x), x + y, rtol=1e-4, atol=1e-5)
