"""From a decoded tensor to the parameter: tile to the true shape, scale by fan-in. ghn_spec section 8."""

import math

import torch
from torch import Tensor

from ghn.decode.conv import MaxShape
from ghn.primitives import Role


def kernel_shape(shape: tuple[int, ...]) -> MaxShape:
    """The (out, in, h, w) of a weight: missing kernel dimensions are 1, a 3-D kernel's last two fold into one."""
    if len(shape) == 5:
        return shape[0], shape[1], shape[2], shape[3] * shape[4]
    out, inp, h, w = (*shape, 1, 1)[:4]
    return out, inp, h, w


def position_shape(shape: tuple[int, ...]) -> MaxShape:
    """The (1, C, side, side) map behind a position embedding (1, P, C), side = floor(sqrt(P)); others as weights."""
    if len(shape) == 3:
        side = math.isqrt(shape[1])
        return 1, shape[2], side, side
    return kernel_shape(shape)


def gain(shape: tuple[int, ...]) -> float:
    """Scale of a predicted weight of this shape: sqrt(beta / fan_in), which keeps variance through the layer.

    beta is 2 (a ReLU follows), but 1 for depthwise convolutions and the 1 x k half of a factorised one.
    Source: Knyazev et al. 2021, section 4.2 (fan-in normalisation).
    """
    _, inp, h, w = kernel_shape(shape)
    beta = 1.0 if len(shape) > 2 and (inp == 1 or h < w) else 2.0
    return math.sqrt(beta / math.prod(shape[1:]))


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


def squash(vector: Tensor, role: Role) -> Tensor:
    """Multiplicative vectors into (0, 2), additive ones into (-1, 1). ghn_spec section 8, 1-D cases."""
    if role in (Role.NORM_WEIGHT, Role.SCALE):
        return 2 * torch.sigmoid(0.5 * vector)
    return torch.tanh(0.2 * vector)
