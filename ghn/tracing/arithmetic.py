"""Output shapes of arithmetic on meta tensors, as `shapes` has those of layers; only for floating point numbers.

On meta, PyTorch works out a sum in Python, in a hundred times what an empty tensor takes. None means: run the function.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Shape = Sequence[int]


def empty(shape: Shape, like: Tensor) -> Tensor:
    """A contiguous meta tensor of this shape, and of the type of another."""
    return torch.empty(shape, dtype=like.dtype, device="meta")


def empty_like(tensor: Tensor) -> Tensor:
    """torch.empty_like, which takes much longer."""
    return empty(tensor.shape, tensor) if tensor.is_contiguous() else torch.empty_like(tensor)


def _plain(tensor: Any) -> bool:
    """Whether what is computed from it element by element lies in memory in the usual order."""
    return isinstance(tensor, Tensor) and tensor.is_meta and tensor.dtype.is_floating_point and tensor.is_contiguous()


def broadcast(a: Shape, b: Shape) -> Shape | None:
    """The shape of a sum; None where there is none."""
    if a == b:
        return a
    rank = max(len(a), len(b))
    sides = list(zip((1,) * (rank - len(a)) + tuple(a), (1,) * (rank - len(b)) + tuple(b), strict=True))
    if any(x != y and x != 1 and y != 1 for x, y in sides):
        return None
    return tuple(y if x == 1 else x for x, y in sides)


def _binary(input: Any, other: Any = None, **options: Any) -> Tensor | None:
    if options or not _plain(input):
        return None
    if type(other) in _NUMBERS:
        return empty(input.shape, input)
    if not _plain(other) or other.dtype is not input.dtype:
        return None
    shape = broadcast(input.shape, other.shape)
    if shape is None:
        return None
    # Where neither has the whole shape, torch goes by the strides of sides of length 1 too, which views may leave odd.
    fits = shape in (input.shape, other.shape) or (_fresh(input) and _fresh(other))
    return empty(shape, input) if fits else None


def _fresh(tensor: Tensor) -> bool:
    """Whether its strides are those of a new tensor, also along sides of length 1."""
    return tensor.stride() == empty(tensor.shape, tensor).stride()


def _binary_in_place(input: Any, other: Any = None, **options: Any) -> Tensor | None:
    if options or not (isinstance(input, Tensor) and input.is_meta and input.dtype.is_floating_point):
        return None
    if 0 in input.stride():  # expanded: elements that share memory cannot be written
        return None
    if type(other) in _NUMBERS:
        return input
    fits = _plain(other) and other.dtype is input.dtype and broadcast(input.shape, other.shape) == input.shape
    return input if fits else None


def _unary(input: Any, *more: Any, **options: Any) -> Tensor | None:
    return None if more or options or not _plain(input) else empty(input.shape, input)


def _power(input: Any, exponent: Any = None, **options: Any) -> Tensor | None:
    fits = type(exponent) in _NUMBERS and not options and _plain(input)
    return empty(input.shape, input) if fits else None


def _softmax(input: Any, dim: Any = None, *more: Any, **options: Any) -> Tensor | None:
    fits = type(dim) is int and not more and not options and _plain(input) and -input.dim() <= dim < input.dim()
    return empty(input.shape, input) if fits else None


def _reduced(input: Any, dim: Any = (), keepdim: Any = False, **options: Any) -> Tensor | None:
    if options or type(keepdim) is not bool or not _plain(input):
        return None
    rank = input.dim()
    dims = (dim,) if type(dim) is int else dim
    if type(dims) not in (tuple, list) or not all(type(d) is int and -rank <= d < rank for d in dims):
        return None
    gone = {d % rank for d in dims} or set(range(rank))
    if len(gone) < len(dims):
        return None
    kept = [1 if d in gone else n for d, n in enumerate(input.shape) if keepdim or d not in gone]
    return empty(kept, input)


def _matmul(input: Any, other: Any = None, **options: Any) -> Tensor | None:
    if options or not (isinstance(input, Tensor) and isinstance(other, Tensor)):
        return None
    a, b = input.shape, other.shape
    if len(a) < len(b) or len(b) < 2 or a[-1] != b[-2] or (len(b) > 2 and a[:-2] != b[:-2]):
        return None
    fits = input.is_meta and other.is_meta and input.dtype is other.dtype and input.dtype.is_floating_point
    return empty((*a[:-1], b[-1]), input) if fits else None


def _unbind(input: Any, dim: Any = 0) -> tuple[Tensor, ...] | None:
    fits = isinstance(input, Tensor) and input.is_meta and type(dim) is int and -input.dim() <= dim < input.dim()
    return tuple(input.select(dim, i) for i in range(input.shape[dim])) if fits else None


_NUMBERS = (int, float)


def _named(rule: Callable[..., Any], *names: str) -> Iterable[tuple[Any, Callable[..., Any]]]:
    """The same shape for each spelling of a function: torch.f, Tensor.f and F.f are different objects."""
    return [(getattr(owner, n), rule) for n in names for owner in (torch, Tensor, F) if hasattr(owner, n)]


ARITHMETIC: dict[Any, Callable[..., Any]] = dict(
    [
        *_named(_binary, "add", "sub", "mul", "div", "__add__", "__radd__", "__sub__", "__rsub__", "__mul__"),
        *_named(_binary, "__rmul__", "__truediv__", "__rtruediv__", "__rdiv__"),
        *_named(_binary_in_place, "add_", "sub_", "mul_", "div_", "__iadd__", "__isub__", "__imul__", "__itruediv__"),
        *_named(_unary, "abs", "cos", "erf", "exp", "log", "neg", "__neg__", "rsqrt", "sigmoid", "sin", "sqrt", "tanh"),
        *_named(_unary, "square", "reciprocal"),
        (torch.relu, _unary),
        (Tensor.relu, _unary),
        *_named(_power, "pow", "__pow__"),
        (torch.softmax, _softmax),
        (Tensor.softmax, _softmax),
        *_named(_reduced, "mean", "sum", "amax", "amin"),
        (torch.matmul, _matmul),
        (Tensor.matmul, _matmul),
        (Tensor.__matmul__, _matmul),
        *_named(_unbind, "unbind"),
    ]
)
