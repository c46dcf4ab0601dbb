"""The shape half of a node's initial state: an embedding of its parameter's channels and kernel size."""

import numpy as np
import torch
from torch import Tensor, nn

MAX_CHANNELS = 8192


def channel_values(num_classes: int) -> np.ndarray:
    """Sorted channel counts that have an embedding row of their own (391 of them for 10 classes)."""
    fixed = {1, 3, num_classes} | set(range(8, 64, 8)) | set(range(64, 4096, 16)) | set(range(4096, 8193, 32))
    return np.array(sorted(fixed))


def spatial_values(max_size: int) -> np.ndarray:
    """Sorted kernel sizes that have an embedding row of their own."""
    return np.array(sorted(set(range(1, max(12, max_size), 2)) | {14, 16}))


def nearest_rows(values: np.ndarray, exceptions: dict[int, int]) -> Tensor:
    """(max + 1,) int64: for every size 0 ... max(values), the row of the nearest value, ties to the smaller.

    Row len(values) stands for 'no shape' and is what size 0 gets. `exceptions` maps sizes to the value they take.
    """
    sizes = np.arange(values[-1] + 1)
    distance = np.abs(sizes[:, None] - values[None, :])
    rows = distance.argmin(axis=1)  # argmin takes the first, that is the smaller, of two equal distances
    rows[0] = len(values)
    for size, value in exceptions.items():
        rows[size] = int(np.flatnonzero(values == value)[0])
    return torch.from_numpy(rows)


class ShapeEncoder(nn.Module):
    """(N, 4) shapes -> (N, d): two channel and two kernel-size embeddings of d/4 numbers each, side by side.

    Source: GHN-2 (Knyazev et al. 2021), appendix C; lookup rules as in ghn_spec section 4.
    """

    channel_row: Tensor
    spatial_row: Tensor

    def __init__(self, hid: int, num_classes: int, max_size: int) -> None:
        super().__init__()
        channels, sizes = channel_values(num_classes), spatial_values(max_size)
        self.embed_spatial = nn.Embedding(len(sizes) + 1, hid // 4)
        self.embed_channel = nn.Embedding(len(channels) + 1, hid // 4)
        eights = dict.fromkeys(range(4, 8), 8)
        self.register_buffer("channel_row", nearest_rows(channels, eights), persistent=False)
        self.register_buffer("spatial_row", nearest_rows(sizes, {2: 3}), persistent=False)

    def forward(self, shapes: Tensor) -> Tensor:
        channel = self.channel_row[shapes[:, :2].clamp(max=MAX_CHANNELS)]
        spatial = self.spatial_row[shapes[:, 2:].clamp(max=len(self.spatial_row) - 1)]
        parts = self.embed_channel(channel).flatten(1), self.embed_spatial(spatial).flatten(1)
        return torch.cat(parts, dim=1)
