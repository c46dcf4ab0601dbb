"""The two ends of a network, found in its graph: other channels going in, other classes coming out.

What reads the input and what gives the output is a matter of the graph, not of names of attributes, so that these work
on any network that can be traced.
"""

from typing import Any

from torch import nn

from ghn.errors import ModelError
from ghn.graph import ArchGraph
from ghn.primitives import Primitive, Role
from ghn.tracing import trace

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def adjust_channels(model: nn.Module, channels: int, example_input: Any = None) -> nn.Module:
    """The same model, changed in place to take images of this many channels, such as 1 for grey ones.

    The convolutions that read the input get a new kernel, freshly initialised. Raises ModelError where none does.
    """
    graph = trace(model, example_input)
    readers = [_layer(model, graph, v) for v in graph.successors[0] if _has_parameters(graph, v)]
    now = _channels(model, [layer for _, layer in readers])
    # Others are given constants, such as the coordinates of positions.
    first = [layer for _, layer in readers if _is_plain(layer) and layer.in_channels % now == 0]
    if not first:
        raise ModelError(
            f"{type(model).__name__} reads its input with {_named(readers)}, no plain convolution; build it for "
            f"{channels} channels"
        )
    for layer in first:
        layer.in_channels = layer.in_channels // now * channels  # more than `now` where pixels were folded in
        _renew(layer, (layer.out_channels, layer.in_channels, *layer.kernel_size))
    size = getattr(model, "expected_input_sz", None)
    if isinstance(size, tuple | list):
        model.expected_input_sz = (channels, *size[1:])  # ty: ignore[invalid-assignment]
    return model


def adjust_classes(model: nn.Module, num_classes: int, example_input: Any = None) -> nn.Module:
    """The same model, changed in place to tell this many classes apart: each layer that gives logits is made anew.

    Raises ModelError where the network's last layers are no linear ones or 1x1 convolutions.
    """
    graph = trace(model, example_input)
    heads = [_layer(model, graph, s.node) for s in graph.slots if s.role is Role.CLASSIFIER_WEIGHT]
    plain = [layer for _, layer in heads if isinstance(layer, nn.Linear | nn.Conv2d)]
    if not heads or len(plain) < len(heads):
        raise ModelError(f"{type(model).__name__} ends in {_named(heads)}; build it for {num_classes} classes")
    for layer in plain:
        setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", num_classes)
        _renew(layer, (num_classes, *layer.weight.shape[1:]))
    return model


def _has_parameters(graph: ArchGraph, node: int) -> bool:
    return any(s.node == node for s in graph.slots) and graph.ops[node] != Primitive.POS_ENC


def _named(layers: list[tuple[str, Any]]) -> str:
    return ", ".join(f"{name!r} ({type(layer).__name__})" for name, layer in layers) or "nothing that has a weight"


def _layer(model: nn.Module, graph: ArchGraph, node: int) -> tuple[str, Any]:
    """The module that holds this node's first parameter, with its name."""
    name = next(s.fqn for s in graph.slots if s.node == node).rpartition(".")[0]
    return name, model.get_submodule(name)


def _is_plain(layer: nn.Module) -> bool:
    return isinstance(layer, _CONVOLUTIONS) and layer.groups == 1


def _channels(model: nn.Module, readers: list[Any]) -> int:
    """Of the input now: what the model says it expects, else three where that divides, as pixels may be folded."""
    size = getattr(model, "expected_input_sz", None)
    if isinstance(size, tuple | list):
        return size[0]
    channels = [layer.in_channels for layer in readers if _is_plain(layer)]
    return 3 if any(c % 3 == 0 for c in channels) else min(channels, default=3)


def _renew(layer: Any, shape: tuple[int, ...]) -> None:
    """New parameters of the layer for a weight of this shape, by its own initialisation."""
    layer.weight = nn.Parameter(layer.weight.new_empty(shape), requires_grad=layer.weight.requires_grad)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.new_empty(shape[0]), requires_grad=layer.bias.requires_grad)
    layer.reset_parameters()
