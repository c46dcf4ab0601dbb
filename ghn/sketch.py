"""Sketch: a graph written down node by node, in the order in which a network computes, without the network.

Where `tracing` finds the graph of a module that exists, a sketch states the graph of one that need not: the same
nodes, names, slots and shapes, by the same rules, some hundred times faster. No torch.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np

from ghn.graph import ArchGraph, ParamSlot, encoder_shape
from ghn.primitives import Primitive, Role

Shape4 = tuple[int, int, int, int]
INPUT = 0
NO_SHAPE: Shape4 = (0, 0, 0, 0)
CONV, BIAS, BN, POS_ENC = (int(p) for p in (Primitive.CONV, Primitive.BIAS, Primitive.BN, Primitive.POS_ENC))
SUM, CONCAT = int(Primitive.SUM), int(Primitive.CONCAT)
_slot = tuple.__new__  # what the constructor of a named tuple comes down to, in half the time
LABELS = [p.label for p in Primitive]  # a lookup: the properties of an enum take ten times as long


class Sketch:
    """A graph in the making. Methods add nodes and return the last one's number, a source for later ones.

    ops, shapes, names, preds: one entry per node. slots: in the order in which they were written, which must be that of
    the module's `named_parameters()`.
    num_params: numbers in all parameters; a tied tensor counts once. macs: multiply-adds of its layers for one input,
    as far as they were told how many positions they run over.
    """

    __slots__ = ("macs", "names", "num_params", "ops", "preds", "shapes", "slots")

    def __init__(self) -> None:
        self.ops: list[int] = [int(Primitive.INPUT)]
        self.shapes: list[Shape4] = [NO_SHAPE]
        self.names: list[str] = ["input"]
        self.preds: list[tuple[int, ...]] = [()]
        self.slots: list[ParamSlot] = []
        self.num_params = 0
        self.macs = 0

    def __len__(self) -> int:
        return len(self.ops)

    def add(self, op: int, preds: tuple[int, ...], name: str, shape: Shape4 = NO_SHAPE) -> int:
        """Any node. preds: different nodes; none makes a source."""
        self.ops.append(op)
        self.preds.append(preds)
        self.names.append(name)
        self.shapes.append(shape)
        return len(self.ops) - 1

    def layer(
        self,
        x: int,
        path: str,
        shape: tuple[int, ...],
        positions: int = 1,
        *,
        bias: bool = False,
        op: int = CONV,
        classifies: bool = False,
    ) -> int:
        """A convolution or linear layer: a node for its weight, and one for its bias if it has one.

        path: of the module. shape: of the weight. positions: how many outputs the kernel computes.
        op: SEP_CONV or DIL_CONV where groups > 1. classifies: whether it gives the network's output.
        """
        role = Role.CLASSIFIER_WEIGHT if classifies else Role.WEIGHT
        node = self._add_slot(op, x, f"{path}.weight", role, shape, _encoded(shape))
        numel = math.prod(shape)
        self.num_params += numel
        self.macs += numel * positions
        if not bias:
            return node
        self.num_params += shape[0]
        role = Role.CLASSIFIER_BIAS if classifies else Role.BIAS
        return self._add_slot(BIAS, node, f"{path}.bias", role, shape[:1], (shape[0], 1, 1, 1))

    def norm(self, x: int, path: str, channels: int, op: int = BN, *, bias: bool = True) -> int:
        """A batch or layer norm (op LN): one node for weight and bias."""
        shape = (channels,)
        node = self._add_slot(op, x, f"{path}.weight", Role.NORM_WEIGHT, shape, (channels, 1, 1, 1))
        self.num_params += channels
        if bias:
            self.num_params += channels
            self.slots.append(_slot(ParamSlot, (f"{path}.bias", Role.NORM_BIAS, shape, node, ())))
        return node

    def _add_slot(self, op: int, x: int, fqn: str, role: Role, shape: tuple[int, ...], encoded: Shape4) -> int:
        node = len(self.ops)
        self.ops.append(op)
        self.preds.append((x,))
        self.names.append(fqn)
        self.shapes.append(encoded)
        self.slots.append(_slot(ParamSlot, (fqn, role, shape, node, ())))
        return node

    def table(self, fqn: str, shape: tuple[int, ...], *, x: int | None = None, aliases: tuple[str, ...] = ()) -> int:
        """A position encoding, or rows looked up by the index x; a source where there is none."""
        node = self.add(POS_ENC, () if x is None else (x,), fqn, encoder_shape(shape))
        self.slots.append(ParamSlot(fqn, Role.POSITION, shape, node, aliases))
        self.num_params += math.prod(shape)
        return node

    def ride(self, node: int, fqn: str, role: Role, shape: tuple[int, ...]) -> None:
        """A parameter without a node of its own, on one that its values flow into or scale."""
        self.slots.append(_slot(ParamSlot, (fqn, role, shape, node, ())))
        self.num_params += math.prod(shape)

    def pool(self, x: int, path: str, op: int, kernel: int) -> int:
        """A max or average pool with a square window."""
        return self.add(op, (x,), f"{path}.{LABELS[op]}", (1, 1, kernel, kernel))

    def sum(self, terms: Iterable[int], path: str) -> int:
        """The sum of these nodes; where all are one node, that node."""
        return self._meeting(SUM, terms, path)

    def concat(self, parts: Iterable[int], path: str) -> int:
        """The concatenation of these nodes; where all are one node, that node."""
        return self._meeting(CONCAT, parts, path)

    def _meeting(self, op: int, terms: Iterable[int], path: str) -> int:
        different = tuple(dict.fromkeys(terms))
        if len(different) == 1:
            return different[0]
        return self.add(op, different, f"{path}.{LABELS[op]}" if path else LABELS[op])

    def copy(self, part: "Part", sources: Mapping[int, int], path: str) -> int:
        """Writes a part of the sketch once more; the new number of the node that the part ended with.

        sources: what the copy reads in place of the nodes before the part that the part reads. path: what its names
        begin with in place of the part's.
        """
        shift, cut = len(self) - part.nodes.start, len(part.path)
        renumbered = {**sources, **{u: u + shift for u in part.nodes}}
        these = slice(part.nodes.start, part.nodes.stop)
        self.ops += self.ops[these]
        self.shapes += self.shapes[these]
        self.names += [path + name[cut:] for name in self.names[these]]
        self.preds += [tuple([renumbered[u] for u in before]) for before in self.preds[these]]
        self.slots += [
            _slot(ParamSlot, (path + fqn[cut:], role, shape, node + shift, aliases))
            for fqn, role, shape, node, aliases in self.slots[part.slots.start : part.slots.stop]
        ]
        self.num_params += part.num_params
        self.macs += part.macs
        return renumbered[part.end]

    def graph(self) -> ArchGraph:
        """The graph; its output is the last node."""
        sources = np.fromiter(chain.from_iterable(self.preds), np.int32)
        targets = np.repeat(np.arange(len(self), dtype=np.int32), np.fromiter(map(len, self.preds), np.int32))
        order = np.argsort(sources, kind="stable")
        return ArchGraph(
            ops=np.array(self.ops, dtype=np.uint8),
            edges=np.stack((sources, targets), axis=1)[order],
            shapes=np.fromiter(chain.from_iterable(self.shapes), np.int32, 4 * len(self)).reshape(-1, 4),
            slots=tuple(self.slots),
            names=tuple(self.names),
        )


@dataclass(frozen=True)
class Part:
    """A part of a sketch. nodes, slots: its range of each. num_params, macs: that it adds. path: what its names begin
    with. end: the node of its output, which may be one that it reads."""

    path: str
    nodes: range
    slots: range
    num_params: int
    macs: int
    end: int


@lru_cache(maxsize=4096)
def _encoded(shape: tuple[int, ...]) -> Shape4:
    return encoder_shape(shape)
