"""DecodePlan: which nodes are decoded together, and what becomes of each result. Built once per batch."""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from ghn.batch import GraphBatch
from ghn.decode.conv import MaxShape
from ghn.fit import gain, kernel_shape, position_shape
from ghn.graph import ParamSlot
from ghn.primitives import Role


@dataclass(frozen=True)
class Target:
    """One parameter to fill: of which graph, which slot, and its row among the nodes decoded together."""

    graph: int
    slot: ParamSlot
    row: int


@dataclass(frozen=True, eq=False)
class Group:
    """Parameters decoded by one call. nodes: (n,) packed indices; shape: what the decoder is asked for;
    gains: (n, 1, 1, 1, 1) factors, one for each row."""

    shape: MaxShape
    nodes: Tensor
    targets: tuple[Target, ...]
    gains: Tensor


@dataclass(frozen=True, eq=False)
class DecodePlan:
    """kernels: groups for the conv decoder, one per distinct shape. classifiers: likewise, by in-channels.
    vectors: nodes of all 1-D parameters together; class_vectors: of classifier biases."""

    kernels: tuple[Group, ...]
    classifiers: tuple[Group, ...]
    vectors: Group
    class_vectors: Group

    @classmethod
    def build(cls, batch: GraphBatch, max_shape: MaxShape) -> "DecodePlan":
        """The plan for every slot of every graph, for decoders of this largest shape."""
        kernels: dict[MaxShape, list[Target]] = defaultdict(list)
        classifiers: dict[MaxShape, list[Target]] = defaultdict(list)
        vectors: list[Target] = []
        class_vectors: list[Target] = []
        for b, graph in enumerate(batch.graphs):
            for slot in graph.slots:
                target = Target(b, slot, -1)
                if slot.role is Role.CLASSIFIER_WEIGHT:
                    classifiers[(0, min(slot.shape[1], max_shape[1]), 1, 1)].append(target)
                elif slot.role in (Role.WEIGHT, Role.POSITION):
                    kernels[_block_shape(slot, max_shape)].append(target)
                elif slot.role is Role.CLASSIFIER_BIAS:
                    class_vectors.append(target)
                else:
                    vectors.append(target)
        none = (0, 0, 0, 0)
        return cls(
            kernels=tuple(_group(batch, s, t) for s, t in kernels.items()),
            classifiers=tuple(_group(batch, s, t) for s, t in classifiers.items()),
            vectors=_group(batch, none, vectors),
            class_vectors=_group(batch, none, class_vectors),
        )


def _block_shape(slot: ParamSlot, max_shape: MaxShape) -> MaxShape:
    full = position_shape(slot.shape) if slot.role is Role.POSITION else kernel_shape(slot.outputs_first)
    out, inp, h, w = (min(a, b) for a, b in zip(full, max_shape, strict=True))
    return out, inp, h, w


def _group(batch: GraphBatch, shape: MaxShape, targets: list[Target]) -> Group:
    """Targets that share a node and a gain share a row (a norm's weight and bias; a node is decoded once)."""
    rows: dict[tuple[int, float], int] = {}
    placed = []
    for target in targets:
        slot = target.slot
        weight = slot.role in (Role.WEIGHT, Role.CLASSIFIER_WEIGHT)
        key = (batch.offsets[target.graph] + slot.node, gain(slot.outputs_first) if weight else 1.0)
        placed.append(Target(target.graph, slot, rows.setdefault(key, len(rows))))
    device = batch.place.device
    nodes = torch.tensor([node for node, _ in rows], dtype=torch.int64, device=device)
    gains = torch.tensor([factor for _, factor in rows], device=device).view(-1, 1, 1, 1, 1)
    return Group(shape, nodes, tuple(placed), gains)
