"""Round trips through DGL and networkx, and DGL's sweep against ours."""

import builtins
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import graph as reference_graph
from reference import needs_reference
from strategies import annotated_graphs, graphs

from ghn.adapters import MissingExtraError
from ghn.adapters.dgl import batch_from_dgl, batch_to_dgl, from_dgl, import_dgl, sweep_dgl, to_dgl
from ghn.adapters.networkx import from_networkx, to_networkx
from ghn.batch import GraphBatch
from ghn.errors import GHNError, GraphError
from ghn.graph import ArchGraph
from ghn.primitives import Primitive
from ghn.propagate.gated import GatedGNN

nx = pytest.importorskip("networkx", reason="networkx is not installed (extra: dev)")


@pytest.fixture(scope="module")
def dgl() -> Any:
    try:
        return import_dgl()
    except MissingExtraError as error:
        pytest.skip(str(error))


@settings(max_examples=30)
@given(item=annotated_graphs())
def test_networkx_round_trip(item: ArchGraph) -> None:
    assert from_networkx(to_networkx(item)) == item


@settings(max_examples=30)
@given(item=annotated_graphs())
def test_networkx_names_of_nodes_do_not_matter(item: ArchGraph) -> None:
    renamed = nx.relabel_nodes(to_networkx(item), {i: f"node {-i}" for i in range(len(item))})
    assert from_networkx(renamed) == item


def test_networkx_graph_by_hand_needs_only_ops() -> None:
    hand = nx.DiGraph()
    hand.add_node("add", op="sum")
    hand.add_node("pos", op="pos_enc")
    hand.add_node("image", op="input")
    hand.add_edges_from([("image", "add"), ("pos", "add")])
    item = from_networkx(hand)
    assert [Primitive(o).label for o in item.ops] == ["input", "pos_enc", "sum"]
    assert item.edges.tolist() == [[0, 2], [1, 2]]
    assert item.outputs == (2,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.add_edge(1, 0), "without cycles"),
        (lambda g: g.add_node(2, op="conv2d"), "'conv2d'"),
        (lambda g: g.add_node(2), "None"),
        (lambda g: g.add_node(0, op="sum"), "node 0 of a graph must be 'input'"),
    ],
)
def test_networkx_errors(change: Any, message: str) -> None:
    bad = nx.DiGraph([(0, 1)])
    nx.set_node_attributes(bad, {0: "input", 1: "conv"}, "op")
    change(bad)
    with pytest.raises(GraphError, match=message):
        from_networkx(bad)


def test_networkx_undirected_is_refused() -> None:
    with pytest.raises(GraphError, match="directed"):
        from_networkx(nx.path_graph(2))


@pytest.mark.parametrize(("package", "hint"), [("dgl", r"ghn-predict\[dgl\]"), ("networkx", "pip install networkx")])
def test_a_missing_package_is_said_with_its_cure(monkeypatch: pytest.MonkeyPatch, package: str, hint: str) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    item = ArchGraph(np.array([9]), np.zeros((0, 2)), np.zeros((1, 4)))
    with pytest.raises(GHNError, match=hint):
        {"dgl": to_dgl, "networkx": to_networkx}[package](item)


@settings(max_examples=30)
@given(item=annotated_graphs())
def test_dgl_round_trip(dgl: Any, item: ArchGraph) -> None:
    there = to_dgl(item)
    assert there.num_nodes() == len(item)
    assert there.num_edges() == len(item.edges)
    assert from_dgl(there) == item
    assert from_dgl(there.clone()) == item


def test_dgl_round_trip_through_a_file(dgl: Any, tmp_path: Any) -> None:
    item = ArchGraph(np.array([9, 4]), np.array([[0, 1]]), np.zeros((2, 4)), names=("größe", "b"))
    dgl.save_graphs(str(tmp_path / "graphs.bin"), [to_dgl(item)])
    (loaded,), _ = dgl.load_graphs(str(tmp_path / "graphs.bin"))
    assert from_dgl(loaded) == item


def test_dgl_graph_by_hand_needs_only_ops(dgl: Any) -> None:
    hand = dgl.graph(([0, 1], [1, 2]))
    with pytest.raises(GraphError, match="needs node data 'op'"):
        from_dgl(hand)
    hand.ndata["op"] = torch.tensor([9, 4, 99])
    with pytest.raises(GraphError, match="holds 99"):
        from_dgl(hand)
    hand.ndata["op"] = torch.tensor([9, 4, 10])
    assert from_dgl(hand) == ArchGraph(np.array([9, 4, 10]), np.array([[0, 1], [1, 2]]), np.zeros((3, 4)))


@settings(max_examples=20)
@given(items=st.lists(annotated_graphs(), min_size=1, max_size=4), cutoff=st.sampled_from([1, 2, 50]))
def test_dgl_batch_round_trip(dgl: Any, items: list[ArchGraph], cutoff: int) -> None:
    batch = GraphBatch.collate(items, cutoff)
    there = batch_to_dgl(batch)
    assert there.batch_size == len(items)
    back = batch_from_dgl(there)
    assert back.graphs == batch.graphs
    assert back.offsets == batch.offsets
    assert back.levels == batch.levels
    for name in ("place", "ops", "shapes", "distances"):
        assert torch.equal(getattr(back, name), getattr(batch, name)), name


def run_both(gnn: GatedGNN, batch: GraphBatch, seed: int) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
    """Ours and DGL's: states, and the gradients of a loss in x and every parameter."""
    generator = torch.Generator().manual_seed(seed)
    dtype = gnn.gru.weight_ih.dtype
    start = torch.randn(batch.num_nodes, gnn.gru.hidden_size, generator=generator, dtype=dtype)
    probe = torch.randn(start.shape, generator=generator, dtype=dtype)
    results = []
    for sweep in (gnn, lambda x, batch: sweep_dgl(gnn, x, batch)):
        x = start.clone().requires_grad_()
        states = sweep(x, batch)
        results.append((states.detach(), list(torch.autograd.grad((states * probe).sum(), [x, *gnn.parameters()]))))
    return results


@settings(max_examples=15)
@given(items=st.lists(graphs(), min_size=1, max_size=3), virtual_edges=st.booleans(), seed=st.integers(0, 99))
def test_dgl_sweep_equals_ours(dgl: Any, items: list[ArchGraph], virtual_edges: bool, seed: int) -> None:
    gnn = make_gnn(8, virtual_edges, seed).double()
    (ours, our_grads), (theirs, their_grads) = run_both(gnn, GraphBatch.collate(items), seed)
    torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-12)
    for a, b in zip(their_grads, our_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@needs_reference
@pytest.mark.parametrize("virtual_edges", [True, False])
def test_dgl_sweep_equals_ours_on_real_networks(dgl: Any, virtual_edges: bool) -> None:
    batch = GraphBatch.collate([reference_graph("ghn2_cifar10", net) for net in ("d0", "d2")])
    (ours, our_grads), (theirs, their_grads) = run_both(make_gnn(32, virtual_edges, 0), batch, 0)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    for a, b in zip(their_grads, our_grads, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def make_gnn(hid: int, virtual_edges: bool, seed: int) -> GatedGNN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GatedGNN(hid, virtual_edges)
