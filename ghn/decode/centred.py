"""The kernel decoder of GHN-3: GHN-2's, but kernels are cut from the middle, and larger ones are stretched."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from ghn.decode.conv import ConvDecoder
from ghn.layers import MaxShape


class CentredDecoder(ConvDecoder):
    """Node states -> (out, in, h, w) tensors; h and w may exceed those of `max_shape`.

    Source: Knyazev et al. 2023; ghn_spec 7.1. A kernel smaller than S x S is its middle, so that a 1 x 1 kernel is the
    centre of the 3 x 3 one; a larger one is the whole, resized bilinearly.
    """

    def block(self, shape: MaxShape) -> MaxShape:
        out, inp, _, _ = super().block(shape)
        return out, inp, shape[2], shape[3]

    def forward(self, states: Sequence[Tensor], shapes: Sequence[MaxShape]) -> list[Tensor]:
        size = self.max_shape[2]
        cuts = [(out, inp, min(h, size), min(w, size)) for out, inp, h, w in shapes]
        blocks = super().forward(states, cuts)
        return [
            block if cut == shape else _resized(block, shape)
            for block, cut, shape in zip(blocks, cuts, shapes, strict=True)
        ]

    def _range(self, size: int) -> slice:
        middle = self.max_shape[2] // 2
        start = max(0, middle - size // 2)
        return slice(start, start + size)


def _resized(block: Tensor, shape: MaxShape) -> Tensor:
    """(n, out, in, S, S) -> (n, out, in, h, w)."""
    return F.interpolate(block.flatten(0, 1), size=shape[2:], mode="bilinear").view(len(block), *shape)
