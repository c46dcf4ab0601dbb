"""From a decoded tensor to the parameter: tile to the true shape, scale by fan-in. ghn_spec section 8."""

import math
from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import Tensor
from torch.nn import functional as F

from ghn.axes import as_stored
from ghn.graph import ParamSlot
from ghn.layers import MaxShape
from ghn.primitives import Role


class Head(Enum):
    """Which decoder a parameter comes from."""

    KERNEL = auto()
    CLASSIFIER = auto()
    VECTOR = auto()
    CLASS_VECTOR = auto()


@dataclass(frozen=True)
class Fit:
    """How parameters of one role come about. head: their decoder. scaled: by fan-in.

    row: of the two that a vector decoder gives; 0 serves parameters that multiply, 1 those that add.
    """

    head: Head
    scaled: bool = False
    row: int | None = None


# THE table of roles.
FITS: dict[Role, Fit] = {
    Role.WEIGHT: Fit(Head.KERNEL, scaled=True),
    Role.POSITION: Fit(Head.KERNEL),
    Role.CLASSIFIER_WEIGHT: Fit(Head.CLASSIFIER, scaled=True),
    Role.CLASSIFIER_BIAS: Fit(Head.CLASS_VECTOR, row=1),
    Role.BIAS: Fit(Head.VECTOR, row=1),
    Role.NORM_WEIGHT: Fit(Head.VECTOR, row=0),
    Role.NORM_BIAS: Fit(Head.VECTOR, row=1),
    Role.OFFSET: Fit(Head.VECTOR, row=1),
    Role.SCALE: Fit(Head.VECTOR, row=0),
}


def kernel_shape(shape: tuple[int, ...]) -> MaxShape:
    """The (out, in, h, w) of a weight: missing kernel dimensions are 1, a 3-D kernel's last two fold into one."""
    if len(shape) == 5:
        return shape[0], shape[1], shape[2], shape[3] * shape[4]
    out, inp, h, w = (*shape, 1, 1)[:4]
    return out, inp, h, w


def source_shape(role: Role, shape: tuple[int, ...]) -> MaxShape:
    """The kernel that a parameter is made from; of positions (1, P, C) it is (1, C, s, s), s = floor(sqrt(P))."""
    if role is Role.POSITION and len(shape) == 3:
        side = math.isqrt(shape[1])
        return 1, shape[2], side, side
    return kernel_shape(shape)


def gain(role: Role, shape: tuple[int, ...]) -> float:
    """Scale of a predicted parameter of this shape: sqrt(beta / fan_in), which keeps variance through a layer.

    beta is 2 (a ReLU follows), but 1 for depthwise convolutions and the 1 x k half of a factorised one.
    Source: Knyazev et al. 2021, section 4.2 (fan-in normalisation).
    """
    table = role is Role.POSITION and len(shape) == 2  # rows looked up by index, as of an nn.Embedding
    if not FITS[role].scaled and not table:
        return 1.0
    _, inp, h, w = kernel_shape(shape)
    beta = 1.0 if len(shape) > 2 and (inp == 1 or h < w) else 2.0
    return math.sqrt(beta / math.prod(shape[1:]))


def fitted(block: Tensor, slot: ParamSlot, out: Tensor | None = None) -> Tensor:
    """The slot's parameter from its decoded block; with `out`, written there (no gradients)."""
    shape = view = slot.outputs_first
    if FITS[slot.role].row is not None:
        view = (slot.numel,)
    elif slot.role is Role.POSITION and len(shape) == 3:
        block = _positions(block, shape)
    else:
        view = kernel_shape(shape)
    if slot.axes:
        made = as_stored(tile(block, view), slot.shape, slot.axes)
        return made if out is None else out.copy_(made)
    return tile(block, view, out.view(view) if out is not None else None).view(shape)


def _positions(block: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(1, c, s, s) map -> (1, P, C) position embedding; positions beyond s * s (class tokens) come first, zero.

    The peers draw the class token's row at random, which makes predictions irreproducible (ghn_spec 16.9).
    """
    rows = tile(block, source_shape(Role.POSITION, shape)).flatten(2).transpose(1, 2)
    return F.pad(rows, (0, 0, shape[1] - rows.shape[1], 0))


def tile(block: Tensor, shape: tuple[int, ...], out: Tensor | None = None) -> Tensor:
    """`block` repeated along every dimension and cut to `shape`: result[i, j, ...] = block[i mod b0, j mod b1, ...].

    With `out`, written there (no gradients). Last dimensions first, so that the large copies are contiguous.
    """
    if tuple(block.shape) == tuple(shape):
        return block if out is None else out.copy_(block)
    wrong = [dim for dim in reversed(range(len(shape))) if block.shape[dim] != shape[dim]]
    for dim in wrong:
        whole, rest = divmod(shape[dim], block.shape[dim])
        pieces = [block] * whole + ([block.narrow(dim, 0, rest)] if rest else [])
        if dim == wrong[-1] and out is not None:
            return torch.cat(pieces, dim=dim, out=out)
        block = torch.cat(pieces, dim=dim) if len(pieces) > 1 else pieces[0]
    return block


def squash(vectors: Tensor) -> Tensor:
    """(n, 2, size): row 0, of what multiplies, into (0, 2), and row 1, of what adds, into (-1, 1)."""
    multiply, add = vectors.unbind(1)
    return torch.stack([2 * torch.sigmoid(0.5 * multiply), torch.tanh(0.2 * add)], dim=1)
