"""Statistics of a corpus: against networkx and literal definitions; comparison: against scipy where it is at hand."""

import argparse
import json
from pathlib import Path
from typing import Any

import deepnets_reference as reference
import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepnets_gen import families
from deepnets_gen.compare import CountTest, against, compare, compare_counts, compare_numbers
from deepnets_gen.genotype import Genotype
from deepnets_gen.published import PUBLISHED, SAME_SAMPLER
from deepnets_gen.splits import SPLITS
from deepnets_gen.stats import NODES, NORMAL, REDUCTION, STEM, Counts, readable, spread_out, table, text
from deepnets_gen.stats_cli import add_stats, read_records, records_table
from deepnets_gen.stream import generate
from deepnets_gen.write import write_corpus
from ghn.errors import DataError, GHNError
from ghn.graph import ArchGraph
from ghn.primitives import Primitive

COUNT = 24


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora") / "test"
    write_corpus("test", COUNT, folder, workers=1, shard_size=10)
    return folder


@pytest.fixture(scope="module")
def entries() -> list[tuple[Genotype, ArchGraph]]:
    return [(g, families.graph(g)) for g in generate("train", COUNT)]


def run(*arguments: Any) -> int:
    parser = argparse.ArgumentParser()
    add_stats(parser.add_subparsers())
    args = parser.parse_args(["stats", *map(str, arguments)])
    return args.handler(args)


def test_numbers_are_those_of_networkx(entries: list[tuple[Genotype, ArchGraph]]) -> None:
    found = table(entries).numbers
    for i, (genotype, graph) in enumerate(entries):
        directed = nx.DiGraph(graph.edges.tolist())
        undirected = directed.to_undirected()
        assert found["nodes"][i] == directed.number_of_nodes()
        assert found["edges"][i] == directed.number_of_edges()
        assert found["depth"][i] == nx.dag_longest_path_length(directed)
        assert found["degree"][i] == pytest.approx(np.mean([d for _, d in undirected.degree()]))
        assert found["path"][i] == pytest.approx(nx.average_shortest_path_length(undirected))
        assert found["parameters"][i] == graph.num_params
        assert (found["cells"][i], found["steps"][i]) == (genotype.n_cells, len(genotype.normal) // 2)


def test_kinds_count_what_the_genotype_says(entries: list[tuple[Genotype, ArchGraph]]) -> None:
    found = table(entries)
    for i, (genotype, graph) in enumerate(entries):
        for name, edges in ((NORMAL, genotype.normal), (REDUCTION, genotype.reduce)):
            counts = found.counts[name]
            listed = [op for label, n in zip(counts.labels, counts.rows[i], strict=True) for op in [label] * n]
            assert sorted(listed) == sorted(op for op, _ in edges)
        assert found.counts[NODES].rows[i].sum() == len(graph)
        stem = found.counts[STEM].labels[int(found.counts[STEM].rows[i].argmax())]
        assert (stem == "patches") == genotype.is_vit
        assert (stem == "three convolutions") == (genotype.stem_type == 1 and not genotype.is_vit)
        assert stem != "one convolution, pool" or genotype.stem_pool
        assert found.traits["no global pooling"][i] == (not genotype.glob_avg)
        assert found.traits["attention"][i] == (Primitive.MSA in graph.ops)


def test_a_family_without_cells_has_the_rest() -> None:
    entries = [(g, families.graph(g)) for g in generate("gpt", 3)] + [
        (g, families.graph(g)) for g in generate("test", 2)
    ]
    found = table(entries)
    summary = found.summary()
    assert found.size == 5
    assert len(found.numbers["nodes"]) == 5
    assert len(found.numbers["cells"]) == 2
    assert found.traits["attention"][:3].all()
    assert summary["numbers"]["cells"]["networks"] == 2
    assert "of 2" in text(summary)
    assert NORMAL not in table(entries[:3]).counts


def test_shares_add_up_and_survive_json(entries: list[tuple[Genotype, ArchGraph]]) -> None:
    summary = table(entries).summary()
    assert json.loads(json.dumps(summary)) == summary
    for shares in summary["counts"].values():
        assert sum(shares.values()) == pytest.approx(1)
    for s in summary["numbers"].values():
        assert s["min"] <= s["quantiles"]["0.05"] <= s["quantiles"]["0.5"] <= s["quantiles"]["0.95"] <= s["max"]


@given(total=st.integers(1, 500), wanted=st.integers(1, 600))
def test_a_sample_is_spread_over_all(total: int, wanted: int) -> None:
    chosen = spread_out(total, wanted)
    assert len(chosen) == len(set(chosen)) == min(total, wanted)
    assert chosen == sorted(chosen)
    assert chosen[0] == 0
    assert max(np.diff([*chosen, total])) <= -(-total // len(chosen))


@pytest.mark.parametrize(
    ("value", "said"),
    [(3, "3"), (2.5, "2.5"), (9999, "9999"), (12344, "12.34k"), (2.5e6, "2.5M"), (-3e9, "-3G"), (0.09223, "0.09223")],
)
def test_readable(value: float, said: str) -> None:
    assert readable(value) == said


@given(st.lists(st.integers(0, 30), min_size=2, max_size=60), st.lists(st.integers(0, 30), min_size=2, max_size=60))
def test_the_greatest_distance_of_two_distributions_by_definition(a: list[int], b: list[int]) -> None:
    found = compare_numbers(np.array(a), np.array(b))
    distances = [abs(sum(x <= t for x in a) / len(a) - sum(x <= t for x in b) / len(b)) for t in range(31)]
    assert found.ks == pytest.approx(max(distances))
    assert 0 <= found.p <= 1


def test_significance_is_scipys() -> None:
    scipy = pytest.importorskip("scipy.stats", reason="needs scipy, which nothing but this test asks for")
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.02, 0.1, 0.5):
        a, b = rng.normal(size=400), rng.normal(shift, size=700)
        theirs = scipy.ks_2samp(a, b, method="asymp")
        ours = compare_numbers(a, b)
        assert ours.ks == pytest.approx(theirs.statistic)
        assert ours.p == pytest.approx(scipy.kstwobign.sf(ours.ks * np.sqrt(400 * 700 / 1100)), abs=1e-9)
        assert ours.p == pytest.approx(theirs.pvalue, abs=0.03)


def test_effect_sizes_by_hand() -> None:
    a, b = np.array([1.0, 2, 3]), np.array([3.0, 4, 5])
    assert compare_numbers(a, b).d == -2  # both spread by 1
    counts = (Counts(("x", "y"), np.array([[8, 2]])), Counts(("x", "y"), np.array([[2, 8]])))
    found = compare_counts(*counts, np.random.default_rng(0))
    assert found.v == pytest.approx(0.6)  # chi2 = 7.2 of 20
    assert found.most == ("x", 0.8, 0.2)


def test_the_permutation_test_is_level_although_edges_come_in_clumps() -> None:
    """Networks that repeat one operation many times: chi-square's own law would reject nearly always."""
    rng = np.random.default_rng(1)

    def sample() -> Counts:
        return Counts(("x", "y", "z"), 8 * np.eye(3, dtype=int)[rng.integers(3, size=40)])

    results = [compare_counts(sample(), sample(), rng).p for _ in range(40)]
    assert sum(p < 0.1 for p in results) <= 10
    biased = Counts(("x", "y", "z"), 8 * np.eye(3, dtype=int)[np.zeros(40, dtype=int)])
    assert compare_counts(biased, sample(), rng).p < 0.01


def test_a_sample_is_like_itself_and_unlike_another_split() -> None:
    rng = np.random.default_rng(0)
    train = table((g, families.graph(g)) for g in generate("train", 40))
    deep = table((g, families.graph(g)) for g in generate("deep", 40))
    same = compare(train, train, rng)
    assert all(t.d == 0 and t.ks == 0 and t.p == 1 for t in same.numbers.values())
    assert all(isinstance(c, CountTest) and c.v < 1e-6 and c.p == 1 for c in same.counts.values())
    assert compare(train, deep, rng).numbers["cells"].p < 1e-3
    assert json.dumps(same.to_dict())


def test_published_figures_belong_to_splits() -> None:
    assert PUBLISHED.keys() <= SPLITS.keys()
    assert {*SAME_SAMPLER, *SAME_SAMPLER.values()} <= PUBLISHED.keys()
    found = against(table((g, families.graph(g)) for g in generate("train", 60)), PUBLISHED["train"])
    assert abs(found.z) < 4
    assert str(found).startswith("against the published table (1,000 networks): nodes ")


def test_the_command_prints_the_corpus(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(corpus, "--sample", 7) == 0
    said = capsys.readouterr().out
    assert f"{COUNT} networks" in said
    assert "of 7" in said
    assert "published table (500 networks)" in said
    assert run(corpus, "--json", "--sample", 0) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["numbers"]["path"]["networks"] == found["numbers"]["nodes"]["networks"] == COUNT
    assert found["published"]["networks"] == [COUNT, 500]


@pytest.mark.parametrize("wrap", [lambda r: {"splits": {"train": r}}, lambda r: {"test": {"nets": r, "meta": {}}}])
def test_the_command_compares(wrap: Any, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "meta.json"
    records = [families.to_record(g) for g in generate("test", 12)]
    file.write_text(json.dumps(wrap(records)))
    assert run(corpus, "--json", "--against", file) == 0
    found = json.loads(capsys.readouterr().out)["against"]
    assert found["numbers"]["nodes"]["networks"] == [COUNT, 12]
    assert run(corpus, "--against", file) == 0
    assert "squeeze-excite" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[1, 2]", "has no records"),
        ("nonsense", "has no records"),
        ('{"train": {"meta": {}}}', "has no records"),
        ('{"splits": {"deep": [{}]}}', "no records of split 'test'; it has deep"),
    ],
)
def test_a_file_without_records_is_one_sentence(content: str, says: str, corpus: Path, tmp_path: Path) -> None:
    file = tmp_path / "meta.json"
    file.write_text(content)
    with pytest.raises(DataError, match=says):
        run(corpus, "--against", file)
    with pytest.raises(DataError, match="has no records"):
        read_records(tmp_path / "absent.json", "test")


def test_no_corpus_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(GHNError, match="is no corpus"):
        run(tmp_path)


@pytest.mark.parametrize("split", ["train", "bnfree", "deep", "dense"])
def test_the_peers_draws_are_of_our_distribution(split: str) -> None:
    """A gross difference would show in sixty networks; benchmarks/distribution.py looks closer."""
    records = reference.records(split)
    theirs = records_table([records[i] for i in spread_out(len(records), 60)])
    ours = table((g, families.graph(g)) for g in generate(split, 60))
    found = compare(ours, theirs, np.random.default_rng(0))
    assert min(t.p for t in found.numbers.values()) > 1e-3
    assert min(c.p for c in found.counts.values()) > 1e-3
