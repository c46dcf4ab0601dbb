"""GraphBatch: several ArchGraphs laid out so that a sweep updates one level of all of them at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ghn.graph import ArchGraph


@dataclass(frozen=True, eq=False)
class GraphBatch:
    """B graphs, packed (their nodes one after the other, N in total) and padded (B rows of P places).

    In the padded layout every graph's nodes stand sorted by level, and level l takes the same columns
    `levels[l] = (start, end)` in every row, so that all nodes of a level are one slice.

    graphs: the graphs. offsets: (B + 1,) where each graph starts in packed order.
    place: (N,) int64, packed node -> row * P + column. levels: column ranges. width: P.
    ops: (N,) int64. shapes: (N, 4) int64.
    distances: (B, P, P) uint8, distances[b, u, v] of the shortest path u -> v, 0 where none or above the cutoff.
    """

    graphs: tuple[ArchGraph, ...]
    offsets: tuple[int, ...]
    place: Tensor
    levels: tuple[tuple[int, int], ...]
    width: int
    ops: Tensor
    shapes: Tensor
    distances: Tensor

    @classmethod
    def collate(cls, graphs: Sequence[ArchGraph], cutoff: int = 50) -> "GraphBatch":
        """The batch of these graphs; distances above `cutoff` count as not connected (1: real edges only).

        Raises ValueError on an empty sequence.
        """
        if not graphs:
            raise ValueError("a GraphBatch needs at least one graph")
        counts = [np.bincount(g.levels) for g in graphs]
        depth = max(len(c) for c in counts)
        widths = np.max([np.pad(c, (0, depth - len(c))) for c in counts], axis=0)
        starts = np.concatenate([[0], np.cumsum(widths)])
        size = int(starts[-1])
        distances = np.zeros((len(graphs), size, size), dtype=np.uint8)
        place = []
        for b, g in enumerate(graphs):
            column = starts[g.levels] + _rank_within_level(g.levels)
            near = np.where(g.distances <= cutoff, g.distances, 0)
            distances[b][np.ix_(column, column)] = near
            place.append(b * size + column)
        return cls(
            graphs=tuple(graphs),
            offsets=tuple(np.cumsum([0, *(len(g) for g in graphs)]).tolist()),
            place=torch.from_numpy(np.concatenate(place)),
            levels=tuple(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)),
            width=size,
            ops=torch.from_numpy(np.concatenate([g.ops for g in graphs]).astype(np.int64)),
            shapes=torch.from_numpy(np.concatenate([g.shapes for g in graphs]).astype(np.int64)),
            distances=torch.from_numpy(distances),
        )

    def __len__(self) -> int:
        return len(self.graphs)

    @property
    def num_nodes(self) -> int:
        return self.offsets[-1]

    @property
    def occupied(self) -> Tensor:
        """(B, P) bool: which places hold a node."""
        places = torch.zeros(len(self) * self.width, dtype=torch.bool, device=self.place.device)
        return places.index_fill(0, self.place, True).view(len(self), self.width)

    def to(self, device: torch.device | str) -> "GraphBatch":
        """The same batch with its tensors on another device."""
        tensors = (t.to(device) for t in (self.place, self.ops, self.shapes, self.distances))
        place, ops, shapes, distances = tensors
        return GraphBatch(self.graphs, self.offsets, place, self.levels, self.width, ops, shapes, distances)

    def pad(self, packed: Tensor) -> Tensor:
        """(N, d) -> (B, P, d), zeros in the empty places."""
        out = packed.new_zeros(len(self) * self.width, packed.shape[1])
        return out.index_copy(0, self.place, packed).view(len(self), self.width, -1)

    def pack(self, padded: Tensor) -> Tensor:
        """(B, P, d) -> (N, d)."""
        return padded.reshape(len(self) * self.width, -1).index_select(0, self.place)


def _rank_within_level(levels: np.ndarray) -> np.ndarray:
    order = np.argsort(levels, kind="stable")
    sizes = np.bincount(levels)
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    rank = np.empty(len(levels), dtype=np.int64)
    rank[order] = np.arange(len(levels)) - first
    return rank
