"""Low-rank kernel decoder: a weight is the product of a tall and a wide matrix, so that wide ones need no tiling."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from ghn.layers import MaxShape


class LowRankDecoder(nn.Module):
    """Node states -> (out, in, h, w) tensors, read off the out * h by in * w matrix A B of the rank given.

    A and B have up to K = max(O, I) * S rows and columns, of `max_shape` (O, I, S, S). They come from 2 r hidden
    vectors of r numbers, each widened to K by the same linear layer; of these only as many are widened as are needed.
    Classifiers are weights like any other. Source: Zhou et al. 2024, "LoGAH: Predicting 774-Million-Parameter
    Transformers using Graph HyperNetworks with 1/100 Parameters"; ghn_spec section 17. Vectors are decoded as in GHN-3
    (LoGAH's `use_1d_decoder`).
    """

    def __init__(self, hid: int, max_shape: MaxShape, rank: int) -> None:
        super().__init__()
        self.rank, self.width = rank, max(max_shape[:2]) * max_shape[2]
        self.fc = nn.Sequential(
            nn.Linear(hid, 4 * hid),
            nn.ReLU(),
            nn.Linear(4 * hid, 8 * hid),
            nn.ReLU(),
            nn.Linear(8 * hid, 2 * rank * rank),
            nn.ReLU(),
        )
        self.widen = nn.Linear(rank, self.width)

    def writers(self) -> list[tuple[Tensor, Tensor]]:
        return []  # a product of two small numbers starts small enough

    def block(self, shape: MaxShape) -> MaxShape:
        out, inp, h, w = shape
        h, w = min(h, self.width), min(w, self.width)
        return min(out, self.width // h), min(inp, self.width // w), h, w

    class_block = block

    def forward(self, states: Sequence[Tensor], shapes: Sequence[MaxShape]) -> list[Tensor]:
        """For each (n, d) states and (out, in, h, w): the (n, out, in, h, w) tensors."""
        return [self._product(z, shape) for z, shape in zip(states, shapes, strict=True)]

    def classifier(self, states: Sequence[Tensor], shapes: Sequence[MaxShape]) -> list[Tensor]:
        """For each (n, d) states and (out, in, 1, 1): (n, out, in)."""
        return [kernel.flatten(2) for kernel in self(states, shapes)]

    def _product(self, states: Tensor, shape: MaxShape) -> Tensor:
        out, inp, h, w = shape
        hidden = self.fc(states).view(len(states), 2, self.rank, self.rank)
        tall, wide = self._factor(hidden[:, 0], out * h), self._factor(hidden[:, 1], inp * w)
        return (tall @ wide.transpose(1, 2)).view(len(states), out, h, inp, w).transpose(2, 3)

    def _factor(self, hidden: Tensor, length: int) -> Tensor:
        """(n, r, r) -> (n, length, r): the first rows of the widened vectors, read on and on as rows of r numbers."""
        needed = math.ceil(length * self.rank / self.width)
        numbers = self.widen(hidden[:, :needed]).flatten(1)
        return numbers[:, : length * self.rank].view(len(hidden), length, self.rank)
