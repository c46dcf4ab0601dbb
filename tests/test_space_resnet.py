"""Residual networks: the stated graph is the traced one, and torchvision's; published figures."""

import json
from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import assert_same_graph, assert_stated_as_traced, multiply_adds

import ghn
from deepnets_gen.genotype import GenotypeError
from deepnets_gen.spaces.resnet import RESNET50, SMALL, ResNetAxes, ResNetGenotype, resnet_candidate, sketch
from deepnets_gen.spaces.resnet_net import build
from ghn import stem

THIN = ResNetGenotype("bottleneck", (1, 2, 1), 4)
PUBLISHED = {
    "resnet18": (ResNetGenotype("basic", (2, 2, 2, 2)), 11_689_512, 1.814),
    "resnet34": (ResNetGenotype("basic", (3, 4, 6, 3)), 21_797_672, 3.664),
    "resnet50": (RESNET50, 25_557_032, 4.089),
    "resnet101": (ResNetGenotype("bottleneck", (3, 4, 23, 3)), 44_549_160, 7.801),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def torchvision_s(name: str, side: int, device: str = "meta") -> torch.nn.Module:
    try:
        models = ghn.import_torchvision().models
    except ImportError:
        pytest.skip("torchvision is not installed (pip install 'ghn-predict[models]')")
    with torch.device(device):
        return ghn.adjust_stem(getattr(models, name)(num_classes=10), side)


@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("name", PUBLISHED)
def test_names_shapes_and_graph_are_torchvision_s(name: str, side: int) -> None:
    theirs, genotype = torchvision_s(name, side), PUBLISHED[name][0]
    ours = build(genotype, 10, side, "meta")
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert_same_graph(sketch(genotype, 10, side).graph(), ghn.trace(theirs))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("name", "side"), [("resnet18", 16), ("resnet18", 65), ("resnet50", 16), ("resnet50", 70)])
def test_logits_are_torchvision_s_for_the_same_weights(name: str, side: int, training: bool) -> None:
    torch.manual_seed(0)
    theirs = torchvision_s(name, side, "cpu").train(training)
    ours = build(PUBLISHED[name][0], 10, side, "meta").train(training)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures(name: str) -> None:
    genotype, parameters, billions = PUBLISHED[name]
    stated = sketch(genotype, 1000, 224)
    assert stated.num_params == parameters
    assert stated.macs / 1e9 == pytest.approx(billions, abs=1e-3)


def test_resnet50_has_the_published_graphs() -> None:
    """ghn_spec 3.1: 126 nodes, with the stem's pool 127 and 142 edges."""
    assert len(sketch(RESNET50).graph()) == 126
    whole = sketch(RESNET50, 1000, 224).graph()
    assert (len(whole), len(whole.edges)) == (127, 142)


@pytest.mark.parametrize("seed", range(16))
def test_the_stated_graph_is_the_traced_one(seed: int) -> None:
    genotype = resnet_candidate(Random(seed), ResNetAxes())
    side = (32, 1, 64, 65, 96)[seed % 5]
    assert_stated_as_traced(sketch(genotype, 7, side), build(genotype, 7, side, "meta"))


@settings(max_examples=30)
@given(
    st.sampled_from(("basic", "bottleneck")),
    st.lists(st.integers(1, 3), min_size=1, max_size=5),
    st.integers(1, 9),
    st.integers(1, 12),
    st.integers(1, 130),
)
def test_graphs_of_odd_networks_are_the_traced_ones(block, layers, width, classes, side) -> None:
    genotype = ResNetGenotype(block, tuple(layers), width)
    assert_stated_as_traced(sketch(genotype, classes, side), build(genotype, classes, side, "meta"))


@pytest.mark.parametrize("side", [1, 5, 32, 64, 65, 71])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_multiply_adds_are_those_of_the_running_module(block: str, side: int) -> None:
    genotype = replace(THIN, block=block)
    model = build(genotype, 7, side).eval()
    assert sketch(genotype, 7, side).macs == multiply_adds(model, torch.randn(1, 3, side, side))


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_networks_run_and_every_parameter_has_a_finite_gradient(block: str) -> None:
    torch.manual_seed(0)
    model = build(replace(THIN, block=block), 7, 16)
    out = model(torch.randn(4, 3, 16, 16))
    assert out.shape == (4, 7)
    out.square().sum().backward()
    for fqn, parameter in model.named_parameters():
        assert parameter.grad is not None, fqn
        assert parameter.grad.isfinite().all(), fqn


def test_nothing_is_initialised_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in dir(torch.nn.init) if name.endswith("_") and not name.startswith("_")]:
        monkeypatch.setattr(torch.nn.init, name, lambda *_, **__: pytest.fail("initialised"))
    assert all(p.is_meta for p in build(THIN, device="meta").parameters())


def test_small_images_are_those_of_adjust_stem() -> None:
    assert SMALL == stem.SMALL


def test_candidates_cover_their_axes_and_depend_on_the_seed_alone() -> None:
    axes = ResNetAxes()
    rng, again = Random(1), Random(1)
    drawn = [resnet_candidate(rng, axes) for _ in range(300)]
    assert drawn == [resnet_candidate(again, axes) for _ in range(300)]
    assert {g.block for g in drawn} == set(axes.blocks)
    assert {g.width for g in drawn} == set(axes.widths)
    assert {n for g in drawn for n in g.layers} == set(axes.layers)


def test_records_round_trip_through_json() -> None:
    for seed in range(20):
        genotype = resnet_candidate(Random(seed), ResNetAxes())
        assert ResNetGenotype.from_dict(json.loads(json.dumps(genotype.to_dict()))) == genotype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block": "dense"}, "block is 'dense'; known are basic, bottleneck"),
        ({"block": ["basic"]}, "block is"),
        ({"layers": ()}, r"layers is \(\); give"),
        ({"layers": (2, 0)}, "layers is 0; give a whole number of at least 1"),
        ({"layers": 4}, "layers is 4; give"),
        ({"layers": (2.0,)}, "layers is 2.0; give a whole"),
        ({"width": 0}, "width is 0; give a whole number of at least 1"),
        ({"width": "64"}, "width is '64'"),
    ],
)
def test_impossible_genotypes_are_refused(change: dict, message: str) -> None:
    with pytest.raises(GenotypeError, match=message):
        replace(RESNET50, **change)
    with pytest.raises(GenotypeError, match=message):
        ResNetGenotype.from_dict({**RESNET50.to_dict(), **change})


def test_records_that_are_none_are_refused() -> None:
    for record in (None, {}, {"block": "basic", "layers": [1]}):
        with pytest.raises(GenotypeError, match="not a ResNet record"):
            ResNetGenotype.from_dict(record)


@pytest.mark.parametrize("side", [0, -1, 32.0])
def test_sides_that_images_cannot_have_are_named(side: int) -> None:
    for make in (sketch, build):
        with pytest.raises(GenotypeError, match="image_size is"):
            make(RESNET50, 10, side)
