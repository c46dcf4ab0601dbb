"""Sampling and splits: the peers' distribution, reproducibility, disjointness."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from functools import cache
from random import Random
from statistics import NormalDist

import deepnets_reference as reference
import numpy as np
import pytest

from deepnets_gen import SPLITS, Genotype, GenotypeError, generate, graph
from deepnets_gen.axes import Axes
from deepnets_gen.connect import NONE
from deepnets_gen.genotype import OPS, POOLING
from deepnets_gen.layout import num_params
from deepnets_gen.sample import HIDDEN, WIDTHS, _cell, candidate, resample_width, small_enough
from deepnets_gen.splits import PREDEFINED, Part
from deepnets_gen.stream import EXHAUSTED, SAMPLED, block

DEEPNETS = ("train", "val", "test", "wide", "deep", "dense", "bnfree", "search")
PINNED = {
    "train": (2, "6a6b181db9cc7f53c6ec944bb561ebfc"),
    "test": (1, "8ff342ab5fefcc678457e9c751a5610b"),
    "vit": (0, "cfd2f604efee16de5bc57feb39e13929"),
    "mobile": (0, "5d7bfd1132078986c161db97c15ffe63"),
}
COUNT = {"train": 800, "bnfree": 300, "deep": 300, "dense": 300}


@cache
def ours(split: str) -> tuple[Genotype, ...]:
    if split == "train":
        return tuple(generate(split, COUNT[split]))
    return sampled(
        SPLITS[split]().axes, COUNT[split]
    )  # without the parts, which take eight draws for one of a test split


def sampled(axes: Axes, count: int) -> tuple[Genotype, ...]:
    rng, found = Random(0), []
    while len(found) < count:
        genotype = candidate(rng, axes)
        if genotype is not None and small_enough(genotype, axes):
            found.append(genotype)
    return tuple(found)


@cache
def theirs(split: str) -> tuple[Genotype, ...]:
    return tuple(Genotype.from_dict(record) for record in reference.records(split))


def same_distribution(a: Iterable[Hashable], b: Iterable[Hashable]) -> float:
    """The p-value of a chi-square test of homogeneity; values seen fewer than ten times together are one class."""
    counts = [Counter(a), Counter(b)]
    common = [v for v in counts[0] | counts[1] if counts[0][v] + counts[1][v] >= 10]
    table = np.array([[*(c[v] for v in common), c.total() - sum(c[v] for v in common)] for c in counts], dtype=float)
    table = table[:, table.sum(axis=0) > 0]
    free = table.shape[1] - 1
    if not free:
        return 1.0
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    chi2 = ((table - expected) ** 2 / expected).sum()
    spread = 2 / (9 * free)  # Wilson and Hilferty: the cube root of chi2 / free is nearly normal
    return 1 - NormalDist(1 - spread, spread**0.5).cdf((chi2 / free) ** (1 / 3))


def edges(genotype: Genotype) -> list[tuple[str, str]]:
    """Every operation with the kind of cell that it is in."""
    return [(kind, op) for kind in ("normal", "reduce") for op, _ in getattr(genotype, kind)]


def inputs(genotype: Genotype) -> list[tuple[int, int]]:
    """Step and input of every edge, in the order kept."""
    return [(j, source) for cell in (genotype.normal, genotype.reduce) for j, (_, source) in enumerate(cell)]


def same_edges(a: Iterable[Genotype], b: Iterable[Genotype], of: Callable[[Genotype], list]) -> float:
    """The p-value of a permutation test of whole networks.

    The statistic is chi-square's; its own table would not do, for edges of one network are no independent draws.
    """
    counters = [[Counter(of(g)) for g in group] for group in (a, b)]
    values = sorted({v for group in counters for c in group for v in c})
    table = np.array([[c[v] for v in values] for group in counters for c in group], dtype=float)
    first = len(counters[0])

    def distance(rows: np.ndarray) -> float:
        counts = np.stack([rows[:first].sum(axis=0), rows[first:].sum(axis=0)])
        expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
        return float(((counts - expected) ** 2 / expected).sum())

    rng, found = np.random.default_rng(0), distance(table)
    return (1 + sum(distance(rng.permutation(table)) >= found for _ in range(999))) / 1000


FEATURES: dict[str, Callable[[Genotype], Hashable]] = {
    "cells": lambda g: g.n_cells,
    "steps": lambda g: g.steps,
    "steps by depth": lambda g: (g.n_cells // 3, g.steps),
    "kernel": lambda g: g.ks,
    "stem": lambda g: (g.stem_type, g.stem_pool),
    "norm": lambda g: (g.n_cells < 6, g.steps, g.norm),
    "preproc": lambda g: (g.is_vit, g.steps, g.c_mult, g.preproc),
    "head": lambda g: (g.fc_layers, g.fc_dim, g.is_vit, g.glob_avg),
    "concat": lambda g: g.normal_concat,
    "only pooling": lambda g: all("pool" in op or op in ("none", "skip_connect") for op, _ in g.reduce),
    "size": lambda g: int(np.log2(num_params(g, everything=True))),
}


@pytest.mark.parametrize("split", list(COUNT))
@pytest.mark.parametrize("feature", list(FEATURES))
def test_networks_are_distributed_as_the_peers_are(split, feature):
    value = FEATURES[feature]
    assert same_distribution(map(value, ours(split)), map(value, theirs(split))) > 1e-3


@pytest.mark.parametrize("split", list(COUNT))
@pytest.mark.parametrize("of", [edges, inputs])
def test_edges_are_distributed_as_the_peers_are(split, of):
    assert same_edges(ours(split), theirs(split), of) > 5e-3


def test_the_distribution_tests_tell_splits_apart():
    assert same_edges(ours("dense"), theirs("train"), edges) == 1e-3
    assert same_distribution((g.n_cells for g in ours("train")), (g.n_cells for g in theirs("deep"))) < 1e-6


@pytest.mark.parametrize("split", DEEPNETS)
def test_networks_obey_the_rules_of_their_split(split):
    axes = SPLITS[split]().axes
    for g in generate(split, 40):
        cells = [[op for op, _ in cell] for cell in (g.normal, g.reduce)]
        assert axes.cells[0] <= g.n_cells <= axes.cells[1]
        assert axes.steps[0] <= g.steps <= axes.steps[1]
        assert g.steps <= axes.deep_steps or g.n_cells <= max(axes.deep_above)
        assert g.channels == axes.channels
        assert num_params(replace(g, channels=32), everything=True) <= axes.limit
        assert all(cell.count("cse") <= 1 for cell in cells)
        assert all(cell.count("conv_5x5") + cell.count("conv_7x7") <= 1 for cell in cells)
        assert any("conv" in op or op == "msa" for cell in cells for op in cell)
        assert g.steps > 1 or "none" not in cells[0] + cells[1]


def test_bnfree_has_no_norm_search_always_wide_four_times():
    assert {g.norm for g in generate("bnfree", 40)} == {None}
    assert {g.norm for g in generate("search", 40)} == {"bnorm"}
    assert {g.channels for g in generate("wide", 40)} == {128}


@pytest.mark.parametrize("split", list(SPLITS))
def test_a_longer_run_begins_with_the_shorter_and_blocks_are_parts_of_one_stream(split):
    long, short = list(generate(split, 12)), list(generate(split, 5))
    assert long[:5] == short
    assert len({graph(g).key for g in long}) == len(long)
    whole = block(split, 0, 60)
    parts = [block(SPLITS[split](), start, start + 20) for start in (40, 0, 20)]
    assert [d for i in (1, 2, 0) for d in parts[i].drawn] == list(whole.drawn)
    assert Counter(whole.fates) == sum((Counter(part.fates) for part in parts), Counter())


@pytest.mark.parametrize("split", list(SPLITS))
def test_every_candidate_is_accounted_for(split):
    found = block(split, 0, 60)
    assert found.fates[SAMPLED] + found.fates.get(EXHAUSTED, 0) == 60
    left_out = sum(n for fate, n in found.fates.items() if fate not in (SAMPLED, EXHAUSTED))
    assert len(found.drawn) + left_out == found.fates[SAMPLED]
    for drawn in found.drawn[:10]:
        made = graph(drawn.genotype)
        assert (drawn.key, drawn.nodes, drawn.num_params) == (made.key, len(made), made.num_params)


def test_another_offset_is_another_stream_and_finite_splits_end():
    assert list(generate("train", 5, seed_offset=1)) != list(generate("train", 5))
    assert list(generate("predefined", 100)) == list(PREDEFINED)
    assert block("predefined", 0, 5).fates == {SAMPLED: 2, EXHAUSTED: 3}


def test_streams_are_pinned():
    """A change here changes every corpus and checkpoint card: raise `stream.GENERATOR` with it."""
    pinned = {split: block(split, 0, 40).drawn[0] for split in ("train", "test", "vit", "mobile")}
    assert {split: (drawn.index, drawn.key) for split, drawn in pinned.items()} == PINNED


def test_seeds_differ_and_held_out_splits_share_no_topology_with_train():
    made = {name: make() for name, make in SPLITS.items()}
    assert len({split.seed for split in made.values()}) == len(made)
    found = {name: {graph(g).topology for g in generate(name, 60)} for name in made}
    train, val = {graph(g).topology for g in ours("train")}, found["val"]
    assert not any(train & found[name] for name in made if name != "train")
    assert not any(val & found[name] for name in made if name != "val")


def test_a_cell_of_nasbench201_is_trained_on_or_held_out():
    """The whole of each split is made of other networks; what is left out of training is a quarter."""
    parts = [{d.key for d in block(f"cells201_{name}", 0, 2500).drawn} for name in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set().union(*parts))
    assert len(parts[0]) / sum(map(len, parts)) == pytest.approx(0.75, abs=0.03)
    cells = {g.ops for name in ("train", "val", "test") for g in generate(f"cells201_{name}", 40)}
    assert len(cells) == 120
    assert all(block(f"cells201_{name}", 15_600, 15_700).fates[EXHAUSTED] == 75 for name in ("train", "val"))


def test_parts_are_disjoint_by_construction_even_in_a_crowded_space():
    """With one step and few cells there are few topologies: without parts, splits would collide."""
    graphs = [graph(g) for g in sampled(Axes(cells=(4, 4), steps=(1, 1)), 1200)]
    seen = {part: {g.key for g in graphs if Part.of(g.topology) is part} for part in Part}
    shares = [len(s) for s in seen.values()]
    assert sum(shares) == len(set().union(*seen.values())) < len(graphs)
    assert shares[0] > 4 * shares[1] > 0
    assert shares[2] > 0


def test_widths_do_not_move_a_network_to_another_part():
    for g in generate("train", 30):
        wider = resample_width(Random(0), replace(g, fc_dim=64), 10_000)
        assert Part.of(graph(wider).topology) is Part.TRAIN
    for g in PREDEFINED:
        assert Part.of(graph(g).topology) is Part.TEST


def drawn(genotype: Genotype, params: int) -> tuple[set[int], set[int]]:
    rng = Random(0)
    widths = [resample_width(rng, genotype, params) for _ in range(800)]
    return {g.channels for g in widths}, {g.fc_dim for g in widths}


def test_small_networks_grow_wider():
    small = Genotype((("conv_3x3", 0), ("conv_1x1", 1)), (("conv_1x1", 0), ("cse", 1)), (2,), (2,), 5)
    assert drawn(small, 100_000) == (set(WIDTHS), set(HIDDEN))
    assert drawn(small, 300_000) == ({32, 48, 64}, set(HIDDEN[:4]))
    assert drawn(small, 500_000) == ({32, 48}, set(HIDDEN[:4]))
    assert drawn(small, 900_000) == ({32}, set(HIDDEN[:4]))
    assert drawn(replace(small, n_cells=9), 1)[0] == {32, 48, 64}
    assert drawn(replace(small, n_cells=11), 1)[0] == {32, 48}
    assert drawn(replace(small, n_cells=13), 1)[0] == {32}
    assert drawn(replace(small, glob_avg=False), 1)[0] == {32}
    assert drawn(replace(small, normal=(("conv_5x5", 0), ("conv_1x1", 1))), 1)[0] == {32}
    wide = [g for s in range(200) if (g := resample_width(Random(s), small, 1)).channels > 64]
    assert {g.fc_dim for g in wide} == set(HIDDEN[:4])


def test_unknown_splits_are_named():
    with pytest.raises(GenotypeError, match="no split 'tset'; there are train, val, test"):
        next(generate("tset", 1))


def scored_cell(rng: np.random.Generator, steps: int, allowed: list[str]) -> list[tuple[str, int]]:
    """A cell as the paper draws it: the two inputs with the highest score of any operation, and that operation."""
    edges = []
    columns = [OPS.index(op) for op in allowed]
    for i in range(steps):
        raw = np.exp(1e-3 * rng.standard_normal((i + 2, len(OPS))))
        scores = (raw / raw.sum(axis=1, keepdims=True))[:, columns]
        for source in np.argsort(-scores.max(axis=1))[:2]:
            edges.append((allowed[int(scores[source].argmax())], int(source)))
    return edges


@pytest.mark.parametrize("allowed", [list(OPS), [NONE, *POOLING]])
def test_uniform_draws_have_the_law_of_the_papers_scores(allowed):
    rng, ours_rng, steps, count = np.random.default_rng(0), Random(0), 3, 6000
    scored = [scored_cell(rng, steps, allowed) for _ in range(count)]
    uniform = [list(_cell(ours_rng, steps, allowed)) for _ in range(count)]
    for i in range(steps):
        sources = [[(c[2 * i][1], c[2 * i + 1][1]) for c in cells] for cells in (scored, uniform)]
        assert same_distribution(*sources) > 1e-3
        pairs = [[(c[2 * i], c[2 * i + 1][0]) for c in cells] for cells in (scored, uniform)]
        assert same_distribution(*pairs) > 1e-3
