"""The inputs a module is traced with: the caller's, or guessed images."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_SIDES = (224, 32, 299, 28, 64, 256, 384)  # ImageNet, CIFAR, Inception, MNIST, then what is left in use
_BATCH = 2  # squeezing a batch of one would change the computation

Call = tuple[tuple[Any, ...], dict[str, Any]]


def candidates(model: nn.Module, example_input: Any = None, image_size: int | None = None) -> Iterator[Call]:
    """(args, kwargs) to try, most likely first; their tensors are on meta unless the caller gave them.

    example_input: a tensor, or a tuple or list of positional or a mapping of keyword arguments. Without one: float
    images (2, C, s, s) with C of the first convolution, or 3, and s = image_size, else
    `model.expected_input_sz` (an int, or the shape without batch), else each of the usual sizes in turn; a model
    without convolutions is tried on vectors (2, n) of its first weight's width first. Before all these comes what the
    model itself calls its `dummy_inputs` (keyword arguments, as networks of transformers have it).
    """
    if example_input is not None:
        yield _as_call(example_input)
        return
    dummies = getattr(model, "dummy_inputs", None)
    # transformers gives networks of images the token ids of those of text.
    if isinstance(dummies, Mapping) and getattr(model, "main_input_name", None) in (None, *dummies):
        yield _as_call(dummies)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    for shape in _shapes(model, image_size):
        yield (torch.empty((_BATCH, *shape), dtype=dtype, device="meta"),), {}


def _as_call(example: Any) -> Call:
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, tuple | list):
        return tuple(example), {}
    return (example,), {}


def _shapes(model: nn.Module, image_size: int | None) -> Iterator[tuple[int, ...]]:
    given = image_size or getattr(model, "expected_input_sz", None)
    if isinstance(given, tuple | list | torch.Size):
        yield tuple(given)
        return
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    matrix = next((p for p in model.parameters() if p.dim() == 2), None)
    if convolution is None and matrix is not None and not given:
        yield (matrix.shape[1],)
    # Three too: the first convolution may come after pixels were folded into channels.
    channels = [convolution.in_channels] if convolution is not None else []
    for c in dict.fromkeys((*channels, 3)):
        for side in (given,) if given else _SIDES:
            yield c, side, side


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same nest of tuples, lists and dicts with `function` applied to its tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {k: map_tensors(v, function) for k, v in value.items()}
    if isinstance(value, list) or type(value) is tuple:
        return type(value)(map_tensors(v, function) for v in value)
    return value


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of nested tuples, lists, mappings and plain objects such as dataclasses, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    elif hasattr(value, "__dataclass_fields__"):
        value = list(vars(value).values())
    return [t for v in value for t in tensors_in(v)] if isinstance(value, list | tuple) else []
