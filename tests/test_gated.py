"""The level-synchronous sweep's own backward pass, and batches of real networks. The rest is in test_family.py."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import graph, needs_reference
from strategies import graphs

from ghn.batch import GraphBatch
from ghn.graph import ArchGraph
from ghn.model import GHN
from ghn.propagate.gated import GatedGNN


@settings(max_examples=5)
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
