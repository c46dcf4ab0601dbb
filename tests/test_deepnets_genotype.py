"""Genotypes: round trips, identity, connectivity against a brute-force oracle, messages."""

from dataclasses import replace

import deepnets_reference as reference
import networkx as nx
import pytest

from deepnets_gen import Genotype, GenotypeError, generate, graph
from deepnets_gen.connect import NONE, CellKind, flows

EDGES = (("sep_conv_3x3", 0), ("conv_5x5", 1), ("skip_connect", 0), ("cse", 2))
SAMPLE = Genotype(EDGES, (("max_pool_3x3", 0), ("none", 1), ("conv_1x1", 0), ("conv_3x3", 2)), (2, 3), (2, 3), 6)


@pytest.mark.parametrize("split", ["train", "deep", "dense", "bnfree", "search"])
def test_records_and_json_give_the_genotype_back(split):
    for genotype in generate(split, 20):
        assert Genotype.from_dict(genotype.to_dict()) == genotype
        again = Genotype.from_json(genotype.to_json())
        assert again == genotype
        assert hash(again) == hash(genotype)


@pytest.mark.parametrize("split", ["train", "bnfree", "deep", "dense"])
def test_every_published_record_reads(split):
    for record in reference.records(split):
        genotype = Genotype.from_dict(record)
        assert genotype.channels == 32
        written = genotype.to_dict()
        assert {k: v for k, v in written.items() if k != "C"} == {k: record[k] for k in written if k != "C"}


def test_d3_keeps_its_stored_width():
    assert Genotype.from_dict(reference.nets()["d3"]).channels == 112


def key(genotype: Genotype) -> str:
    return graph(genotype).key


def test_identity_ignores_order_and_dead_edges():
    swapped = replace(SAMPLE, normal=(EDGES[1], EDGES[0], EDGES[3], EDGES[2]), reduce_concat=(3, 2))
    other_none = replace(SAMPLE, reduce=(SAMPLE.reduce[0], ("none", 0), *SAMPLE.reduce[2:]))
    unread = replace(SAMPLE, normal_concat=(2,))
    assert key(swapped) == key(other_none) == key(SAMPLE)
    assert key(unread) == key(replace(unread, normal=(*EDGES[:2], ("conv_3x3", 2), ("none", 0))))


def test_identity_of_steps_does_not_depend_on_their_order():
    first = (("conv_1x1", 0), ("conv_3x3", 1)), (("dil_conv_3x3", 0), ("skip_connect", 1))
    a = replace(SAMPLE, normal=first[0] + first[1], normal_concat=(2, 3))
    b = replace(SAMPLE, normal=first[1] + first[0], normal_concat=(2, 3))
    assert key(a) == key(b)


def test_identity_is_that_of_the_graph_and_not_of_its_description():
    """A step that only passes a state on is no node, so that reading it is reading the state."""
    through = replace(SAMPLE, normal=(("skip_connect", 0), ("none", 1), ("conv_3x3", 2), ("conv_1x1", 1)))
    through = replace(through, normal_concat=(3,))
    direct = replace(through, normal=(*through.normal[:2], ("conv_3x3", 0), through.normal[3]))
    assert through != direct
    assert key(through) == key(direct)


@pytest.mark.parametrize(
    "change",
    [
        {"n_cells": 7},
        {"ks": 5},
        {"stem_type": 1},
        {"stem_pool": True},
        {"norm": None},
        {"fc_layers": 2},
        {"glob_avg": False},
        {"normal": (("sep_conv_5x5", 0), *EDGES[1:])},
        {"normal": (("sep_conv_3x3", 1), *EDGES[1:])},
        {"normal_concat": (3,)},
    ],
)
def test_identity_sees_what_changes_the_network(change):
    changed = graph(replace(SAMPLE, **change))
    assert changed.key != key(SAMPLE)
    assert changed.topology != graph(SAMPLE).topology


def test_key_sees_widths_and_topology_does_not():
    hidden = replace(SAMPLE, fc_layers=2), replace(SAMPLE, fc_layers=2, fc_dim=64)
    for a, b in [(SAMPLE, replace(SAMPLE, channels=64)), (SAMPLE, replace(SAMPLE, c_mult=2)), hidden]:
        assert graph(a).topology == graph(b).topology
        assert key(a) != key(b)
    assert key(replace(SAMPLE, fc_dim=64)) == key(SAMPLE), "without a hidden layer its width is no property"


def test_stem_options_do_not_distinguish_attention_networks():
    vit = replace(SAMPLE, normal=(("msa", 0), *EDGES[1:]))
    assert vit.is_vit
    assert key(vit) == key(replace(vit, ks=7, stem_type=1))


def oracle(cells: tuple[CellKind, ...]) -> list[set[int]] | None:
    """Live edges per cell by reachability in a graph that has a node per edge; None where the output sees nothing."""
    graph = nx.DiGraph([("image", (-2, "out")), ("image", (-1, "out"))])
    for k, cell in enumerate(cells):
        graph.add_edges_from([((k - 2, "out"), (k, 0)), ((k - 1, "out"), (k, 1))])
        for j, (op, source) in enumerate(cell.edges):
            if op != NONE:
                graph.add_edges_from([((k, source), (k, "edge", j)), ((k, "edge", j), (k, j // 2 + 2))])
        graph.add_edges_from(((k, i), (k, "out")) for i in cell.concat)
    end = (len(cells) - 1, "out")
    alive = nx.descendants(graph, "image") & (nx.ancestors(graph, end) | {end})
    if end not in alive:
        return None
    return [{j for j in range(len(c.edges)) if (k, "edge", j) in alive} for k, c in enumerate(cells)]


@pytest.mark.parametrize("split", ["train", "dense", "deep"])
def test_live_edges_are_those_on_a_path_from_image_to_output(split):
    for genotype in generate(split, 60):
        assert [flow.live for flow in genotype.flow] == oracle(genotype.stack)


def test_unconnected_stacks_are_none_for_both():
    dead = CellKind((("none", 0), ("none", 1)), (2,))
    skip = CellKind((("skip_connect", 0), ("none", 1)), (2,))
    both = CellKind((("skip_connect", 0), ("conv_1x1", 1)), (2,))
    for stack in [(dead,), (skip, dead), (dead, skip), (dead, skip, both), (dead, dead, both), (skip, dead, skip)]:
        found = flows(stack)
        assert (found and [f.live for f in found]) == oracle(stack)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"normal": (("conv_9x9", 0), ("cse", 1))}, r"normal cell, edge 0: unknown operation 'conv_9x9'"),
        ({"normal": (("conv_1x1", 2), ("cse", 1)), "normal_concat": (2,)}, r"edge 0 reads state 2; step 0 sees 0\.\.1"),
        ({"normal": (("conv_1x1", -1), ("cse", 1)), "normal_concat": (2,)}, r"edge 0 reads state -1"),
        ({"normal": (("conv_1x1", 0),)}, r"has 1 edges"),
        ({"reduce_concat": (4,)}, r"reduce cell concatenates states \[4\]"),
        ({"reduce_concat": ()}, r"reduce cell concatenates"),
        ({"channels": 20}, r"multiple of 8"),
        ({"n_cells": 0}, r"n_cells is 0"),
        ({"ks": 4}, r"must be odd"),
        ({"norm": "layer"}, r"norm is 'layer'"),
        ({"preproc": False}, r"without preproc"),
        ({"stem_type": 2}, r"stem_type is 2"),
        ({"normal": (("none", 0), ("none", 1)), "normal_concat": (2,)}, r"last cell outputs zeros only"),
    ],
)
def test_messages_name_the_field_and_the_remedy(change, says):
    with pytest.raises(GenotypeError, match=says):
        replace(SAMPLE, **change)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"genotype": 3}', '{"genotype": {"normal": [["cse"]]}}', "null"])
def test_damaged_records_are_named(text):
    with pytest.raises(GenotypeError, match="not "):
        Genotype.from_json(text)


@pytest.mark.parametrize(("field", "value"), [("n_cells", "6"), ("C", None), ("C", 32.0), ("fc_layers", True)])
def test_values_of_wrong_types_are_named(field, value):
    with pytest.raises(GenotypeError, match=field):
        Genotype.from_dict({**SAMPLE.to_dict(), field: value})
