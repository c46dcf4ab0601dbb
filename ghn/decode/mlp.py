"""The plain kernel decoder: one network writes the largest tensor whole, and it is cut."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from ghn.layers import MaxShape, Sliced, affine, within


class MLPDecoder(nn.Module):
    """Node states -> (out, in, h, w) tensors up to `max_shape`, of which only the rows asked for are computed.

    Source: Knyazev et al. 2021, appendix C; ghn_spec 7.4. Its last layer holds most of a GHN's numbers: 2d for each
    number of the largest tensor.
    """

    def __init__(self, hid: int, max_shape: MaxShape, num_classes: int) -> None:
        super().__init__()
        out, inp, h, w = max_shape
        self.max_shape, self.num_classes = max_shape, num_classes
        self.fc = nn.Sequential(nn.Linear(hid, 2 * hid), nn.ReLU(), nn.Linear(2 * hid, out * inp * h * w))
        self.class_layer_predictor = nn.Sequential(nn.ReLU(), nn.Linear(2 * hid, num_classes * out))

    def writers(self) -> list[tuple[Tensor, Tensor]]:
        return [affine(self.fc, 2), affine(self.class_layer_predictor, 1)]

    def block(self, shape: MaxShape) -> MaxShape:
        return within(shape, self.max_shape)

    def class_block(self, shape: MaxShape) -> MaxShape:
        return self.num_classes, min(shape[1], self.max_shape[0]), 1, 1

    def forward(self, states: Sequence[Tensor], shapes: Sequence[MaxShape]) -> list[Tensor]:
        """For each (n, d) states and (out, in, h, w) within max_shape: the (n, out, in, h, w) tensors."""
        if not states:
            return []
        inner = [F.relu(self.fc[0](z)) for z in states]
        values = Sliced.apply(*affine(self.fc, 2), self._corner, shapes, *inner)
        return [v.view(len(z), *shape) for v, z, shape in zip(values, states, shapes, strict=True)]

    def classifier(self, states: Sequence[Tensor], shapes: Sequence[MaxShape]) -> list[Tensor]:
        """For each (n, d) states and (num_classes, in, 1, 1): (n, num_classes, in)."""
        return [
            self.class_layer_predictor(self.fc[0](z)).view(len(z), self.num_classes, -1)[..., : shape[1]]
            for z, shape in zip(states, shapes, strict=True)
        ]

    def _corner(self, rows: Tensor, shape: MaxShape) -> Tensor:
        out, inp, h, w = shape
        return rows.view(*self.max_shape, rows.shape[1])[:out, :inp, :h, :w]
