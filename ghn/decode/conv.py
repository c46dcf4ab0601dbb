"""Decoder of weights with two or more dimensions (convolutions, linear layers, position embeddings)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.layers import affine

MaxShape = tuple[int, int, int, int]
Cut = Callable[[Tensor, MaxShape], Tensor]


class ConvDecoder(nn.Module):
    """Node states -> (out, in, h, w) tensors, any size up to `max_shape`.

    One linear layer makes 4d channels at each kernel position; two layers shared by all positions map them to the
    out * in numbers there. Only what is asked for is computed: the rows of the first layer of the top-left h x w
    positions, the rows of the last layer of the first `out` x `in` channels.
    Source: Knyazev et al. 2021, section 4 and appendix C; ghn_spec 7.1, 7.2.
    """

    def __init__(self, hid: int, max_shape: MaxShape, num_classes: int) -> None:
        super().__init__()
        out, inp, size, _ = max_shape
        self.max_shape = max_shape
        self.fc = nn.Sequential(nn.Linear(hid, 4 * hid * size * size))
        # 1x1 convolutions in name and shape, as in the published checkpoints; applied as matrices.
        self.conv = nn.Sequential(nn.Conv2d(4 * hid, 8 * hid, 1), nn.ReLU(), nn.Conv2d(8 * hid, out * inp, 1))
        self.class_layer_predictor = nn.Sequential(nn.ReLU(), nn.Conv2d(out, num_classes, 1))

    @torch.no_grad()
    def start_from_identity(self, strength: float) -> None:
        """Puts `strength` on the way from channel i to channel i, at every position of every kernel, and 0 elsewhere.

        It is what the last layer's bias adds to each block. What the other layers decode by chance is nearly the same
        matrix in every layer of a network, and its powers leave one direction of the image; from here on channels keep
        their meaning through the layers, and between networks. (Dirac initialisation: Zagoruyko and Komodakis 2017.)
        """
        _, bias = affine(self.conv, 2)
        bias.copy_(strength * torch.eye(*self.max_shape[:2]).flatten())

    def forward(self, states: Sequence[Tensor], shapes: Sequence[MaxShape]) -> list[Tensor]:
        """For each (n, d) states and (out, in, h, w) within max_shape: the (n, out, in, h, w) tensors."""
        if not states:
            return []
        weight, bias = affine(self.conv, 0)
        planes = Sliced.apply(*affine(self.fc, 0), self._positions, shapes, *states)
        planes = [F.relu(p).view(-1, weight.shape[1]) for p in planes]
        inner = [F.relu(F.linear(p, weight, bias)) for p in planes]
        values = Sliced.apply(*affine(self.conv, 2), self._channels, shapes, *inner)
        return [
            v.view(len(z), h, w, out, inp).permute(0, 3, 4, 1, 2)
            for v, z, (out, inp, h, w) in zip(values, states, shapes, strict=True)
        ]

    def classifier(self, states: Sequence[Tensor], inputs: Sequence[int]) -> list[Tensor]:
        """For each (n, d) states and in-channels: (n, num_classes, in), from all `out` channels of a 1x1 kernel."""
        weight, bias = affine(self.class_layer_predictor, 1)
        kernels = self(states, [(self.max_shape[0], i, 1, 1) for i in inputs])
        return [weight @ F.relu(k.flatten(2)) + bias[:, None] for k in kernels]

    def _positions(self, rows: Tensor, shape: MaxShape) -> Tensor:
        """Rows of the first layer, (4d * S * S, x) -> (h, w, 4d, x): position-major, ready for maps over channels."""
        size = self.max_shape[2]
        return rows.view(-1, size, size, rows.shape[1])[:, : shape[2], : shape[3]].permute(1, 2, 0, 3)

    def _channels(self, rows: Tensor, shape: MaxShape) -> Tensor:
        """Rows of the last layer, (O * I, x) -> (out, in, x)."""
        return rows.view(*self.max_shape[:2], rows.shape[1])[: shape[0], : shape[1]]


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
