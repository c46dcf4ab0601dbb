"""NAS-Bench-201: all cells; the stated graph is the traced one; the benchmark's own counts and a literal definition."""

import ast
import json
from random import Random

import networkx as nx
import pytest
import torch
from reference import SHARED
from spaces import assert_stated_as_traced, multiply_adds
from torch import nn

from deepnets_gen.genotype import GenotypeError
from deepnets_gen.spaces.nasbench201 import (
    EDGES,
    NONE,
    OPS,
    SIZE,
    Nasbench201Axes,
    Nasbench201Genotype,
    candidate,
    candidate_at,
    live_edges,
    num_params_published,
    sketch,
)
from deepnets_gen.spaces.nasbench201_net import build

TABLES = SHARED / "data" / "nas"
THIN = Nasbench201Axes(cells=(1, 2), channels=(2, 4, 7))
CONVS = Nasbench201Genotype(("nor_conv_3x3",) * 6)
ONE_DEAD = Nasbench201Genotype(  # state 2 leads nowhere, state 1 is not fed
    (NONE, "nor_conv_1x1", "nor_conv_3x3", "nor_conv_3x3", "avg_pool_3x3", NONE), cells=1, channels=4
)


pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(seed: int, axes: Nasbench201Axes = THIN) -> Nasbench201Genotype:
    rng = Random(seed)
    while True:
        if genotype := candidate(rng, axes):
            return genotype


def rows(name: str) -> list[dict]:
    table = pytest.importorskip("pyarrow.parquet", reason="reads a parquet table")
    if not (TABLES / name).exists():
        pytest.skip(f"{name} is in the shared data, which this checkout does not have")
    return table.read_table(TABLES / name).to_pylist()


def all_cells() -> list[Nasbench201Genotype | None]:
    return [candidate_at(i) for i in range(SIZE)]


def test_every_cell_has_its_place() -> None:
    cells = [cell for cell in all_cells() if cell]
    assert len(cells) == len(set(cells)) == 15_284
    for i, cell in enumerate(all_cells()):
        assert cell is None or cell.index == i
        assert cell is None or Nasbench201Genotype.from_arch(cell.arch) == cell


def test_live_edges_are_those_on_a_path_from_input_to_output() -> None:
    """Against reachability in a graph that has a node per edge."""
    for i in range(0, SIZE, 7):  # 7 is prime to 5: every digit of every place comes up
        ops = tuple(OPS[i // 5**d % 5] for d in reversed(range(6)))
        graph = nx.DiGraph()
        graph.add_nodes_from(range(4))
        for j, (op, (source, target)) in enumerate(zip(ops, EDGES, strict=True)):
            if op != NONE:
                graph.add_edges_from([(source, f"e{j}"), (f"e{j}", target)])
        between = nx.descendants(graph, 0) & nx.ancestors(graph, 3)
        assert live_edges(ops) == tuple(j for j in range(6) if f"e{j}" in between)
        assert (candidate_at(i) is None) == (3 not in nx.descendants(graph, 0))


@pytest.mark.parametrize("seed", range(60))
def test_the_stated_graph_is_the_traced_one(seed: int) -> None:
    genotype = drawn(seed)
    assert_stated_as_traced(sketch(genotype, 7, 8), build(genotype, 7, 8, "meta"))


@pytest.mark.parametrize("seed", range(8))
def test_so_is_that_of_the_benchmark_s_networks(seed: int) -> None:
    genotype = drawn(seed, Nasbench201Axes())
    assert_stated_as_traced(sketch(genotype), build(genotype, device="meta"))


@pytest.mark.parametrize(
    "ops",
    [
        ("skip_connect",) * 6,  # x + x is x to the graph
        (NONE, NONE, NONE, "skip_connect", NONE, NONE),  # no cell is left
        ("skip_connect", "nor_conv_1x1", "skip_connect", "skip_connect", "skip_connect", "skip_connect"),
        ("avg_pool_3x3",) * 6,
        ("nor_conv_3x3", NONE, "skip_connect", NONE, "nor_conv_1x1", "nor_conv_1x1"),
        ("nor_conv_3x3", NONE, "skip_connect", NONE, "skip_connect", "skip_connect"),
        ONE_DEAD.ops,
    ],
)
def test_so_are_those_of_cells_where_values_meet_themselves(ops: tuple[str, ...]) -> None:
    genotype = Nasbench201Genotype(ops, 2, 4)
    assert_stated_as_traced(sketch(genotype, 7, 8), build(genotype, 7, 8))


def test_parameters_of_725_cells_are_those_that_others_counted() -> None:
    """On three data sets, in another library's order of edges and names of operations."""
    named = ("skip_connect", NONE, "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
    edges = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    classes = {"cifar10": 10, "cifar100": 100, "ImageNet16-120": 120}
    checked = 0
    for row in rows("zerocost_scores.parquet"):
        if row["space"] != "nasbench201":
            continue
        by_edge = dict(zip(edges, ast.literal_eval(row["arch"]), strict=True))
        ops = tuple(named[by_edge[edge]] for edge in EDGES)
        if not live_edges(ops):
            continue
        found = num_params_published(Nasbench201Genotype(ops), classes[row["dataset"]])
        assert found == round(row["params"] * 1e6), row
        checked += 1
    assert checked > 2000


def test_every_cell_of_the_table_is_a_cell_and_has_its_size() -> None:
    connected = 0
    for row in rows("nasbench201.parquet"):
        cell = candidate_at(int(row["ops"], 5))
        if cell is None:
            with pytest.raises(GenotypeError, match="cut the output from the input"):
                Nasbench201Genotype.from_arch(row["arch"])
            continue
        assert cell.arch == row["arch"]
        if connected % 20 == 0:
            assert num_params_published(cell) == round(row["params_m_c10_formula"] * 1e6)
        connected += 1
    assert connected == 15_284


def test_parameters_that_the_benchmark_reports() -> None:
    """Dong & Yang 2020: 0.073306 M of a cell without convolutions, 1.531546 M of the largest, 0.802426 M between."""
    between = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
    assert num_params_published(Nasbench201Genotype(("skip_connect",) * 6)) == 73_306
    assert num_params_published(Nasbench201Genotype.from_arch(between)) == 802_426
    assert num_params_published(CONVS) == sketch(CONVS).num_params == 1_531_546


def test_edges_that_carry_nothing_have_no_parameters() -> None:
    names = [name for name, _ in build(ONE_DEAD, device="meta").cells[0].named_parameters()]
    assert names == [f"layers.3.op.{part}" for part in ("1.weight", "2.weight", "2.bias")]
    assert num_params_published(ONE_DEAD) - sketch(ONE_DEAD).num_params == sum(10 * c * c + 4 * c for c in (4, 8, 16))


def literal(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Dong & Yang 2020, figure 1 and section 2.1, from the named parameters alone; batch statistics."""
    p, g = dict(model.named_parameters()), model.genotype

    def norm(x: torch.Tensor, path: str) -> torch.Tensor:
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        scaled = (x - mean) / (var + 1e-5).sqrt()
        return scaled * p[f"{path}.weight"].view(-1, 1, 1) + p[f"{path}.bias"].view(-1, 1, 1)

    def conv(x: torch.Tensor, path: str, stride: int = 1) -> torch.Tensor:
        weight = p[f"{path}.op.1.weight"]
        x = nn.functional.conv2d(x.clamp(min=0), weight, stride=stride, padding=weight.shape[-1] // 2)
        return norm(x, f"{path}.op.2")

    def pool(x: torch.Tensor) -> torch.Tensor:
        ones = torch.ones_like(x[:1, :1])
        sums, counts = (nn.functional.avg_pool2d(t, 3, 1, 1, divisor_override=1) for t in (x, ones))
        return sums / counts

    def cell(x: torch.Tensor, path: str) -> torch.Tensor:
        states = [x, *(torch.zeros_like(x) for _ in range(3))]
        for j, (op, (source, target)) in enumerate(zip(g.ops, EDGES, strict=True)):
            if op in ("nor_conv_1x1", "nor_conv_3x3") and j in g.live:
                states[target] = states[target] + conv(states[source], f"{path}.layers.{j}")
            elif op in ("skip_connect", "avg_pool_3x3"):
                states[target] = states[target] + (pool(states[source]) if "pool" in op else states[source])
        return states[3]

    x = norm(nn.functional.conv2d(x, p["stem.0.weight"], padding=1), "stem.1")
    for k in range(3 * g.cells + 2):
        path = f"cells.{k}"
        if k in (g.cells, 2 * g.cells + 1):
            halves = x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))
            wide = torch.einsum("oi,bihw->bohw", p[f"{path}.downsample.1.weight"][:, :, 0, 0], halves)
            x = wide + conv(conv(x, f"{path}.conv_a", 2), f"{path}.conv_b")
        else:
            x = cell(x, path)
    return norm(x, "lastact.0").clamp(min=0).mean((2, 3)) @ p["classifier.weight"].T + p["classifier.bias"]


@pytest.mark.parametrize("seed", range(12))
def test_networks_are_their_literal_definition(seed: int) -> None:
    torch.manual_seed(seed)
    model, x = build(drawn(seed), 7, 8).double(), torch.randn(3, 3, 8, 8, dtype=torch.double)
    for name, p in model.named_parameters():
        if p.dim() == 1:
            nn.init.normal_(p, 1.0 if name.endswith("weight") else 0.0, 0.5)
    torch.testing.assert_close(model(x), literal(model, x))


@pytest.mark.parametrize("seed", range(12))
def test_networks_run_and_every_parameter_has_a_finite_gradient(seed: int) -> None:
    torch.manual_seed(0)
    model = build(drawn(seed), 7, 16)
    out = model(torch.randn(4, 3, 16, 16))
    assert out.shape == (4, 7)
    assert out.isfinite().all()
    out.square().sum().backward()
    for fqn, parameter in model.named_parameters():
        assert parameter.grad is not None, fqn
        assert parameter.grad.isfinite().all(), fqn
    assert list(model.buffers()) == []


@pytest.mark.parametrize("seed", range(4))
def test_multiply_adds_are_those_of_the_running_module(seed: int) -> None:
    model = build(drawn(seed), 7, 12)
    assert sketch(model.genotype, 7, 12).macs == multiply_adds(model, torch.randn(2, 3, 12, 12)[:1])


def test_records_give_the_genotype_back() -> None:
    for seed in range(40):
        genotype = drawn(seed)
        again = Nasbench201Genotype.from_dict(json.loads(json.dumps({**genotype.to_dict(), "more": 1})))
        assert again == genotype
        assert hash(again) == hash(genotype)


def test_random_cells_come_from_everywhere() -> None:
    rng = Random(0)
    cells = [candidate(rng, Nasbench201Axes()) for _ in range(2000)]
    assert 1900 < sum(cell is not None for cell in cells) < 2000  # 15,284 of 15,625 are connected
    for j in range(6):
        assert {cell.ops[j] for cell in cells if cell} == set(OPS)


@pytest.mark.parametrize(
    ("ops", "more", "says"),
    [
        (("nor_conv_3x3",) * 5, {}, "give 6 operations"),
        (["nor_conv_3x3"] * 6, {}, "give 6 operations"),
        (("nor_conv_5x5",) * 6, {}, "ops is 'nor_conv_5x5'; known are none, skip_connect"),
        ((NONE,) * 6, {}, "cut the output from the input"),
        (("skip_connect", "skip_connect", "skip_connect", NONE, NONE, NONE), {}, "cut the output"),
        (CONVS.ops, {"cells": 0}, "cells is 0"),
        (CONVS.ops, {"channels": "16"}, "channels is '16'"),
    ],
)
def test_messages_name_the_field_and_the_remedy(ops: tuple[str, ...], more: dict, says: str) -> None:
    with pytest.raises(GenotypeError, match=says):
        Nasbench201Genotype(ops, **more)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "|",
        "|none~0|",
        CONVS.arch[:-1],
        CONVS.arch + "|",
        CONVS.arch.replace("~2", "~1"),
        CONVS.arch.replace("+", ""),
        3,
    ],
)
def test_texts_that_are_no_cell_are_named(text: object) -> None:
    with pytest.raises(GenotypeError, match="arch is "):
        Nasbench201Genotype.from_arch(text)


@pytest.mark.parametrize("record", [None, [], {}, {"arch": CONVS.arch}])
def test_damaged_records_are_named(record: object) -> None:
    with pytest.raises(GenotypeError, match="not a NAS-Bench-201 record"):
        Nasbench201Genotype.from_dict(record)


@pytest.mark.parametrize("index", [-1, SIZE, 1.0, None])
def test_there_are_no_other_cells(index: object) -> None:
    with pytest.raises(GenotypeError, match="there are 15625 cells"):
        candidate_at(index)


@pytest.mark.parametrize("side", [0, -4, 2, 33, 8.0])
def test_images_that_cannot_be_halved_are_named(side: float) -> None:
    for make in (sketch, build):
        with pytest.raises(GenotypeError, match=r"image_size is .*multiple of 4"):
            make(CONVS, 10, side)
