"""Decoder of weights with two or more dimensions (convolutions, linear layers, position embeddings)."""

from torch import Tensor, nn
from torch.nn import functional as F

MaxShape = tuple[int, int, int, int]


class ConvDecoder(nn.Module):
    """(n, d) node states -> (n, out, in, h, w) tensors, any size up to `max_shape`.

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

    def forward(self, z: Tensor, shape: MaxShape) -> Tensor:
        """(n, d), (out, in, h, w) within max_shape -> (n, out, in, h, w)."""
        out, inp, h, w = shape
        max_out, max_in, size, _ = self.max_shape
        n, d = z.shape
        fc, hidden, last = self.fc[0], self.conv[0], self.conv[2]
        # (h, w, 4d, d): position-major rows, so that the result is ready for the maps over channels.
        rows = fc.weight.view(4 * d, size, size, d)[:, :h, :w].permute(1, 2, 0, 3).reshape(-1, d)
        bias = fc.bias.view(4 * d, size, size)[:, :h, :w].permute(1, 2, 0).reshape(-1)
        x = F.relu(F.linear(z, rows, bias)).view(n * h * w, 4 * d)
        x = F.relu(F.linear(x, hidden.weight.flatten(1), hidden.bias))
        rows = last.weight.view(max_out, max_in, 8 * d)[:out, :inp].reshape(out * inp, 8 * d)
        bias = last.bias.view(max_out, max_in)[:out, :inp].reshape(-1)
        x = F.linear(x, rows, bias).view(n, h, w, out, inp)
        return x.permute(0, 3, 4, 1, 2)

    def classifier(self, z: Tensor, inp: int) -> Tensor:
        """(n, d) -> (n, num_classes, in): all `out` channels of a 1x1 kernel, mapped to the classes."""
        last = self.class_layer_predictor[1]
        x = F.relu(self(z, (self.max_shape[0], inp, 1, 1)).flatten(2))
        return last.weight.flatten(1) @ x + last.bias[:, None]
