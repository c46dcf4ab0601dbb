"""The property of every family of architectures: the stated graph is the traced one."""

from collections.abc import Callable, Iterable
from typing import Any

import ghn
from ghn.graph import ArchGraph
from ghn.sketch import Sketch


def assert_same_graph(stated: ArchGraph, traced: ArchGraph) -> None:
    """Same identity, parameters and edges. Stricter than `==` in nothing; it says more about what differs."""
    assert stated.key == traced.key
    assert {(s.fqn, s.role, s.shape, s.aliases) for s in stated.slots} == {
        (s.fqn, s.role, s.shape, s.aliases) for s in traced.slots
    }
    assert [s.fqn for s in stated.slots] == [s.fqn for s in traced.slots]
    assert named_edges(stated) == named_edges(traced)
    assert traced.uncovered == ()
    assert stated == traced


def named_edges(graph: ArchGraph) -> set[tuple[str, str]]:
    """Edges between nodes whose names no other node has."""
    unique = {name for name in graph.names if graph.names.count(name) == 1}
    pairs = {(graph.names[u], graph.names[v]) for u, v in graph.edges.tolist()}
    return {(u, v) for u, v in pairs if u in unique and v in unique}


def assert_stated_as_traced(sketch: Sketch, model: Any) -> None:
    """The sketch is that of the module, and so is its number of parameters."""
    traced = ghn.trace(model)
    assert_same_graph(sketch.graph(), traced)
    assert sketch.num_params == traced.num_params == sum(p.numel() for p in model.parameters())


def multiply_adds(model: Any, *inputs: Any) -> int:
    """Of the convolutions and linear layers, counted by hooks as the module runs on a batch of one."""
    return _counted(model, inputs, lambda layer, out: layer.weight.numel() * (out.numel() // layer.weight.shape[0]))


def layer_outputs(model: Any, *inputs: Any) -> int:
    """How many numbers the convolutions and linear layers put out, as the module runs on a batch of one."""
    return _counted(model, inputs, lambda layer, out: out.numel())


def _counted(model: Any, inputs: Iterable[Any], what: Callable[[Any, Any], int]) -> int:
    from torch import nn

    found = 0

    def count(module: Any, _: Any, out: Any) -> None:
        nonlocal found
        found += what(module, out)

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(*inputs)
    return found
