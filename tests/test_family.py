"""Every member of the family against its literal definition, and what must hold of all of them."""

import copy
from dataclasses import replace
from pathlib import Path

import literal
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import graph, needs_reference
from strategies import graphs, reordered
from torch import Tensor

from ghn.decode import DECODERS
from ghn.family import MEMBERS, GHNConfig, member
from ghn.graph import ArchGraph
from ghn.model import GHN
from ghn.propagate import PROPAGATIONS

SMALL = GHNConfig(hid=8, max_shape=(24, 16, 5, 5), layers=2, heads=2, rank=3)
# The members with their own parts at a small size, and decoders of the others behind the Graphormer.
PARTS = {
    "ghn1": replace(SMALL, cutoff=1, weight_norm=False, layernorm=False),
    "ghn2": SMALL,
    "mlp": replace(SMALL, propagation="mlp"),
    "ghn2 with the mlp decoder": replace(SMALL, decoder="mlp"),
    "ghn3": replace(SMALL, propagation="graphormer", decoder="centred"),
    "logah": replace(SMALL, propagation="graphormer", decoder="lowrank"),
}


@pytest.fixture(scope="module", params=PARTS)
def model(request: pytest.FixtureRequest) -> GHN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GHN(PARTS[request.param])


def test_every_part_is_tested_here() -> None:
    assert {config.propagation for config in PARTS.values()} == PROPAGATIONS.keys()
    assert {config.decoder for config in PARTS.values()} == DECODERS.keys()
    pairs = {(config.propagation, config.decoder) for config in PARTS.values()}
    assert {(config.propagation, config.decoder) for config in MEMBERS.values()} <= pairs


@pytest.mark.parametrize(
    ("name", "classes", "size", "numbers"),
    [
        ("ghn1", 10, 32, 1_620_668),
        ("ghn1", 1000, 224, 2_319_624),
        ("ghn2", 10, 32, 1_620_764),
        ("ghn2", 1000, 224, 2_319_720),
        ("mlp", 10, 32, 1_614_396),
        ("ghn3-t", 10, 32, 4_531_500),
        ("ghn3-t", 1000, 224, 6_906_632),
        ("ghn3-s", 1000, 224, 35_810_368),
        ("ghn3-l", 1000, 224, 214_668_960),
        ("ghn3-xl", 1000, 224, 654_365_184),
    ],
)
def test_members_have_the_published_number_of_parameters(name: str, classes: int, size: int, numbers: int) -> None:
    with torch.device("meta"):
        model = GHN(member(name, classes, size))
    assert sum(p.numel() for p in model.parameters()) == numbers


def test_unknown_names_are_said() -> None:
    with pytest.raises(ValueError, match="no GHN 'ghn4'; the family is mlp, ghn1"):
        member("ghn4")
    with pytest.raises(ValueError, match="propagation 'x' is none of gated, mlp, graphormer"):
        GHNConfig(propagation="x")
    with pytest.raises(ValueError, match="decoder 'x' is none of conv, centred"):
        GHNConfig(decoder="x")
    with pytest.raises(ValueError, match="no 3 heads"):
        GHN(replace(PARTS["ghn3"], heads=3))


@settings(max_examples=25)
@given(items=st.lists(graphs(), min_size=1, max_size=4))
def test_predictions_of_a_batch_equal_the_definition_of_each(model: GHN, items: list[ArchGraph]) -> None:
    with torch.no_grad():
        predicted = model(model.collate(items))
        for item, weights in zip(items, predicted, strict=True):
            expected = literal.predict(model, item)
            assert weights.keys() == expected.keys()
            for name, want in expected.items():
                torch.testing.assert_close(weights[name], want, rtol=1e-4, atol=1e-6)


@settings(max_examples=8)
@given(items=st.lists(graphs(8), min_size=1, max_size=3))
def test_gradients_equal_autograd_through_the_definition(model: GHN, items: list[ArchGraph]) -> None:
    """In double precision: softmax makes one of GHN-3's gradients, of a bias common to all, a difference of equals."""
    model = copy.deepcopy(model).double()

    def gradients(predicted: list[dict[str, Tensor]]) -> list[Tensor]:
        loss = sum((w.sin() * (1 + i)).sum() for i, d in enumerate(predicted) for w in d.values())
        loss = loss + 0 * sum(p.sum() for p in model.parameters())
        return list(torch.autograd.grad(loss, list(model.parameters())))

    ours = gradients(model(model.collate(items)))
    theirs = gradients([literal.predict(model, item) for item in items])
    for (name, _), a, b in zip(model.named_parameters(), ours, theirs, strict=True):
        scale = b.abs().max().clamp(min=1e-3)
        assert ((a - b).abs().max() / scale).item() < 1e-6, name


@settings(max_examples=25)
@given(item=graphs(), seed=st.integers(0, 1000))
def test_order_of_nodes_does_not_matter(model: GHN, item: ArchGraph, seed: int) -> None:
    other = reordered(item, np.random.default_rng(seed))
    assert other.key == item.key
    with torch.no_grad():
        (a,), (b,) = model(model.collate([item])), model(model.collate([other]))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)


def deviation(found: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> float:
    """The largest relative error of a predicted tensor, in the norm."""
    pairs = [(a[name].float(), b[name]) for a, b in zip(found, expected, strict=True) for name in b]
    return max(((a - b).norm() / b.norm()).item() for a, b in pairs)


@needs_reference
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated")  # torch's own compiler
@pytest.mark.parametrize("name", ["mlp", "ghn1", "ghn2", "ghn3-t", "logah-t"])
def test_half_precision_and_compilation_stay_close(name: str) -> None:
    """bfloat16 has 8 bits of precision, 0.4%: no predicted tensor is off by more than 2%. Compiled: rounding only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GHN(member(name)).eval()
    batch = model.collate([graph("ghn2_cifar10", "resnet50_32"), graph("ghn2_cifar10", "d2")])
    with torch.no_grad():
        expected = model(batch)
        with torch.autocast("cpu", torch.bfloat16):
            assert 0 < deviation(model(batch), expected) < 0.02
        assert 0 < deviation(copy.deepcopy(model).bfloat16()(batch), expected) < 0.02
        states = torch.compile(model.node_states, backend="aot_eager")(batch)
        torch.testing.assert_close(states, model.node_states(batch), rtol=1e-4, atol=1e-5)


def test_the_documented_table_is_the_family() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "family.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    table = {row[0].strip("`"): row for row in rows if len(row) == 7}
    assert list(table) == list(MEMBERS)
    for name, (_, propagate, decode, fit, width, *numbers) in table.items():
        config = MEMBERS[name]
        assert f"`{config.propagation}`" in propagate
        assert f"`{config.decoder}`" in decode
        assert fit == ("scaled" if config.weight_norm else "as decoded")
        assert int(width) == config.hid
        if config.propagation == "graphormer":
            assert f"{config.layers} layers, {config.heads} heads" in propagate
        if config.decoder == "lowrank":
            assert f"rank {config.rank}" in decode
        with torch.device("meta"):
            sizes = [GHN(member(name, classes, size)) for classes, size in ((10, 32), (1000, 224))]
        assert numbers == [f"{sum(p.numel() for p in model.parameters()):,}" for model in sizes]
