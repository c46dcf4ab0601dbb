"""torch.export as a second opinion: which layer's result reaches which layer next, through nothing but functions."""

import pytest
import torch
from torch import nn
from torch.export.graph_signature import InputKind

from ghn._compat import import_torchvision
from ghn.graph import ArchGraph
from ghn.tracing import trace

try:
    models = import_torchvision().models
except ImportError:
    pytest.skip("torchvision is not installed (pip install 'ghn-predict[models]')", allow_module_level=True)


def layer(fqn: str) -> str:
    return fqn.rpartition(".")[0]


def from_export(model: nn.Module, x: torch.Tensor) -> set[tuple[str, str]]:
    """Pairs of layers of which the second takes what the first gives. Every parameter must be used by one layer."""
    program = torch.export.export(model, (x,), strict=False)
    parameters = {
        s.arg.name: layer(s.target) for s in program.graph_signature.input_specs if s.kind is InputKind.PARAMETER
    }
    carried: dict[str, frozenset[str]] = {}
    found: set[tuple[str, str]] = set()
    for node in program.graph.nodes:
        if node.op == "call_function":
            own = frozenset(parameters[a.name] for a in node.all_input_nodes if a.name in parameters)
            before = frozenset().union(*(carried.get(a.name, frozenset()) for a in node.all_input_nodes))
            found |= {(u, v) for u in before for v in own}
            carried[node.name] = own or before
    return found


def from_trace(graph: ArchGraph) -> set[tuple[str, str]]:
    layers = {s.node: layer(s.fqn) for s in graph.slots}
    carried: list[frozenset[str]] = []
    found: set[tuple[str, str]] = set()
    for v, preds in enumerate(graph.predecessors):
        before = frozenset().union(*(carried[u] for u in preds))
        if v in layers:
            found |= {(u, layers[v]) for u in before if u != layers[v]}
        carried.append(frozenset({layers[v]}) if v in layers else before)
    return found


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_same_neighbours_as_export(name: str) -> None:
    with torch.device("meta"):
        model = models.get_model(name).eval()
    assert from_trace(trace(model)) == from_export(model, torch.empty(2, 3, 64, 64, device="meta"))
