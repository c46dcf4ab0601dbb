"""ArchGraph: its invariants, JSON form, paths, levels and identity; networkx and hypothesis as oracles."""

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import annotated_graphs, graphs, reordered

from ghn.errors import GHNError, GraphError
from ghn.graph import FAR, ArchGraph, ParamSlot, Uncovered, encoder_shape
from ghn.primitives import Primitive, Role


def small() -> ArchGraph:
    """input -> conv -> bias -> sum, input -> sum."""
    return ArchGraph(
        ops=np.array([Primitive.INPUT, Primitive.CONV, Primitive.BIAS, Primitive.SUM]),
        edges=np.array([[0, 1], [1, 2], [2, 3], [0, 3]]),
        shapes=np.array([[0, 0, 0, 0], [8, 3, 3, 3], [8, 1, 1, 1], [0, 0, 0, 0]]),
        slots=(ParamSlot("c.weight", Role.WEIGHT, (8, 3, 3, 3), 1), ParamSlot("c.bias", Role.BIAS, (8,), 2)),
    )


def chain(n: int) -> ArchGraph:
    edges = np.array([(i, i + 1) for i in range(n - 1)])
    return ArchGraph(np.array([9] + [4] * (n - 1)), edges, np.zeros((n, 4)))


def networkx_of(item: ArchGraph) -> nx.DiGraph:
    out = nx.DiGraph(item.edges.tolist())
    out.add_nodes_from(range(len(item)))
    return out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ops": np.array([4, 4, 10, 7])}, "node 0 of a graph must be 'input'"),
        ({"ops": np.array([]), "shapes": np.zeros((0, 4)), "names": ()}, "got 0 nodes"),
        ({"ops": np.array([9, 4, 15, 7])}, "node 2 has type 15"),
        ({"shapes": np.zeros((3, 4))}, "4 nodes but 3 shapes"),
        ({"names": ("a", "b")}, "2 names"),
        ({"edges": np.array([[0, 1], [2, 1]])}, r"edge \[2, 1\] does not point forward"),
        ({"edges": np.array([[1, 1]])}, r"edge \[1, 1\]"),
        ({"edges": np.array([[0, 4]])}, r"edge \[0, 4\] does not point forward within 4 nodes"),
        ({"edges": np.array([[-1, 2]])}, r"edge \[-1, 2\]"),
        ({"slots": (ParamSlot("far", Role.BIAS, (8,), 4),)}, "'far' is on node 4"),
        ({"slots": (ParamSlot("a", Role.BIAS, (8,), 1),) * 2}, "'a' has two slots"),
        ({"outputs": (4,)}, "output 4"),
        ({"outputs": (-1,)}, "output -1"),
    ],
)
def test_broken_invariants_are_refused(change: dict, message: str) -> None:
    with pytest.raises(GraphError, match=message) as caught:
        replace(small(), **change)
    assert isinstance(caught.value, GHNError)


def test_edges_become_unique_and_sorted_and_the_rest_has_defaults() -> None:
    item = replace(small(), edges=np.array([[2, 3], [0, 1], [0, 1], [1, 2], [0, 3]]), names=())
    assert item.edges.tolist() == [[0, 1], [0, 3], [1, 2], [2, 3]]
    assert item.names == ("input", "conv", "bias", "sum")
    assert item.outputs == (3,)


def test_one_node_is_a_graph() -> None:
    item = ArchGraph(np.array([9]), np.zeros((0, 2)), np.zeros((1, 4)))
    assert item.distances.tolist() == [[0]]
    assert item.levels.tolist() == [0]
    assert ArchGraph.from_json(item.to_json()) == item


def test_nothing_can_be_changed() -> None:
    ops = np.array([9, 4], dtype=np.uint8)
    edges, shapes = np.array([[0, 1]], dtype=np.int32), np.zeros((2, 4), dtype=np.int32)
    item = ArchGraph(ops, edges, shapes)
    for array in (item.ops, item.edges, item.shapes, item.distances, item.levels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(FrozenInstanceError):
        item.ops = ops  # ty: ignore
    ops[1], shapes[:] = 7, 5  # the caller's arrays stay the caller's
    assert item.ops.tolist() == [9, 4]
    assert not item.shapes.any()


def test_num_params_counts_covered_and_uncovered_once() -> None:
    rest = (Uncovered("token", (1, 1, 5), "no rule", used=True),)
    assert replace(small(), uncovered=rest).num_params == 8 * 27 + 8 + 5


def test_slot_counts() -> None:
    slot = ParamSlot("w", Role.WEIGHT, (8, 3, 5, 5), 1)
    assert (slot.numel, slot.fan_in) == (600, 75)
    assert ParamSlot("b", Role.BIAS, (8,), 1).fan_in == 1


@settings(max_examples=40)
@given(item=annotated_graphs())
def test_json_round_trip(item: ArchGraph) -> None:
    again = ArchGraph.from_json(item.to_json())
    assert again == item
    assert hash(again) == hash(item)
    assert again.slots == item.slots
    assert again.uncovered == item.uncovered
    assert again.outputs == item.outputs


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "{}", '{"format": 2}', '{"format": 1}'])
def test_other_text_is_no_graph(text: str) -> None:
    with pytest.raises(GraphError):
        ArchGraph.from_json(text)


def set_at(*path: str | int, value: object) -> Callable[[dict], None]:
    def change(data: dict) -> None:
        for step in path[:-1]:
            data = data[step]
        data[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_at("format", value=99), "99"),
        (set_at("ops", 1, value="conv2d"), "CONV2D"),
        (set_at("ops", 1, value=4), "not a graph: AttributeError"),
        (set_at("edges", value=[[0]]), "not a graph"),
        (set_at("edges", 0, value=[1, 0]), "does not point forward"),
        (set_at("edges", 0, value=[0, 2**40]), "not a graph"),
        (set_at("slots", 0, value={}), "fqn"),
        (set_at("slots", 0, "role", value="waight"), "waight"),
        (set_at("slots", 0, "node", value=77), "77"),
        (set_at("uncovered", value=None), "not a graph"),
    ],
)
def test_damaged_records_are_refused(change: Callable[[dict], None], message: str) -> None:
    data = json.loads(small().to_json())
    change(data)
    with pytest.raises(GraphError, match=message):
        ArchGraph.from_dict(data)


@settings(max_examples=60)
@given(item=graphs(16))
def test_distances_are_shortest_paths(item: ArchGraph) -> None:
    expected = np.zeros((len(item), len(item)), dtype=int)
    for u, lengths in nx.all_pairs_shortest_path_length(networkx_of(item)):
        for v, length in lengths.items():
            expected[u, v] = length
    np.testing.assert_array_equal(item.distances, expected)


def test_distances_end_at_a_byte() -> None:
    item = chain(300)
    assert item.distances[0, FAR - 1] == FAR - 1
    assert not item.distances[0, FAR:].any()
    assert item.distances[299 - FAR + 1, 299] == FAR - 1


@settings(max_examples=60)
@given(item=graphs(16))
def test_levels_are_longest_paths_from_the_sources(item: ArchGraph) -> None:
    generations = list(nx.topological_generations(networkx_of(item)))
    assert [sorted(np.flatnonzero(item.levels == i)) for i in range(len(generations))] == [
        sorted(g) for g in generations
    ]


@settings(max_examples=40)
@given(item=graphs(16))
def test_neighbours(item: ArchGraph) -> None:
    theirs = networkx_of(item)
    for v in range(len(item)):
        assert item.predecessors[v] == tuple(sorted(theirs.predecessors(v)))
        assert item.successors[v] == tuple(sorted(theirs.successors(v)))


@settings(max_examples=40)
@given(item=graphs(), seed=st.integers(0, 1000))
def test_key_is_the_same_in_any_order(item: ArchGraph, seed: int) -> None:
    other = reordered(item, np.random.default_rng(seed))
    assert other.key == item.key
    assert hash(other) == hash(item)


@settings(max_examples=40)
@given(item=graphs(), data=st.data())
def test_key_tells_a_changed_graph(item: ArchGraph, data: st.DataObject) -> None:
    node = data.draw(st.integers(1, len(item) - 1))
    ops, shapes = item.ops.copy(), item.shapes.copy()
    ops[node] = (ops[node] + 1) % len(Primitive)
    shapes[node, data.draw(st.integers(0, 3))] += 1
    fewer = np.delete(item.edges, data.draw(st.integers(0, len(item.edges) - 1)), axis=0)
    for change in ({"ops": ops}, {"shapes": shapes}, {"edges": fewer}):
        other = replace(item, **change)
        assert other != item
        assert other.key != item.key, change


def test_key_does_not_read_names_but_equality_does() -> None:
    item = small()
    renamed = replace(item, names=("a", "b", "c", "d"))
    assert renamed.key == item.key
    assert hash(renamed) == hash(item)
    assert renamed != item
    assert item != "graph"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((7,), (7, 1, 1, 1)),
        ((), (1, 1, 1, 1)),
        ((10, 512), (10, 512, 1, 1)),
        ((8, 3, 5, 7), (8, 3, 5, 7)),
        ((1, 197, 768), (1, 768, 14, 14)),
        ((1, 1, 768), (1, 1, 768, 1)),
        ((1, 5, 1), (1, 5, 1, 1)),
        ((6, 4, 3), (6, 4, 3, 1)),
        ((8, 3, 2, 5, 7), (8, 3, 2, 35)),
    ],
)
def test_encoder_shape(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert encoder_shape(shape) == expected
