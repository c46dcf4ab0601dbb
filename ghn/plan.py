"""DecodePlan: which nodes are decoded together, and what becomes of each result. Built once per batch."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ghn.batch import GraphBatch
from ghn.fit import FITS, Head, gain, source_shape
from ghn.graph import ParamSlot
from ghn.layers import MaxShape

ANY: MaxShape = (0, 0, 0, 0)  # the shape of groups of vectors, which are decoded in full


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
    """groups: for each decoder, those of one shape together; vectors are one group."""

    groups: Mapping[Head, tuple[Group, ...]]

    @classmethod
    def build(cls, batch: GraphBatch, decoder: Any) -> "DecodePlan":
        """The plan for every slot of every graph, for this kernel decoder (see `ghn.decode`)."""
        return cls._of(batch, decoder, _targets(batch))

    @classmethod
    def pieces(
        cls, batch: GraphBatch, decoder: Any, numbers: int, size: Callable[[ParamSlot, Any], int]
    ) -> Iterator["DecodePlan"]:
        """Plans for the slots in their order, each for as many as have up to so many numbers together, by `size`."""
        piece: list[Target] = []
        held = 0
        for target in _targets(batch):
            more = size(target.slot, decoder)
            if piece and held + more > numbers:
                yield cls._of(batch, decoder, piece)
                piece, held = [], 0
            piece.append(target)
            held += more
        if piece:
            yield cls._of(batch, decoder, piece)

    @classmethod
    def _of(cls, batch: GraphBatch, decoder: Any, targets: Sequence[Target]) -> "DecodePlan":
        found: dict[Head, dict[MaxShape, list[Target]]] = {head: defaultdict(list) for head in Head}
        for target in targets:
            found[FITS[target.slot.role].head][_asked(target.slot, decoder)].append(target)
        return cls({head: tuple(_group(batch, s, t) for s, t in of.items()) for head, of in found.items() if of})


def parameter(slot: ParamSlot, decoder: Any) -> int:
    """Numbers of a parameter."""
    return slot.numel


def decoded(slot: ParamSlot, decoder: Any) -> int:
    """Numbers that are decoded for a parameter, which is tiled from them; of a vector those that it has."""
    return math.prod(_asked(slot, decoder)) or slot.numel


def _asked(slot: ParamSlot, decoder: Any) -> MaxShape:
    """The shape that the decoder is asked for."""
    head = FITS[slot.role].head
    if head is Head.KERNEL:
        return decoder.block(source_shape(slot.role, slot.outputs_first))
    if head is Head.CLASSIFIER:
        return decoder.class_block(source_shape(slot.role, slot.outputs_first))
    return ANY


def _targets(batch: GraphBatch) -> list[Target]:
    return [Target(b, slot, -1) for b, graph in enumerate(batch.graphs) for slot in graph.slots]


def _group(batch: GraphBatch, shape: MaxShape, targets: list[Target]) -> Group:
    """Targets that share a node and a gain share a row (a norm's weight and bias; a node is decoded once)."""
    rows: dict[tuple[int, float], int] = {}
    placed = []
    for target in targets:
        slot = target.slot
        key = (batch.offsets[target.graph] + slot.node, gain(slot.role, slot.outputs_first))
        placed.append(Target(target.graph, slot, rows.setdefault(key, len(rows))))
    device = batch.place.device
    nodes = torch.tensor([node for node, _ in rows], dtype=torch.int64, device=device)
    gains = torch.tensor([factor for _, factor in rows], device=device).view(-1, 1, 1, 1, 1)
    return Group(shape, nodes, tuple(placed), gains)
