"""Every space conforms; each against its published table."""

from functools import cache
from itertools import permutations
from random import Random

import numpy as np
import pytest
from search_cases import TABLES, SpaceCase, Toy, needs_tables

import deepnets_gen
from deepnets_gen.spaces.nasbench201 import EDGES, OPS, live_edges
from eval.tables import load
from search.errors import SearchError
from search.space import SearchSpace
from search.spaces import SPACES, make_space
from search.spaces.nasbench201 import Nasbench201, cell_identity, conv_paths


class TestToy(SpaceCase):
    builds = False

    @pytest.fixture(scope="class")
    @classmethod
    def space(cls) -> SearchSpace:
        return Toy()

    def test_all_are_counted_once(self, space: SearchSpace) -> None:
        genes = [a.genes for a in space.all()]
        assert len(set(genes)) == len(genes) == 4**3 - 1 + 3 * 4**4
        assert space.size == 4**5


class TestNasbench201(SpaceCase):
    @pytest.fixture(scope="class")
    @classmethod
    def space(cls) -> SearchSpace:
        return make_space("nasbench201", cells=1)

    def test_cells_without_a_path_have_neighbours_but_no_module(self, space: SearchSpace) -> None:
        cut = space.arch([0] * 6)
        assert len(space.neighbors(cut)) == 24
        with pytest.raises(ValueError, match="cut the output"):
            space.build(cut)


class TestMacro(SpaceCase):
    @pytest.fixture(scope="class")
    @classmethod
    def space(cls) -> SearchSpace:
        return make_space("macro")


class TestMnasNet(SpaceCase):
    image_size = 64

    @pytest.fixture(scope="class")
    @classmethod
    def space(cls) -> SearchSpace:
        return make_space("mnasnet")


class TestDarts(SpaceCase):
    @pytest.fixture(scope="class")
    @classmethod
    def space(cls) -> SearchSpace:
        return make_space("darts", cells=3)


class TestDeepNets(SpaceCase):
    @pytest.fixture(scope="class")
    @classmethod
    def space(cls) -> SearchSpace:
        return make_space("deepnets")


def test_an_unknown_space_or_setting_is_told() -> None:
    with pytest.raises(SearchError, match=r"nasbench201, macro"):
        make_space("nowhere")
    with pytest.raises(SearchError, match="cannot be made"):
        make_space("macro", width=3)
    assert set(SPACES) == {"nasbench201", "macro", "mnasnet", "darts", "deepnets"}


# What a cell computes, as numbers: the oracle for its identity.


def _output(ops: tuple[int, ...], layers: dict[int, tuple[float, float]]) -> float:
    """One number through the cell. layers: of each edge with a layer, its two weights: tanh(a x + b)."""
    states = {0: 0.7, 1: 0.0, 2: 0.0, 3: 0.0}
    for j in live_edges(tuple(OPS[o] for o in ops)):
        source, target = EDGES[j]
        x = states[source]
        if OPS[ops[j]] != "skip_connect":
            a, b = layers[j]
            x = np.tanh(a * x + b)
        states[target] += x
    return states[3]


def _layers(ops: tuple[int, ...]) -> list[int]:
    return [j for j in live_edges(tuple(OPS[o] for o in ops)) if OPS[ops[j]] != "skip_connect"]


def _same_function(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether some way to give `other` the layers of `one`, operation by operation, gives the same outputs."""
    mine, theirs = _layers(one), _layers(other)
    if sorted(one[j] for j in mine) != sorted(other[j] for j in theirs):
        return False
    rng = np.random.default_rng(0)
    draws = [{j: tuple(rng.normal(size=2)) for j in mine} for _ in range(3)]
    for order in permutations(mine):
        if all(one[a] == other[b] for a, b in zip(order, theirs, strict=True)):
            pairs = list(zip(order, theirs, strict=True))
            if all(np.isclose(_output(one, d), _output(other, {b: d[a] for a, b in pairs}), atol=1e-12) for d in draws):
                return True
    return False


def _published(ops: tuple[int, ...]) -> str:
    """The benchmark's own string of a cell: sums of terms in order, zeros written out, no account of shared layers."""
    text = {0: "0"}
    for node in (1, 2, 3):
        terms = []
        for op, (source, target) in zip(ops, EDGES, strict=True):
            if target == node:
                name, x = OPS[op], text[source]
                dead = name == "none" or x == "#"
                terms.append("#" if dead else x if name == "skip_connect" else f"({x})@{name}")
        text[node] = "+".join(sorted(terms))
        if set(terms) == {"#"} and len(terms) == 1:
            text[node] = "#"
    return text[3]


@cache
def _cells() -> tuple[tuple[int, ...], ...]:
    return tuple(a.genes for a in Nasbench201().all())


def test_cells_are_the_same_exactly_where_they_compute_the_same() -> None:
    groups: dict[str, list[tuple[int, ...]]] = {}
    for genes in _cells():
        groups.setdefault(cell_identity(genes), []).append(genes)
    assert len(groups) == 5425
    rng = Random(0)
    alike = [rng.sample(g, 2) for g in groups.values() if len(g) > 1]
    assert all(_same_function(*pair) for pair in rng.sample(alike, 60))
    # Those that the benchmark's string takes for one, and ours tells apart: shared layers.
    strings: dict[str, list[tuple[int, ...]]] = {}
    for genes in _cells():
        strings.setdefault(_published(genes), []).append(genes)
    assert len(strings) == 6466
    told_apart = [(g[0], h) for g in strings.values() for h in g[1:] if cell_identity(h) != cell_identity(g[0])]
    assert told_apart
    assert not any(_same_function(*pair) for pair in rng.sample(told_apart, min(40, len(told_apart))))


def test_paths_of_a_cell_by_hand() -> None:
    cell = tuple(
        OPS.index(op) for op in ("nor_conv_3x3", "none", "nor_conv_1x1", "skip_connect", "none", "avg_pool_3x3")
    )
    assert sorted(conv_paths(cell)) == [0, 2]  # 0-3 by a skip; 0-1-2-3 by two convolutions and a pool
    assert conv_paths((0,) * 6) == []


@needs_tables
def test_parameters_are_those_of_the_published_tables() -> None:
    """All of Macro, and samples of the others."""
    from search.spaces.nasbench201 import published

    rng, macro = Random(0), make_space("macro")
    import torch

    table = load(macro.tables[0], "params", TABLES)
    assert len(table) == macro.size == 6561
    with torch.device("meta"):
        for genes in rng.sample(sorted(table), 25):
            assert sum(p.numel() for p in macro.build(macro.arch(genes)).parameters()) == table[genes]
    mnasnet = make_space("mnasnet")
    table = load(mnasnet.tables[0], "params", TABLES)
    assert len(table) == 5125
    for genes in rng.sample(sorted(table), 100):
        sketch = deepnets_gen.sketch(mnasnet.genotype(genes), 1000, 224)
        assert sketch.num_params == pytest.approx(1e6 * table[genes], abs=0.5)
    cells = make_space("nasbench201")
    table = load(cells.tables[0], "params_m_c10_formula", TABLES)
    assert len(table) == cells.size == 15625
    for genes in rng.sample(sorted(g for g in table if conv_paths(g)), 100):
        assert published(cells.genotype(genes)) == pytest.approx(1e6 * table[genes], abs=0.5)


@needs_tables
def test_every_row_of_the_other_tables_is_one_of_the_space() -> None:
    darts = make_space("darts")
    table = load(darts.tables[0], "params", TABLES)
    assert len(table) == 167  # of 545: in the others a step reads one state twice
    for genes in list(table)[:40]:
        assert darts.arch(genes).genes == genes
    big = make_space("darts", cells=20, channels=32)
    ours = [deepnets_gen.sketch(big.genotype(g)).num_params for g in table]
    assert np.corrcoef(ours, list(table.values()))[0, 1] > 0.99  # C = 36 there, and a wider stem
    cells = make_space("nasbench201")
    for source in cells.tables[1:]:
        metric = next(iter(source.columns))
        assert len(load(source, metric, TABLES)) in (15625, 724)


@needs_tables
def test_a_foreign_table_names_the_same_cells() -> None:
    """NASLib numbers operations and edges in its own way; the parameters agree all the same."""
    cells = make_space("nasbench201")
    theirs = load(cells.tables[2], "params", TABLES)
    ours = load(cells.tables[0], "params_m_c10_formula", TABLES)
    assert len(theirs) == 725
    assert all(value == pytest.approx(ours[genes], abs=1e-6) for genes, value in theirs.items())
