"""Decoder of vectors: norm weights and biases, layer biases, and the classifier's bias."""

from torch import Tensor, nn

from ghn.layers import affine


class VectorDecoder(nn.Module):
    """(n, d) node states -> (n, 2, size): row 0 serves multiplicative, row 1 additive parameters. ghn_spec 7.3."""

    def __init__(self, hid: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.fc = nn.Sequential(nn.Linear(hid, 2 * hid), nn.ReLU(), nn.Linear(2 * hid, 2 * size))

    def writers(self) -> list[tuple[Tensor, Tensor]]:
        return [affine(self.fc, 2)]

    def forward(self, z: Tensor) -> Tensor:
        return self.fc(z).view(len(z), 2, self.size)
