"""Decoder of weights with two or more dimensions (convolutions, linear layers, position embeddings)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.layers import MaxShape, Sliced, affine, within


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
        self.max_shape, self.num_classes = max_shape, num_classes
        self.fc = nn.Sequential(nn.Linear(hid, 4 * hid * size * size))
        # 1x1 convolutions in name and shape, as in the published checkpoints; applied as matrices.
        self.conv = nn.Sequential(nn.Conv2d(4 * hid, 8 * hid, 1), nn.ReLU(), nn.Conv2d(8 * hid, out * inp, 1))
        self.class_layer_predictor = nn.Sequential(nn.ReLU(), nn.Conv2d(out, num_classes, 1))

    def writers(self) -> list[tuple[Tensor, Tensor]]:
        return [affine(self.conv, 2), affine(self.class_layer_predictor, 1)]

    @torch.no_grad()
    def start_from_identity(self, strength: float) -> None:
        """Puts `strength` on the way from channel i to channel i, at every position of every kernel, and 0 elsewhere.

        It is what the last layer's bias adds to each block. What the other layers decode by chance is nearly the same
        matrix in every layer of a network, and its powers leave one direction of the image; from here on channels keep
        their meaning through the layers, and between networks. (Dirac initialisation: Zagoruyko and Komodakis 2017.)
        """
        _, bias = affine(self.conv, 2)
        bias.copy_(strength * torch.eye(*self.max_shape[:2]).flatten())

    def block(self, shape: MaxShape) -> MaxShape:
        return within(shape, self.max_shape)

    def class_block(self, shape: MaxShape) -> MaxShape:
        return self.num_classes, min(shape[1], self.max_shape[1]), 1, 1

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

    def classifier(self, states: Sequence[Tensor], shapes: Sequence[MaxShape]) -> list[Tensor]:
        """For each (n, d) states and (num_classes, in, 1, 1): (n, num_classes, in), from all `out` of a 1x1 kernel."""
        weight, bias = affine(self.class_layer_predictor, 1)
        kernels = self(states, [(self.max_shape[0], inp, 1, 1) for _, inp, _, _ in shapes])
        return [weight @ F.relu(k.flatten(2)) + bias[:, None] for k in kernels]

    def _positions(self, rows: Tensor, shape: MaxShape) -> Tensor:
        """Rows of the first layer, (4d * S * S, x) -> (h, w, 4d, x): position-major, ready for maps over channels."""
        size = self.max_shape[2]
        cut = rows.view(-1, size, size, rows.shape[1])[:, self._range(shape[2]), self._range(shape[3])]
        return cut.permute(1, 2, 0, 3)

    def _range(self, size: int) -> slice:
        """The rows or columns of the largest kernel that a smaller one has."""
        return slice(size)

    def _channels(self, rows: Tensor, shape: MaxShape) -> Tensor:
        """Rows of the last layer, (O * I, x) -> (out, in, x)."""
        return rows.view(*self.max_shape[:2], rows.shape[1])[: shape[0], : shape[1]]
