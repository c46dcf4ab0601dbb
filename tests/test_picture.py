"""The drawing: whatever the graph, boxes and edges are where a reader expects them. And the numbers of `summary`."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghn.graph import ArchGraph, ParamSlot
from ghn.layout import BOX, WIDTH, layout, ranks
from ghn.picture import CHARS, label, svg
from ghn.primitives import Primitive, Role
from ghn.summary import Summary, average_path, table

NS = {"s": "http://www.w3.org/2000/svg"}


@st.composite
def graphs(draw: st.DrawFn) -> ArchGraph:
    """Any valid graph: chains with random skips, sources in the middle, several ends."""
    n = draw(st.integers(1, 160))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    edges = [(v - 1, v) for v in range(1, n) if rng.random() < 0.9]
    for _ in range(draw(st.integers(0, n)) if n > 1 else 0):
        u, v = sorted(rng.choice(n, 2, replace=False).tolist())
        edges.append((u, v))
    ops = [Primitive.INPUT, *rng.choice([p for p in Primitive if p != Primitive.INPUT], n - 1)]
    shapes = [[0] * 4, *rng.integers(1, 2000, (n - 1, 4)).tolist()]
    names = tuple(f"<{'block.' * (i % 9)}{i}&conv.weight>" for i in range(n))
    return ArchGraph(np.array(ops), np.array(edges).reshape(-1, 2), np.array(shapes), names=names)


def chain(n: int, skips: Sequence[tuple[int, int]] = ()) -> ArchGraph:
    edges = [(i, i + 1) for i in range(n - 1)] + list(skips)
    return ArchGraph(np.array([9] + [4] * (n - 1)), np.array(edges).reshape(-1, 2), np.zeros((n, 4)))


@settings(max_examples=40)
@given(graphs())
def test_boxes_are_apart_and_edges_run_from_bottom_to_top(graph: ArchGraph) -> None:
    plan = layout(graph)
    width, height = plan.size
    assert len(plan.nodes) == len(graph)
    for i, (x, y) in enumerate(plan.nodes):
        assert BOX[0] / 2 <= x <= width - BOX[0] / 2
        assert BOX[1] / 2 <= y <= height - BOX[1] / 2
        for x2, y2 in plan.nodes[:i]:
            assert abs(x - x2) >= BOX[0] or abs(y - y2) >= BOX[1]
    for (u, v), path in zip(graph.edges.tolist(), plan.edges, strict=True):
        assert path[0] == (plan.nodes[u][0], plan.nodes[u][1] + BOX[1] / 2)
        assert path[-1] == (plan.nodes[v][0], plan.nodes[v][1] - BOX[1] / 2)
        assert all(0 < x < width and 0 < y < height for x, y in path)


@settings(max_examples=40)
@given(graphs())
def test_long_edges_meet_no_box(graph: ArchGraph) -> None:
    """Every stretch of an edge that is not between neighbouring rows is level or upright, and outside all boxes."""
    plan = layout(graph)
    boxes = np.array(plan.nodes)
    for path in plan.edges:
        for (x0, y0), (x1, y1) in pairwise(path) if len(path) > 2 else ():
            assert x0 == x1 or y0 == y1
            across = (boxes[:, 0] + BOX[0] / 2 > min(x0, x1)) & (boxes[:, 0] - BOX[0] / 2 < max(x0, x1))
            down = (boxes[:, 1] + BOX[1] / 2 > min(y0, y1)) & (boxes[:, 1] - BOX[1] / 2 < max(y0, y1))
            assert not (across & down).any()


@settings(max_examples=40)
@given(graphs())
def test_different_nodes_share_no_upright_stretch_beside_the_lanes(graph: ArchGraph) -> None:
    plan = layout(graph)
    stretches: dict[float, list[tuple[int, float, float]]] = {}
    for (u, _), path in zip(graph.edges.tolist(), plan.edges, strict=True):
        for (x0, y0), (x1, y1) in pairwise(path[1:-1]) if len(path) > 2 else ():
            if x0 == x1:
                stretches.setdefault(x0, []).append((u, min(y0, y1), max(y0, y1)))
    for group in stretches.values():
        for i, (u, low, high) in enumerate(group):
            assert all(u == w or high < a or b < low for w, a, b in group[:i])


@settings(max_examples=25)
@given(graphs())
def test_svg_is_xml_with_a_box_and_tooltip_per_node_and_a_path_per_edge(graph: ArchGraph) -> None:
    root = ET.fromstring(svg(graph))
    titles = [t.text or "" for t in root.iterfind(".//s:title", NS)]
    assert [t.split("\n")[0] for t in titles] == [f"{i}: {name}" for i, name in enumerate(graph.names)]
    drawing = root.find("s:g", NS)
    assert drawing is not None
    assert len(drawing.findall("s:path", NS)) == len(graph.edges)
    legend = {t.text for t in root.findall("s:text", NS)}
    assert {f"{Primitive(op).label} {(graph.ops == op).sum()}" for op in graph.ops} <= legend


def test_a_long_chain_wraps_into_columns_of_bounded_width() -> None:
    plan = layout(chain(500))
    assert plan.size[0] < WIDTH + BOX[0]
    assert plan.size[1] < 2500
    assert len({x for x, _ in plan.nodes}) > 5
    assert layout(chain(20)).size[0] < 300


def test_an_edge_over_a_whole_column_passes_above_it() -> None:
    plan = layout(chain(150, [(3, 140)]))
    path = plan.edges[[tuple(e) for e in chain(150, [(3, 140)]).edges.tolist()].index((3, 140))]
    assert min(y for _, y in path) < min(y for _, y in plan.nodes) - BOX[1] / 2


def test_a_source_stands_just_above_its_first_use() -> None:
    graph = ArchGraph(np.array([9, 4, 4, 13, 7]), np.array([(0, 1), (1, 2), (2, 4), (3, 4)]), np.zeros((5, 4)))
    assert ranks(graph).tolist() == [0, 1, 2, 2, 3]


@given(st.text(st.characters(categories=["L", "N", "P"]), max_size=60), st.sampled_from(["", "64", "128×64×3×3"]))
def test_labels_fit_and_keep_the_shape(name: str, shape: str) -> None:
    text = label(name, shape)
    assert len(text) <= CHARS
    assert text.endswith(shape)


@settings(max_examples=25)
@given(graphs())
def test_summary_agrees_with_networkx(graph: ArchGraph) -> None:
    reference = nx.DiGraph(graph.edges.tolist())
    reference.add_nodes_from(range(len(graph)))
    undirected = reference.to_undirected()
    lengths = [d for _, row in nx.all_pairs_shortest_path_length(undirected) for d in row.values() if d]
    assert average_path(graph) == pytest.approx(np.mean(lengths) if lengths else 0)
    summary = Summary.of(graph)
    assert summary.depth == nx.dag_longest_path_length(reference)
    assert summary.degree == pytest.approx(np.mean([d for _, d in undirected.degree]))
    assert sum(summary.primitives.values()) == len(graph)


def test_summary_counts_parameters_by_role_and_the_table_is_cut_in_the_middle() -> None:
    slots = (ParamSlot("a", Role.WEIGHT, (8, 3, 3, 3), 1), ParamSlot("b", Role.WEIGHT, (4, 8), 2))
    graph = ArchGraph(np.array([9, *[4] * 99]), np.array([(i, i + 1) for i in range(99)]), np.zeros((100, 4)), slots)
    assert Summary.of(graph).roles == {"weight": (2, 248)}
    assert len(table(graph, None).splitlines()) == 101
    cut = table(graph, 10).splitlines()
    assert len(cut) == 12
    assert [int(line.split()[0]) for line in (*cut[1:6], *cut[7:])] == [0, 1, 2, 3, 4, 95, 96, 97, 98, 99]
    assert "90 more" in cut[6]
