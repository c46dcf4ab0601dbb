"""Weights of linear layers inside `nn.Sequential`, where the published checkpoints' names put them, and their parts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MaxShape = tuple[int, int, int, int]  # (out, in, h, w)
Cut = Callable[[Tensor, MaxShape], Tensor]


def affine(layers: nn.Sequential, index: int) -> tuple[Tensor, Tensor]:
    """Weight as an (out, in) matrix and bias (out,) of a linear layer or a 1x1 convolution."""
    layer = layers[index]
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    assert layer.bias is not None
    return layer.weight.flatten(1), layer.bias


def within(shape: MaxShape, largest: MaxShape) -> MaxShape:
    """The shape, cut to the largest."""
    out, inp, h, w = (min(a, b) for a, b in zip(shape, largest, strict=True))
    return out, inp, h, w


class Sliced(torch.autograd.Function):
    """Linear layers that share one weight, each with its own cut of the rows: (n, d) -> (n, rows of its cut).

    cut(rows, shape) is a view of (R, x) rows whose last dimension is x. Autograd on the cuts would make, and add up,
    one gradient of the whole weight for every cut; here all of them add into one.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor, cut: Cut, shapes: Sequence[MaxShape], *xs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(weight, bias, *xs)
        ctx.cut, ctx.shapes = cut, shapes
        columns, d = bias[:, None], weight.shape[1]
        return tuple(
            F.linear(x, cut(weight, shape).reshape(-1, d), cut(columns, shape).reshape(-1))
            for x, shape in zip(xs, shapes, strict=True)
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias, *xs = ctx.saved_tensors
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        grad_xs = []
        for x, shape, grad in zip(xs, ctx.shapes, grads, strict=True):
            part, column = ctx.cut(grad_weight, shape), ctx.cut(grad_bias[:, None], shape)
            part += (grad.t() @ x).view(part.shape)
            column += grad.sum(0).view(column.shape)
            grad_xs.append(grad @ ctx.cut(weight, shape).reshape(-1, weight.shape[1]))
        return grad_weight, grad_bias, None, None, *grad_xs
