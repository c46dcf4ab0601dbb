"""Sketch: a graph written down node by node, in the order in which a network computes, without the network.

Where `tracing` finds the graph of a module that exists, a sketch states the graph of one that need not: the same
nodes, names, slots and shapes, by the same rules, some hundred times faster. No torch.
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain

import numpy as np

from ghn import identity
from ghn.graph import ArchGraph, ParamSlot, encoder_shape
from ghn.primitives import Primitive, Role

Shape4 = tuple[int, int, int, int]
INPUT = 0
NO_SHAPE: Shape4 = (0, 0, 0, 0)


class Sketch:
    """A graph in the making. Methods add nodes and return the last one's number, a source for later ones.

    ops, shapes, names, preds: one entry per node. slots: in the order in which they were written, which must be that of
    the module's `named_parameters()`.
    macs: multiply-adds of its layers for one input, as far as they were told how many positions they run over.
    """

    __slots__ = ("macs", "names", "ops", "preds", "shapes", "slots")

    def __init__(self) -> None:
        self.ops: list[int] = [Primitive.INPUT.value]
        self.shapes: list[Shape4] = [NO_SHAPE]
        self.names: list[str] = ["input"]
        self.preds: list[tuple[int, ...]] = [()]
        self.slots: list[ParamSlot] = []
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
        op: int = Primitive.CONV.value,
        classifies: bool = False,
    ) -> int:
        """A convolution or linear layer: a node for its weight, and one for its bias if it has one.

        path: of the module. shape: of the weight. positions: how many outputs the kernel computes.
        op: SEP_CONV or DIL_CONV where groups > 1. classifies: whether it gives the network's output.
        """
        node = self.add(op, (x,), f"{path}.weight", _encoded(shape))
        role = Role.CLASSIFIER_WEIGHT if classifies else Role.WEIGHT
        self.slots.append(ParamSlot(f"{path}.weight", role, shape, node, ()))
        self.macs += math.prod(shape) * positions
        if not bias:
            return node
        node = self.add(Primitive.BIAS.value, (node,), f"{path}.bias", (shape[0], 1, 1, 1))
        role = Role.CLASSIFIER_BIAS if classifies else Role.BIAS
        self.slots.append(ParamSlot(f"{path}.bias", role, shape[:1], node, ()))
        return node

    def norm(self, x: int, path: str, channels: int, op: int = Primitive.BN.value, *, bias: bool = True) -> int:
        """A batch or layer norm (op LN): one node for weight and bias."""
        node = self.add(op, (x,), f"{path}.weight", (channels, 1, 1, 1))
        self.slots.append(ParamSlot(f"{path}.weight", Role.NORM_WEIGHT, (channels,), node, ()))
        if bias:
            self.slots.append(ParamSlot(f"{path}.bias", Role.NORM_BIAS, (channels,), node, ()))
        return node

    def table(self, fqn: str, shape: tuple[int, ...], *, x: int | None = None, aliases: tuple[str, ...] = ()) -> int:
        """A position encoding, or rows looked up by the index x; a source where there is none."""
        node = self.add(Primitive.POS_ENC.value, () if x is None else (x,), fqn, encoder_shape(shape))
        self.slots.append(ParamSlot(fqn, Role.POSITION, shape, node, aliases))
        return node

    def pool(self, x: int, path: str, op: int, kernel: int) -> int:
        """A max or average pool with a square window."""
        return self.add(op, (x,), f"{path}.{Primitive(op).label}", (1, 1, kernel, kernel))

    def sum(self, terms: Iterable[int], path: str) -> int:
        """The sum of these nodes; where all are one node, that node."""
        return self._meeting(Primitive.SUM, terms, path)

    def concat(self, parts: Iterable[int], path: str) -> int:
        """The concatenation of these nodes; where all are one node, that node."""
        return self._meeting(Primitive.CONCAT, parts, path)

    def _meeting(self, op: Primitive, terms: Iterable[int], path: str) -> int:
        different = tuple(dict.fromkeys(terms))
        if len(different) == 1:
            return different[0]
        return self.add(op.value, different, f"{path}.{op.label}" if path else op.label)

    @property
    def num_params(self) -> int:
        """Numbers in all parameters; a tied tensor counts once."""
        return sum(slot.numel for slot in self.slots)

    @property
    def key(self) -> str:
        """The key of the graph: see `ArchGraph.key`."""
        return identity.key(self.ops, self.shapes, self.preds)

    @property
    def topology(self) -> str:
        """The topology of the graph: see `ArchGraph.topology`."""
        return identity.topology(self.ops, self.shapes, self.preds)

    def edges(self) -> list[tuple[int, int]]:
        """(source, target) of every edge."""
        return [(u, v) for v, sources in enumerate(self.preds) for u in sources]

    def graph(self) -> ArchGraph:
        """The graph; its output is the last node."""
        return ArchGraph(
            ops=np.array(self.ops, dtype=np.uint8),
            edges=np.array(sorted(self.edges()), dtype=np.int32).reshape(-1, 2),
            shapes=np.fromiter(chain.from_iterable(self.shapes), np.int32, 4 * len(self)).reshape(-1, 4),
            slots=tuple(self.slots),
            names=tuple(self.names),
        )


@lru_cache(maxsize=4096)
def _encoded(shape: tuple[int, ...]) -> Shape4:
    return encoder_shape(shape)
