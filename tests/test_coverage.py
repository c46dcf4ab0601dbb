"""The networks that people use become graphs: all of them, right, without a dead slot, and so says `ghn coverage`."""

import json
import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from torch import Tensor, nn
from zoo import COLOURED, LEFT, LIBRARIES, REFUSED, SAMPLE, present, torchvision_classifiers

import ghn
from ghn.adapters.zoo import catalogue, example_input, installed, resolve
from ghn.cli import main
from ghn.errors import GHNError, ModelError
from ghn.graph import ArchGraph
from ghn.primitives import Primitive
from ghn.survey import Row, Totals, html, markdown, percent

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # of the libraries, about themselves
    pytest.mark.skipif(not installed("torchvision"), reason="torchvision is not installed (extra: zoo)"),
]
HERE = tuple(name for name in SAMPLE if present(name))


@cache
def known(name: str) -> tuple[ArchGraph, nn.Module]:
    """The graph of a network, with the network on meta; kept, since building is what takes time."""
    model = resolve(name, 1000, None)
    return ghn.trace(model, example_input(model)), model


def properties(graph: ArchGraph, model: nn.Module) -> None:
    """Each parameter once, no cycle, everything between the input and an output."""
    named = [s.fqn for s in graph.slots] + [u.fqn for u in graph.uncovered]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert all(s.shape == shapes[s.fqn] for s in graph.slots)
    assert graph.num_params == sum(p.numel() for p in model.parameters())
    drawn = nx.DiGraph(graph.edges.tolist())
    assert nx.is_directed_acyclic_graph(drawn)
    positions = {v for v, op in enumerate(graph.ops) if op == Primitive.POS_ENC}
    assert set.union({0}, nx.descendants(drawn, 0), positions, *(nx.descendants(drawn, p) for p in positions)) == set(
        drawn
    )
    assert set.union(*({o} | nx.ancestors(drawn, o) for o in graph.outputs)) == set(drawn)


def check(name: str, graph: ArchGraph, model: nn.Module) -> None:
    """The properties, and nothing is left but what is listed."""
    names, _ = LEFT.get(name, ((), ""))
    assert tuple(u.fqn for u in graph.uncovered) == names, graph.uncovered
    assert not any(u.used for u in graph.uncovered)
    properties(graph, model)


@pytest.mark.parametrize("name", HERE)
def test_every_parameter_of_the_sample_is_predicted(name: str) -> None:
    check(name, *known(name))


@pytest.mark.zoo
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_parameter_of_every_network_is_predicted(library: str) -> None:
    if not installed(library):
        pytest.skip(f"{library} is not installed (extra: zoo)")
    names = catalogue(library, every=True)
    assert len(names) > {"torchvision": 100, "timm": 1300, "transformers": 25}[library]
    for name in names:
        if name in REFUSED:
            with pytest.raises(GHNError):
                known.__wrapped__(name)
        else:
            check(name, *known.__wrapped__(name))


def test_exclusions_are_networks() -> None:
    for name in (*REFUSED, *LEFT):
        if present(name):
            assert name in catalogue(name.partition("/")[0], every=True)


# Nodes by type, worked out from the papers' tables: layers by block, blocks by stage. Linear layers are convolutions.
COUNTS: dict[str, dict[str, int]] = {
    # Two 3x3 a block and three projections, stem and classifier; 8 blocks.
    "torchvision/resnet18": {"conv": 21, "bias": 1, "bn": 20, "sum": 8, "max_pool": 1, "glob_avg": 1},
    "torchvision/resnet34": {"conv": 37, "bias": 1, "bn": 36, "sum": 16, "max_pool": 1, "glob_avg": 1},
    # Three a block and four projections; 16 and 33 blocks.
    "torchvision/resnet50": {"conv": 54, "bias": 1, "bn": 53, "sum": 16, "max_pool": 1, "glob_avg": 1},
    "torchvision/resnet101": {"conv": 105, "bias": 1, "bn": 104, "sum": 33, "max_pool": 1, "glob_avg": 1},
    # The 3x3 of each block in groups.
    "torchvision/resnext50_32x4d": {
        "conv": 38,
        "sep_conv": 16,
        "bias": 1,
        "bn": 53,
        "sum": 16,
        "max_pool": 1,
        "glob_avg": 1,
    },
    # Five and three layers, with biases; three and five pools, then one to a fixed size.
    "torchvision/alexnet": {"conv": 8, "bias": 8, "max_pool": 3, "glob_avg": 1},
    "torchvision/vgg11": {"conv": 11, "bias": 11, "max_pool": 5, "glob_avg": 1},
    "torchvision/vgg16_bn": {"conv": 16, "bias": 16, "bn": 13, "max_pool": 5, "glob_avg": 1},
    # A stem, eight fire modules of three, a classifier.
    "torchvision/squeezenet1_1": {"conv": 26, "bias": 26, "concat": 8, "max_pool": 3, "glob_avg": 1},
    # 58 layers of two, three transitions; each layer but the first of a block, and each block's end, concatenates.
    "torchvision/densenet121": {
        "conv": 121,
        "bias": 1,
        "bn": 121,
        "concat": 58,
        "max_pool": 1,
        "avg_pool": 3,
        "glob_avg": 1,
    },
    # 17 blocks, the first without expansion; ten keep width and resolution.
    "torchvision/mobilenet_v2": {"conv": 36, "sep_conv": 17, "bias": 1, "bn": 52, "sum": 10, "glob_avg": 1},
    # 16 blocks, each with a gate of two layers; nine keep width and resolution.
    "torchvision/efficientnet_b0": {
        "conv": 66,
        "sep_conv": 16,
        "bias": 33,
        "bn": 49,
        "cse": 16,
        "sum": 9,
        "glob_avg": 1,
    },
    # Three units that halve the image, with two branches, and 13 that do not.
    "torchvision/shufflenet_v2_x0_5": {
        "conv": 38,
        "sep_conv": 19,
        "bias": 1,
        "bn": 56,
        "concat": 16,
        "max_pool": 1,
        "glob_avg": 1,
    },
    # 12 blocks of four layers, patches and classifier; the position table adds a sum.
    "torchvision/vit_b_16": {"conv": 50, "bias": 50, "ln": 25, "msa": 12, "sum": 25, "pos_enc": 1},
    # The same with three mergers of patches, each a norm and a layer without bias.
    "torchvision/swin_t": {"conv": 53, "bias": 50, "ln": 29, "msa": 12, "sum": 24, "glob_avg": 1},
    # 18 blocks: depthwise, then two; stem, three reductions, classifier.
    "torchvision/convnext_tiny": {"conv": 41, "sep_conv": 18, "bias": 59, "ln": 23, "sum": 18, "glob_avg": 1},
    # 8 blocks of two times two layers.
    "timm/mixer_s32_224": {"conv": 34, "bias": 34, "ln": 17, "sum": 16, "glob_avg": 1},
    # 12 blocks of six layers, pooler and classifier; tables of words, positions and types: two sums.
    "transformers/bert": {"conv": 74, "bias": 74, "ln": 25, "msa": 12, "sum": 26, "pos_enc": 3},
    # 12 blocks of four, and the words again as the last layer.
    "transformers/gpt2/AutoModelForCausalLM": {"conv": 49, "bias": 48, "ln": 25, "msa": 12, "sum": 25, "pos_enc": 2},
    # 32 blocks of seven, no biases.
    "transformers/llama/AutoModelForCausalLM": {"conv": 225, "ln": 65, "msa": 32, "sum": 64, "pos_enc": 1},
    # 6 blocks of six and 6 of ten; words at both ends, relative positions of both.
    "transformers/t5/AutoModelForSeq2SeqLM": {"conv": 97, "ln": 32, "msa": 18, "sum": 30, "pos_enc": 4},
}


@pytest.mark.parametrize("name", [name for name in COUNTS if present(name)])
def test_nodes_are_the_layers_of_the_paper(name: str) -> None:
    graph, _ = known(name)
    assert Counter(Primitive(op).label for op in graph.ops) == {"input": 1, **COUNTS[name]}


def vision(name: str, size: int = 32) -> Callable[[], tuple[nn.Module, Any]]:
    return lambda: (resolve(name, 10, size, device="cpu"), torch.rand(1, 3, size, size))


def words(kind: str, auto: str, **options: Any) -> Callable[[], tuple[nn.Module, Any]]:
    def build() -> tuple[nn.Module, Any]:
        import transformers

        sizes = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, **options}
        config = transformers.AutoConfig.for_model(kind, **sizes)
        model = getattr(transformers, auto).from_config(config)
        return model, {name: torch.arange(8)[None] for name in example_input(model) or ()}

    return build


HEADS = {"num_attention_heads": 2, "intermediate_size": 24}
KEYS = "a softmax does not see what is added to all of its logits"
# Network -> how it is built, with an input; endings of parameters that cannot matter, and why.
ALIVE: dict[str, tuple[Callable[[], tuple[nn.Module, Any]], tuple[str, ...], str]] = {
    "torchvision/squeezenet1_1": (vision("torchvision/squeezenet1_1"), (), ""),
    "timm/test_resnet": (vision("timm/test_resnet"), (), ""),
    "timm/test_efficientnet": (vision("timm/test_efficientnet"), (), ""),
    "timm/test_convnext": (vision("timm/test_convnext"), (), ""),
    "timm/test_vit": (vision("timm/test_vit"), (), ""),
    "transformers/bert": (words("bert", "AutoModelForMaskedLM", **HEADS), ("key.bias",), KEYS),
    "transformers/gpt2": (words("gpt2", "AutoModelForCausalLM", num_attention_heads=2), (), ""),
    "transformers/llama": (words("llama", "AutoModelForCausalLM", **HEADS, num_key_value_heads=1), (), ""),
    "transformers/mamba": (words("mamba", "AutoModelForCausalLM", state_size=4), (), ""),
    "transformers/t5": (
        *(words("t5", "AutoModelForSeq2SeqLM", d_model=16, d_kv=8, d_ff=24, num_heads=2, num_layers=2), (), ""),
    ),
}


@pytest.mark.parametrize("name", [name for name in ALIVE if present(name)])
def test_every_predicted_tensor_reaches_the_output(name: str) -> None:
    build, dead, _ = ALIVE[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = build()
        if isinstance(x, Tensor):  # some image networks start with scales of zero, behind which nothing matters
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
    graph = ghn.trace(model, x)
    own = dict(model.double().eval().named_parameters())

    def output() -> Tensor:
        out = model(**x) if isinstance(x, dict) else model(x.double())
        return out if isinstance(out, Tensor) else out.logits

    with torch.no_grad():
        before = output()
        for slot in graph.slots:
            parameter = own[slot.fqn]
            kept = parameter.clone()
            parameter.add_(torch.linspace(0.1, 0.3, parameter.numel(), dtype=torch.double).view_as(parameter))
            moved = not torch.allclose(output(), before, rtol=1e-12, atol=1e-15)
            assert moved == (not slot.fqn.endswith(dead) if dead else True), slot.fqn
            parameter.copy_(kept)


# The ends


@pytest.mark.parametrize("name", ["torchvision/resnet18", "torchvision/googlenet", "timm/vit_tiny_patch16_224"])
def test_other_classes(name: str) -> None:
    if not present(name):
        pytest.skip("not installed")
    model = ghn.adjust_classes(resolve(name, 1000, None), 7)
    expected = {n: p.shape for n, p in resolve(name, 7, None).named_parameters()}
    assert {n: p.shape for n, p in model.named_parameters()} == expected


@pytest.mark.parametrize(
    ("name", "path"), [("resnet18", "conv1"), ("swin_v2_t", "features.0.0"), ("vgg11", "features.0")]
)
def test_other_channels(name: str, path: str) -> None:
    model = ghn.adjust_channels(resolve(f"torchvision/{name}", 10, None, device="cpu"), 5)
    first = model.get_submodule(path)
    assert (first.in_channels, first.weight.shape[1]) == (5, 5)
    assert model.eval()(torch.zeros(1, 5, 64, 64)).shape == (1, 10)
    assert not ghn.trace(model).uncovered


def test_folded_pixels_and_declared_sizes() -> None:
    model = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3), nn.Flatten())
    model.expected_input_sz = (3, 8, 8)
    assert ghn.adjust_channels(model, 1)[1].weight.shape == (4, 4, 3, 3)
    assert model.expected_input_sz == (1, 8, 8)


def test_ends_that_cannot_be_adjusted_are_named() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4), nn.LayerNorm(4))
    with pytest.raises(ModelError, match=r"reads its input with '1' \(Linear\)"):
        ghn.adjust_channels(flat, 1, torch.zeros(2, 3, 8, 8))
    with pytest.raises(ModelError, match="ends in nothing that has a weight"):
        ghn.adjust_classes(flat, 5, torch.zeros(2, 3, 8, 8))


@pytest.mark.zoo
def test_ends_of_every_classifier() -> None:
    """Heads of all; channels of all but those whose stems are listed."""
    for name in [*torchvision_classifiers(), *(catalogue("timm") if installed("timm") else ())]:
        heads = ghn.adjust_classes(resolve(name, 1000, None), 7)
        assert [p.shape for p in heads.parameters()] == [p.shape for p in resolve(name, 7, None).parameters()]
        if name in COLOURED:
            with pytest.raises(ModelError, match="no plain convolution"):
                ghn.adjust_channels(heads, 1)
        else:
            assert not [u for u in ghn.trace(ghn.adjust_channels(heads, 1)).uncovered if u.used]


# The command


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, table = tmp_path / "coverage.html", tmp_path / "coverage.md"
    names = ["torchvision/resnet18", "torchvision/resnet5O"]
    assert main(["coverage", *names, "--html", str(page), "--markdown", str(table)]) == 0
    out = capsys.readouterr().out
    assert "1 of 2 networks traced, 1 with every parameter that matters" in out
    assert "similar: resnet50" in out
    assert page.read_text().count("<svg") == 1
    assert "| torchvision/resnet18 | 53 | 60 | 62 |" in table.read_text()
    assert main(["coverage", *names, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["nodes"], first["share"], first["reason"]) == (53, 1.0, "")
    assert (second["nodes"], second["share"]) == (0, 0.0)
    assert "resnet50" in second["reason"]


def test_an_unknown_library_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coverage", "--zoo", "torchvision,keras"]) == 2
    assert "no library 'keras'; known are torchvision, timm, transformers" in capsys.readouterr().err


def test_what_is_not_whole_never_reads_as_whole() -> None:
    assert [percent(x) for x in (0, 0.5, 0.99996, 1)] == ["0.0%", "50.0%", "99.9%", "100%"]
    rows = [Row("a/x", nodes=3, share=1.0, seconds=1.0), Row("a/y", nodes=2, share=0.999, reason="w: b|c"), Row("b/z")]
    totals = Totals.of(rows)
    assert (totals.models, totals.traced, totals.whole, totals.median, totals.p95) == (3, 2, 1, 1.0, 1.0)
    assert "99.9% | 0.000 | w: b\\|c |" in markdown(rows)
    assert "<details>" not in html([(row, None) for row in rows])
    assert math.isfinite(Totals.of([]).median)
