"""The level-synchronous sweep, its backward pass and batching, against the node-by-node definition."""

import literal
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import graph, needs_reference
from strategies import graphs, reordered

from ghn.batch import GraphBatch
from ghn.graph import ArchGraph
from ghn.model import GHN, GHNConfig
from ghn.propagate.gated import GatedGNN


@pytest.fixture(scope="module")
def model() -> GHN:
    torch.manual_seed(0)
    return GHN(GHNConfig(max_shape=(24, 16, 5, 5), hid=8))


@settings(max_examples=25, deadline=None)
@given(items=st.lists(graphs(), min_size=1, max_size=4))
def test_predictions_equal_the_definition(model: GHN, items: list[ArchGraph]) -> None:
    with torch.no_grad():
        predicted = model(model.collate(items))
        for item, weights in zip(items, predicted, strict=True):
            expected = literal.predict(model, item)
            assert weights.keys() == expected.keys()
            for name, want in expected.items():
                torch.testing.assert_close(weights[name], want, rtol=1e-4, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(items=st.lists(graphs(8), min_size=1, max_size=3))
def test_gradients_equal_autograd_through_the_definition(model: GHN, items: list[ArchGraph]) -> None:
    def gradients(predicted: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
        loss = sum((w.sin() * (1 + i)).sum() for i, d in enumerate(predicted) for w in d.values())
        loss = loss + 0 * sum(p.sum() for p in model.parameters())
        return list(torch.autograd.grad(loss, list(model.parameters())))

    ours = gradients(model(model.collate(items)))
    theirs = gradients([literal.predict(model, item) for item in items])
    for (name, _), a, b in zip(model.named_parameters(), ours, theirs, strict=True):
        scale = b.abs().max().clamp(min=1e-3)
        assert ((a - b).abs().max() / scale).item() < 2e-4, name


@settings(max_examples=5, deadline=None)
@given(item=graphs(6), virtual_edges=st.booleans())
def test_sweep_passes_gradcheck(item: ArchGraph, virtual_edges: bool) -> None:
    torch.manual_seed(0)
    gnn = GatedGNN(4, virtual_edges).double()
    batch = GraphBatch.collate([item, item])
    x = torch.randn(batch.num_nodes, 4, dtype=torch.float64, requires_grad=True)
    parameters = tuple(gnn.parameters())

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        named = dict(zip(dict(gnn.named_parameters()), values, strict=True))
        return torch.func.functional_call(gnn, named, (x, batch))

    assert torch.autograd.gradcheck(run, (x, *parameters), atol=1e-5, nondet_tol=0)


@settings(max_examples=25, deadline=None)
@given(item=graphs(), seed=st.integers(0, 1000))
def test_order_of_nodes_does_not_matter(model: GHN, item: ArchGraph, seed: int) -> None:
    other = reordered(item, np.random.default_rng(seed))
    assert other.key == item.key
    with torch.no_grad():
        (a,), (b,) = model(model.collate([item])), model(model.collate([other]))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)


@needs_reference
def test_reference_networks_in_one_batch_equal_each_alone() -> None:
    torch.manual_seed(1)
    model = GHN()
    items = [graph("ghn2_cifar10", f"d{i}") for i in range(4)]
    with torch.no_grad():
        together = model(model.collate(items))
        for item, weights in zip(items, together, strict=True):
            (alone,) = model(model.collate([item]))
            for name in alone:
                torch.testing.assert_close(weights[name], alone[name], rtol=1e-5, atol=1e-6)
