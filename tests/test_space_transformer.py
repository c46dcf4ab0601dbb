"""Transformers: the stated graph is the traced one; published sizes; torchvision's ViT; attention by its definition."""

import json
import math
from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import assert_same_graph, assert_stated_as_traced, multiply_adds

import ghn
from deepnets_gen.genotype import GenotypeError
from deepnets_gen.spaces.transformer import (
    GptAxes,
    TransformerGenotype,
    VitAxes,
    gpt_candidate,
    num_params,
    sketch,
    small_enough,
    vit_candidate,
)
from deepnets_gen.spaces.transformer_net import build

VIT = TransformerGenotype("vit", layers=2, width=24, heads=3, patch=4, class_token=True)
GPT = TransformerGenotype("gpt", layers=2, width=24, heads=3, vocabulary=11, context=16, tied=True)
LLAMA = replace(GPT, rotary=True, rms_norm=True, swiglu=True, bias=False, tied=False)
SMALL = {
    "class token": VIT,
    "mean": replace(VIT, class_token=False, bias=False),
    "layer scale": replace(VIT, layer_scale=True, mlp_ratio=1.5),
    "gpt": GPT,
    "no bias": replace(GPT, bias=False, tied=False),
    "swiglu": replace(GPT, swiglu=True),
    "rotary": replace(GPT, rotary=True),
    "llama": LLAMA,
}


pytestmark = pytest.mark.usefixtures("one_thread")


def random_genotype(kind: str, seed: int) -> TransformerGenotype:
    rng = Random(seed)
    return vit_candidate(rng, VitAxes()) if kind == "vit" else gpt_candidate(rng, GptAxes())


def example(genotype: TransformerGenotype, side: int = 16) -> torch.Tensor:
    if genotype.is_vit:
        return torch.randn(2, 3, side, side)
    return torch.randint(0, genotype.vocabulary, (2, genotype.context))


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("kind", ["vit", "gpt"])
def test_the_stated_graph_is_the_traced_one(kind: str, seed: int) -> None:
    genotype = random_genotype(kind, seed)
    assert_stated_as_traced(sketch(genotype), build(genotype, device="meta"))


@pytest.mark.parametrize("name", SMALL)
def test_the_stated_graph_is_the_traced_one_of_modules_that_hold_numbers(name: str) -> None:
    assert_stated_as_traced(sketch(SMALL[name], 7, 16), build(SMALL[name], 7, 16))


@st.composite
def odd_genotypes(draw: st.DrawFn) -> TransformerGenotype:
    """Anything that is allowed, at its smallest and where numbers coincide."""
    kind, heads, half = draw(st.sampled_from(("vit", "gpt"))), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    if kind == "vit":
        flags, numbers = ("bias", "class_token", "layer_scale"), {"patch": draw(st.integers(1, 8))}
    else:
        flags = ("bias", "tied", "rotary", "rms_norm", "swiglu")
        numbers = {"vocabulary": draw(st.integers(2, 40)), "context": draw(st.integers(8, 40))}
    layers, ratio = draw(st.integers(1, 3)), draw(st.sampled_from((0.5, 1.0, 1.5, 4.0)))
    chosen = {flag: draw(st.booleans()) for flag in flags}
    return TransformerGenotype(kind, layers, 2 * half * heads, heads, ratio, **chosen, **numbers)


@settings(max_examples=60)
@given(odd_genotypes(), st.integers(2, 6), st.integers(1, 12))
def test_graphs_of_odd_networks_are_the_traced_ones(genotype, rows: int, classes: int) -> None:
    side = rows * genotype.patch
    assert_stated_as_traced(sketch(genotype, classes, side), build(genotype, classes, side, "meta"))


@pytest.mark.parametrize("side", [8, 16, 48, 224])
def test_graphs_follow_the_size_of_the_image(side: int) -> None:
    for genotype in (VIT, SMALL["mean"]):
        assert_stated_as_traced(sketch(genotype, 3, side), build(genotype, 3, side, "meta"))


@pytest.mark.parametrize(
    ("genotype", "classes", "side", "published"),
    [
        (TransformerGenotype("vit", 12, 768, 12, patch=16, class_token=True), 1000, 224, 86_567_656),  # ViT-B/16
        (TransformerGenotype("vit", 12, 384, 6, patch=16, class_token=True), 1000, 224, 22_050_664),  # DeiT-S
        (
            TransformerGenotype("gpt", 12, 768, 12, vocabulary=50257, context=1024, tied=True),
            0,
            0,
            124_439_808,
        ),  # GPT-2
        (
            TransformerGenotype(  # LLaMA-7B, whose MLPs have 11,008 hidden units
                "gpt",
                32,
                4096,
                32,
                4.03125,
                False,
                vocabulary=32000,
                context=2048,
                rotary=True,
                rms_norm=True,
                swiglu=True,
            ),
            0,
            0,
            6_738_415_616,
        ),
    ],
)
def test_parameters_of_published_networks(genotype, classes: int, side: int, published: int) -> None:
    assert sketch(genotype, classes, side).num_params == published


@pytest.mark.parametrize("kind", ["vit", "gpt"])
def test_counts_need_no_graph(kind: str) -> None:
    for seed in range(60):
        genotype = random_genotype(kind, seed)
        assert num_params(genotype) == sketch(genotype).num_params
        assert num_params(genotype, 100, 64) == sketch(genotype, 100, 64).num_params


@pytest.mark.parametrize("name", SMALL)
def test_multiply_adds_are_those_of_the_running_module(name: str) -> None:
    genotype = SMALL[name]
    model = build(genotype, 7, 16)
    assert sketch(genotype, 7, 16).macs == multiply_adds(model, example(genotype)[:1])


@pytest.mark.parametrize("name", SMALL)
def test_networks_run_and_every_parameter_has_a_finite_gradient(name: str) -> None:
    torch.manual_seed(0)
    genotype = SMALL[name]
    model = build(genotype, 7, 16)
    out = model(example(genotype))
    assert out.shape == ((2, 7) if genotype.is_vit else (2, 16, 11))
    assert out.isfinite().all()
    assert 0 < out.std() < 1  # a fresh network is undecided
    out.square().sum().backward()
    for fqn, parameter in model.named_parameters():
        assert parameter.grad is not None, fqn
        assert parameter.grad.isfinite().all(), fqn
        assert parameter.grad.abs().sum() > 0, fqn


def torchvision_names(layers: int) -> dict[str, str]:
    """Our name -> torchvision's, for the parameters of its VisionTransformer."""
    names = {"cls_token": "class_token", "pos_embed": "encoder.pos_embedding"}
    stems = {"patch_embed.proj": "conv_proj", "norm": "encoder.ln", "head": "heads.head"}
    for i in range(layers):
        there = f"encoder.layers.encoder_layer_{i}"
        stems |= {
            f"blocks.{i}.{ours}": f"{there}.{theirs}"
            for ours, theirs in {
                "norm1": "ln_1",
                "norm2": "ln_2",
                "attn.qkv": "self_attention.in_proj_",
                "attn.proj": "self_attention.out_proj",
                "mlp.fc1": "mlp.0",
                "mlp.fc2": "mlp.3",
            }.items()
        }
    for ours, theirs in stems.items():
        for part in ("weight", "bias"):
            names[f"{ours}.{part}"] = theirs + part if theirs.endswith("_") else f"{theirs}.{part}"
    return names


def torchvision_vit() -> torch.nn.Module:
    try:
        models = ghn.import_torchvision().models
    except ImportError:
        pytest.skip("torchvision is not installed (pip install 'ghn-predict[models]')")
    return models.VisionTransformer(16, 4, 2, 3, 24, 96, num_classes=7)


def test_a_class_token_vit_is_torchvision_s() -> None:
    """Same graph but for names, and the same logits from the same weights."""
    torch.manual_seed(0)
    theirs, ours = torchvision_vit().eval(), build(VIT, 7, 16).eval()
    graph, names = ghn.trace(theirs, image_size=16), torchvision_names(2)
    stated = sketch(VIT, 7, 16).graph()
    assert stated.key == graph.key
    assert {names[s.fqn]: (s.role, s.shape) for s in stated.slots} == {s.fqn: (s.role, s.shape) for s in graph.slots}
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ours.load_state_dict({name: theirs.state_dict()[names[name]] for name in ours.state_dict()})
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def literal_gpt(model: torch.nn.Module, tokens: list[int]) -> torch.Tensor:
    """(T, vocabulary): the definition, token by token and head by head."""
    g, p = model.genotype, {k: v.double() for k, v in model.state_dict().items()}
    d = g.width // g.heads

    def layer(x: torch.Tensor, path: str) -> torch.Tensor:
        return p[f"{path}.weight"] @ x + p.get(f"{path}.bias", 0.0)

    def norm(x: torch.Tensor, path: str) -> torch.Tensor:
        if g.rms_norm:
            return x / (x.square().mean() + 1e-6).sqrt() * p[f"{path}.weight"]
        scaled = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
        return scaled * p[f"{path}.weight"] + p.get(f"{path}.bias", 0.0)

    def turned(x: torch.Tensor, t: int) -> torch.Tensor:
        if not g.rotary:
            return x
        angles = t * 10_000.0 ** (-torch.arange(d // 2, dtype=torch.double) / (d // 2))
        pairs = torch.complex(x[: d // 2], x[d // 2 :]) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([pairs.real, pairs.imag])

    def mlp(x: torch.Tensor, path: str) -> torch.Tensor:
        if g.swiglu:
            gate = layer(x, f"{path}.fc1_g")
            return layer(gate * torch.sigmoid(gate) * layer(x, f"{path}.fc1_x"), f"{path}.fc2")
        h = layer(x, f"{path}.fc1")
        return layer(0.5 * h * (1 + torch.erf(h / math.sqrt(2))), f"{path}.fc2")

    xs = [p["wte.weight"][token] + (0 if g.rotary else p["wpe.weight"][t]) for t, token in enumerate(tokens)]
    for i in range(g.layers):
        path, seen, after = f"blocks.{i}", [], []
        for t, x in enumerate(xs):
            q, k, v = layer(norm(x, f"{path}.norm1"), f"{path}.attn.qkv").view(3, g.heads, d)
            seen.append(([turned(head, t) for head in k], v))
            heads = []
            for h in range(g.heads):
                scores = torch.stack([turned(q[h], t) @ keys[h] for keys, _ in seen]) / math.sqrt(d)
                heads.append(sum(w * values[h] for w, (_, values) in zip(scores.softmax(0), seen, strict=True)))
            x = x + layer(torch.cat(heads), f"{path}.attn.proj")
            after.append(x + mlp(norm(x, f"{path}.norm2"), f"{path}.mlp"))
        xs = after
    return torch.stack([layer(norm(x, "norm"), "lm_head") for x in xs])


@pytest.mark.parametrize("name", [name for name, g in SMALL.items() if not g.is_vit])
def test_language_models_are_their_literal_definition(name: str) -> None:
    """So no token sees a later one, and contexts shorter than the longest work."""
    torch.manual_seed(0)
    model = build(SMALL[name])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    tokens = [3, 1, 4, 1, 5, 9, 2, 6, 5]
    logits = model.double()(torch.tensor([tokens]))[0]
    torch.testing.assert_close(logits, literal_gpt(model, tokens))


def test_layer_scale_multiplies_the_branches() -> None:
    torch.manual_seed(0)
    scaled, plain = build(replace(VIT, layer_scale=True), 7, 16), build(VIT, 7, 16)
    weights = scaled.state_dict()
    gammas = {k: torch.rand_like(weights.pop(k)) for k in [k for k in weights if k.endswith("gamma")]}
    scaled.load_state_dict({**weights, **gammas})
    for i in range(2):
        for gamma, last in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
            factor = gammas[f"blocks.{i}.{gamma}.gamma"]
            weights[f"blocks.{i}.{last}.weight"] = weights[f"blocks.{i}.{last}.weight"] * factor[:, None]
            weights[f"blocks.{i}.{last}.bias"] = weights[f"blocks.{i}.{last}.bias"] * factor
    plain.load_state_dict(weights)
    x = example(VIT)
    torch.testing.assert_close(scaled(x), plain(x))


def test_tied_weights_are_one_parameter_with_two_nodes() -> None:
    model = build(GPT)
    assert model.lm_head.weight is model.wte.weight
    graph = sketch(GPT).graph()
    (slot,) = [s for s in graph.slots if s.fqn == "wte.weight"]
    assert slot.aliases == ("lm_head.weight",)
    assert [i for i, name in enumerate(graph.names) if name == "wte.weight"] == [slot.node, len(graph) - 1]
    untied = sketch(replace(GPT, tied=False))
    assert untied.num_params - sketch(GPT).num_params == 11 * 24


def test_nothing_is_initialised_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in dir(torch.nn.init) if name.endswith("_") and not name.startswith("_")]:
        monkeypatch.setattr(torch.nn.init, name, lambda *_, **__: pytest.fail("initialised"))
    for genotype in SMALL.values():
        assert all(p.is_meta for p in build(genotype, 7, 16, "meta").parameters())


def test_language_models_ignore_classes_and_image() -> None:
    assert_same_graph(sketch(GPT, 3, 5).graph(), sketch(GPT).graph())
    build(GPT, 3, 5, "meta")


class Only:
    """A generator that can do nothing but `random()`, as all that is stable between versions of Python."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed).random


@pytest.mark.parametrize("kind", ["vit", "gpt"])
def test_candidates_cover_their_axes_and_depend_on_the_seed_alone(kind: str) -> None:
    axes, draw = (VitAxes(), vit_candidate) if kind == "vit" else (GptAxes(), gpt_candidate)
    rng, drawn = Only(1), []
    for _ in range(400):
        drawn.append(draw(rng, axes))
    again = Random(1)
    assert drawn == [draw(again, axes) for _ in range(400)]
    assert {g.layers for g in drawn} == set(axes.layers)
    assert {g.width // g.heads for g in drawn} == set(axes.head_widths)
    shares = dict.fromkeys(("bias", "class_token", "layer_scale"), 0.5)
    if kind == "gpt":
        shares = {**dict.fromkeys(("bias", "rotary", "rms_norm", "swiglu"), 0.5), "tied": 0.8}
    for flag, share in shares.items():
        assert abs(sum(getattr(g, flag) for g in drawn) / 400 - share) < 0.1
    fits = [g for g in drawn if small_enough(g, axes)]
    assert len(fits) > 200
    assert max(sketch(g).num_params for g in fits[:100]) <= axes.limit
    assert not small_enough(drawn[0], replace(axes, limit=1000))


@pytest.mark.parametrize("kind", ["vit", "gpt"])
def test_records_round_trip_through_json(kind: str) -> None:
    for seed in range(50):
        genotype = random_genotype(kind, seed)
        assert TransformerGenotype.from_dict(json.loads(json.dumps(genotype.to_dict()))) == genotype
        assert hash(TransformerGenotype.from_dict(genotype.to_dict())) == hash(genotype)
    whole = replace(VIT, mlp_ratio=4)
    assert json.dumps(whole.to_dict()) == json.dumps(VIT.to_dict())


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (VIT, {"kind": "bert"}, "kind is 'bert'; known are 'vit' and 'gpt'"),
        (VIT, {"kind": None}, "kind is None"),
        (VIT, {"kind": ["vit"]}, "kind is"),
        (VIT, {"layers": 0}, "layers is 0; give a whole number of at least 1"),
        (VIT, {"layers": True}, "layers is True"),
        (VIT, {"width": 24.0}, "width is 24.0; give a whole"),
        (VIT, {"width": 1, "heads": 1}, "width is 1; give at least 2"),
        (VIT, {"heads": 5}, "heads is 5; give a divisor of the width, 24"),
        (VIT, {"mlp_ratio": 0.01}, "mlp_ratio is 0.01; give a number"),
        (VIT, {"mlp_ratio": "4"}, "mlp_ratio is '4'"),
        (VIT, {"mlp_ratio": math.nan}, "mlp_ratio is nan"),
        (VIT, {"mlp_ratio": math.inf}, "mlp_ratio is inf"),
        (VIT, {"bias": 1}, "bias is 1; give True or False"),
        (VIT, {"patch": 0}, "patch is 0"),
        (VIT, {"vocabulary": 10}, "vocabulary is 10; that belongs to a gpt; leave it out"),
        (VIT, {"swiglu": True}, "swiglu is True; that belongs to a gpt"),
        (GPT, {"patch": 4}, "patch is 4; that belongs to a vit"),
        (GPT, {"layer_scale": True}, "layer_scale is True; that belongs to a vit"),
        (GPT, {"vocabulary": 1}, "vocabulary is 1; give a whole number of at least 2"),
        (GPT, {"context": 7}, "context is 7; give a whole number of at least 8"),
        (GPT, {"rotary": True, "heads": 8}, "heads is 8; rotary positions turn pairs"),
    ],
)
def test_impossible_genotypes_are_refused(base: TransformerGenotype, change: dict, message: str) -> None:
    with pytest.raises(GenotypeError, match=message):
        replace(base, **change)
    if "nan" not in message and "inf" not in message and not set(change) - set(base.to_dict()):
        with pytest.raises(GenotypeError, match=message):
            TransformerGenotype.from_dict({**base.to_dict(), **change})


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "not a transformer record: a list"),
        ({}, "it has no kind"),
        ({"kind": ["vit"]}, "kind is"),
        ({"kind": "gpt", "layers": 3}, "it has no width, heads, mlp_ratio, bias, vocabulary"),
    ],
)
def test_records_that_are_none_are_refused(record: object, message: str) -> None:
    with pytest.raises(GenotypeError, match=message):
        TransformerGenotype.from_dict(record)


@pytest.mark.parametrize("side", [4, 18, 0, -4, 16.0])
def test_images_that_patches_do_not_fit_are_named(side: int) -> None:
    for make in (sketch, build):
        with pytest.raises(GenotypeError, match="patch is 4, which does not cut images of side"):
            make(VIT, 10, side)
