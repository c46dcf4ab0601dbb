"""Identity: isomorphism decided by networkx is the oracle, on graphs small and alike enough to be confused."""

from itertools import combinations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import graphs, reordered

from deepnets_gen import generate, graph, sketch
from deepnets_gen.splits import SPLITS
from deepnets_gen.stream import block
from ghn import kinds
from ghn.graph import ArchGraph
from ghn.identity import identities
from ghn.primitives import Primitive


def labelled(item: ArchGraph, widths: bool) -> nx.DiGraph:
    out = nx.DiGraph(item.edges.tolist())
    for v, (op, shape) in enumerate(zip(item.ops.tolist(), item.shapes.tolist(), strict=True)):
        out.add_node(v, label=(op, *(shape if widths else shape[2:])))
    return out


def isomorphic(a: ArchGraph, b: ArchGraph, widths: bool) -> bool:
    same = nx.isomorphism.categorical_node_match("label", None)
    return nx.is_isomorphic(labelled(a, widths), labelled(b, widths), node_match=same)


def tangle(rng: np.random.Generator, n: int) -> ArchGraph:
    """A graph of one type of node, so that only its edges tell it from others."""
    edges = [(int(rng.integers(v)), v) for v in range(1, n)]
    edges += [tuple(sorted(rng.choice(n, 2, replace=False).tolist())) for _ in range(n // 2)]
    return ArchGraph(np.array([Primitive.INPUT] + [Primitive.SUM] * (n - 1)), np.array(edges), np.zeros((n, 4)))


@pytest.mark.parametrize("n", [5, 6, 7])
def test_keys_are_equal_exactly_for_isomorphic_graphs(n: int) -> None:
    rng = np.random.default_rng(n)
    items = [tangle(rng, n) for _ in range(60)]
    equal = 0
    for a, b in combinations(items, 2):
        assert (a.key == b.key) == isomorphic(a, b, widths=True)
        equal += a.key == b.key
    assert equal or n == 7


def test_cells_of_a_crowded_space() -> None:
    """Of NAS-Bench-201, whose cells are many descriptions of few graphs."""
    items = [graph(d.genotype) for d in block("nasbench201", 3000, 3060).drawn]
    pairs = [(a.key == b.key, isomorphic(a, b, widths=True)) for a, b in combinations(items, 2)]
    assert all(ours == theirs for ours, theirs in pairs)
    assert {ours for ours, _ in pairs} == {True, False}


def test_topology_is_isomorphism_without_channels() -> None:
    items = [graph(g) for split in ("vit", "bnfree") for g in generate(split, 12)]
    items += [graph(g, num_classes=7) for g in generate("bnfree", 4)]
    found = {(a.topology == b.topology, isomorphic(a, b, widths=False)) for a, b in combinations(items, 2)}
    assert found == {(True, True), (False, False)}


@settings(max_examples=30)
@given(items=st.lists(graphs(), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_neither_company_nor_order_matters(items: list[ArchGraph], seed: int) -> None:
    rng = np.random.default_rng(seed)
    others = [reordered(item, rng) for item in items]
    together = identities([_Nodes(item) for item in others])
    assert together == [item.identity for item in items]


class _Nodes:
    def __init__(self, item: ArchGraph) -> None:
        self.kinds = kinds.numbers(item.ops, item.shapes)
        self.preds, self.levels = item.predecessors, item.levels.tolist()


@pytest.mark.parametrize("split", list(SPLITS))
def test_sketches_and_graphs_have_the_same(split: str) -> None:
    genotypes = list(generate(split, 6))
    assert identities([sketch(g) for g in genotypes]) == [graph(g).identity for g in genotypes]


def test_kinds_are_numbered_once_and_their_table_grows() -> None:
    shape = (8191, 7, 5, 3)
    found = kinds.number(4, shape)
    assert kinds.number(4, shape) == found != kinds.number(5, shape)
    table = kinds.table()
    assert (table.ops[found], tuple(table.shapes[found].tolist())) == (4, shape)
    other = kinds.number(4, (8190, 7, 5, 3))
    mine, theirs = kinds.table().colours[:, found], kinds.table().colours[:, other]
    assert mine[0] != theirs[0]
    assert mine[1] == theirs[1]


def test_nothing_has_no_identities() -> None:
    assert identities([]) == []
