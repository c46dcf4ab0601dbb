"""The original's node counts, predicted from genotypes: against its records, and where they can be told by hand."""

import sys
from dataclasses import replace
from pathlib import Path

import deepnets_reference as reference
import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepnets_gen.genotype import Genotype
from deepnets_gen.stats import spread_out

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import peer_count

PLAIN = Genotype(
    normal=(("cse", 0), ("none", 1)),
    reduce=(("conv_1x1", 0), ("none", 1)),
    normal_concat=(2,),
    reduce_concat=(2,),
    n_cells=1,
)


@pytest.mark.parametrize("split", ["train", "bnfree", "deep", "dense"])
def test_every_recorded_count_is_predicted(split: str) -> None:
    records = reference.records(split)
    for i in spread_out(len(records), 60):
        assert peer_count.recorded_nodes(Genotype.from_dict(records[i])) == records[i]["num_nodes"], i


def test_squeeze_excite_is_noticed_on_its_own_and_not_beside_a_branch() -> None:
    assert peer_count.noticed(PLAIN) == (1, 0)
    assert peer_count.noticed(replace(PLAIN, normal=(("cse", 0), ("sep_conv_3x3", 1)))) == (0, 0)


def test_attention_is_noticed_only_where_one_function_comes_between() -> None:
    """PyTorch 2.13 puts the copy ten functions after the softmax; the rule looks for eleven."""
    attention = replace(PLAIN, normal=(("msa", 0), ("none", 1)), preproc=False)
    order = peer_count.Tape(attention).order()
    assert order.index(peer_count.COPY) - order.index(peer_count.SOFTMAX) == peer_count.BEFORE_COPY - 1
    assert peer_count.noticed(attention) == (0, 0)


@given(st.integers(2, 25).flatmap(lambda n: st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))))
def test_the_order_is_that_of_networkx(pairs: list[tuple[int, int]]) -> None:
    edges = {(min(p), max(p)) for p in pairs if p[0] != p[1]}
    size = 1 + max((v for e in edges for v in e), default=0)
    # Numbered from the last on, so that the order is not just that of the numbers.
    number = range(size)[::-1]
    sources: list[set[int]] = [set() for _ in range(size)]
    for u, v in edges:
        sources[number[v]].add(number[u])
    graph = nx.DiGraph()
    graph.add_nodes_from(range(size))
    graph.add_edges_from(sorted((u, v) for v, read in enumerate(sources) for u in read))
    assert peer_count._generations(sources) == list(nx.topological_sort(graph))
