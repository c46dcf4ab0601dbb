"""The order of a weight's dimensions: 'o' outputs, 'i' inputs, 'k' positions of a kernel, one letter each.

Layers keep their weights in several orders: a convolution's is 'oikk', a transposed one's 'iokk', that of what `x @ W`
multiplies with 'io', that of a stack of matrices 'ooi'. GHNs decode (out, in, *kernel), and what one unit sums over
is all that is not 'o'. An empty string stands for the usual order. 'iokk/4' is that of a transposed convolution in 4
groups: its inputs are those of all groups, one after the other, its outputs those of one.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # graphs are made without torch
    from torch import Tensor


def outputs_first(shape: tuple[int, ...], axes: str) -> tuple[int, ...]:
    """The shape (out, in, *kernel) of a weight of this shape; all its outputs as one dimension, and all its inputs."""
    if not axes:
        return shape
    letters, groups = _parts(axes)
    out, into = (math.prod(n for n, a in zip(shape, letters, strict=True) if a == letter) for letter in "oi")
    return out * groups, into // groups, *(n for n, a in zip(shape, letters, strict=True) if a == "k")


def as_stored(value: "Tensor", shape: tuple[int, ...], axes: str) -> "Tensor":
    """A weight (out, in, *kernel) in the order of its layer; the inverse of `outputs_first`."""
    if not axes:
        return value.view(shape)
    letters, groups = _parts(axes)
    if groups > 1:
        return _turned(value, groups)
    order = _order(letters)
    return value.reshape([shape[a] for a in order]).permute([order.index(a) for a in range(len(order))]).contiguous()


def by_outputs(value: "Tensor", axes: str) -> "Tensor":
    """A weight of a layer as (out, in, *kernel), a copy where the order changes; the inverse of `as_stored`."""
    if not axes:
        return value
    letters, groups = _parts(axes)
    if groups > 1:
        return _turned(value, groups)
    return value.permute(_order(letters)).reshape(outputs_first(tuple(value.shape), axes))


def _turned(value: "Tensor", groups: int) -> "Tensor":
    """(groups * a, b, *kernel) as (groups * b, a, *kernel)."""
    return value.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


def _parts(axes: str) -> tuple[str, int]:
    """The letters, and the number of groups."""
    letters, _, groups = axes.partition("/")
    return letters, int(groups or 1)


def _order(letters: str) -> list[int]:
    return sorted(range(len(letters)), key=lambda a: "oik".index(letters[a]))
