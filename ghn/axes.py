"""The order of a weight's dimensions: 'o' outputs, 'i' inputs, 'k' positions of a kernel, one letter each.

Layers keep their weights in several orders: a convolution's is 'oikk', a transposed one's 'iokk', that of what `x @ W`
multiplies with 'io', that of a stack of matrices 'ooi'. GHNs decode (out, in, *kernel), and what one unit sums over
is all that is not 'o'. An empty string stands for the usual order.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # graphs are made without torch
    from torch import Tensor


def outputs_first(shape: tuple[int, ...], axes: str) -> tuple[int, ...]:
    """The shape (out, in, *kernel) of a weight of this shape; all its outputs as one dimension, and all its inputs."""
    if not axes:
        return shape
    out, into = (math.prod(n for n, a in zip(shape, axes, strict=True) if a == letter) for letter in "oi")
    return out, into, *(n for n, a in zip(shape, axes, strict=True) if a == "k")


def as_stored(value: "Tensor", shape: tuple[int, ...], axes: str) -> "Tensor":
    """A weight (out, in, *kernel) in the order of its layer; the inverse of `outputs_first`."""
    if not axes:
        return value.view(shape)
    order = _order(axes)
    return value.reshape([shape[a] for a in order]).permute([order.index(a) for a in range(len(order))]).contiguous()


def by_outputs(value: "Tensor", axes: str) -> "Tensor":
    """A weight of a layer as (out, in, *kernel), a copy where the order changes; the inverse of `as_stored`."""
    if not axes:
        return value
    return value.permute(_order(axes)).reshape(outputs_first(tuple(value.shape), axes))


def _order(axes: str) -> list[int]:
    return sorted(range(len(axes)), key=lambda a: "oik".index(axes[a]))
