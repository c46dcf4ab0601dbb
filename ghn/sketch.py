"""Sketch: a graph written down node by node, in the order in which a network computes, without the network.

Where `tracing` finds the graph of a module that exists, a sketch states the graph of one that need not: the same
nodes, names, slots and shapes, by the same rules, some hundred times faster. No torch.
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np

from ghn.graph import ArchGraph, ParamSlot, encoder_shape, shortest_paths
from ghn.primitives import Primitive, Role

Shape4 = tuple[int, int, int, int]
INPUT = 0
NO_SHAPE: Shape4 = (0, 0, 0, 0)
CONV, BIAS, BN, POS_ENC = (int(p) for p in (Primitive.CONV, Primitive.BIAS, Primitive.BN, Primitive.POS_ENC))
SUM, CONCAT = int(Primitive.SUM), int(Primitive.CONCAT)
Parts = tuple[tuple[str, Role], ...]  # what a module's path is followed by, and the role of the parameter of that name
WEIGHT: Parts = ((".weight", Role.WEIGHT),)
OFFSET: Parts = ((".bias", Role.BIAS),)
CLASSIFIER_WEIGHT: Parts = ((".weight", Role.CLASSIFIER_WEIGHT),)
CLASSIFIER_OFFSET: Parts = ((".bias", Role.CLASSIFIER_BIAS),)
NORM_WEIGHT: Parts = ((".weight", Role.NORM_WEIGHT),)
NORM: Parts = (*NORM_WEIGHT, (".bias", Role.NORM_BIAS))
POSITION: Parts = (("", Role.POSITION),)
Entry = tuple[str, Parts, tuple[int, ...], int, tuple[str, ...]]  # path, parts, shape, node, aliases
_slot = tuple.__new__  # what the constructor of a named tuple comes down to, in half the time
LABELS = [f".{p.label}" for p in Primitive]  # a lookup: the properties of an enum take ten times as long


class Arrays(NamedTuple):
    """ops: (N,) uint8. edges: (E, 2) int32. shapes: (N, 4) int32. distances: (N, N) uint8. As in `ArchGraph`."""

    ops: np.ndarray
    edges: np.ndarray
    shapes: np.ndarray
    distances: np.ndarray


class Sketch:
    """A graph in the making. Methods add nodes and return the last one's number, a source for later ones.

    ops, shapes, preds: one entry per node. labels: the two halves of its name. entries: the parameters, in the order in
    which they were written, which must be that of the module's `named_parameters()`. Names and slots are put together
    when the graph is made: most sketches serve to tell architectures apart, which takes neither.
    num_params: numbers in all parameters; a tied tensor counts once. macs: multiply-adds of its layers for one input,
    as far as they were told how many positions they run over.
    """

    __slots__ = ("entries", "labels", "macs", "num_params", "ops", "preds", "shapes")

    def __init__(self) -> None:
        self.ops: list[int] = [int(Primitive.INPUT)]
        self.shapes: list[Shape4] = [NO_SHAPE]
        self.labels: list[tuple[str, str]] = [("input", "")]
        self.preds: list[tuple[int, ...]] = [()]
        self.entries: list[Entry] = []
        self.num_params = 0
        self.macs = 0

    def __len__(self) -> int:
        return len(self.ops)

    def add(self, op: int, preds: tuple[int, ...], path: str, label: str = "", shape: Shape4 = NO_SHAPE) -> int:
        """Any node, by the name path + label. preds: different nodes; none makes a source."""
        self.ops.append(op)
        self.preds.append(preds)
        self.labels.append((path, label))
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
        node = self.add(op, (x,), path, ".weight", _encoded(shape))
        self.entries.append((path, CLASSIFIER_WEIGHT if classifies else WEIGHT, shape, node, ()))
        numel = math.prod(shape)
        self.num_params += numel
        self.macs += numel * positions
        if not bias:
            return node
        node = self.add(BIAS, (node,), path, ".bias", (shape[0], 1, 1, 1))
        self.entries.append((path, CLASSIFIER_OFFSET if classifies else OFFSET, shape[:1], node, ()))
        self.num_params += shape[0]
        return node

    def norm(self, x: int, path: str, channels: int, op: int = BN, *, bias: bool = True) -> int:
        """A batch or layer norm (op LN): one node for weight and bias."""
        node = self.add(op, (x,), path, ".weight", (channels, 1, 1, 1))
        self.entries.append((path, NORM if bias else NORM_WEIGHT, (channels,), node, ()))
        self.num_params += channels * (1 + bias)
        return node

    def table(self, fqn: str, shape: tuple[int, ...], *, x: int | None = None, aliases: tuple[str, ...] = ()) -> int:
        """A position encoding, or rows looked up by the index x; a source where there is none."""
        node = self.add(POS_ENC, () if x is None else (x,), fqn, "", encoder_shape(shape))
        self.entries.append((fqn, POSITION, shape, node, aliases))
        self.num_params += math.prod(shape)
        return node

    def ride(self, node: int, fqn: str, role: Role, shape: tuple[int, ...]) -> None:
        """A parameter without a node of its own, on one that its values flow into or scale."""
        self.entries.append((fqn, (("", role),), shape, node, ()))
        self.num_params += math.prod(shape)

    def pool(self, x: int, path: str, op: int, kernel: int) -> int:
        """A max or average pool with a square window."""
        return self.add(op, (x,), path, LABELS[op], (1, 1, kernel, kernel))

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
        return self.add(op, different, path, LABELS[op] if path else LABELS[op][1:])

    @property
    def slots(self) -> tuple[ParamSlot, ...]:
        """The parameters and their nodes, in order."""
        return tuple(
            [
                _slot(ParamSlot, (path + name, role, shape, node, aliases))
                for path, parts, shape, node, aliases in self.entries
                for name, role in parts
            ]
        )

    def arrays(self) -> Arrays:
        """What an `ArchGraph` knows of its nodes but for names and slots, with the distances."""
        return Arrays(*self._arrays(), shortest_paths(self.preds))

    def graph(self) -> ArchGraph:
        """The graph; its output is the last node."""
        names = tuple([path + label for path, label in self.labels])
        return ArchGraph(*self._arrays(), slots=self.slots, names=names)

    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sources = np.fromiter(chain.from_iterable(self.preds), np.int32)
        targets = np.repeat(np.arange(len(self), dtype=np.int32), np.fromiter(map(len, self.preds), np.int32))
        edges = np.stack((sources, targets), axis=1)[np.argsort(sources, kind="stable")]
        shapes = np.fromiter(chain.from_iterable(self.shapes), np.int32, 4 * len(self)).reshape(-1, 4)
        return np.array(self.ops, dtype=np.uint8), edges, shapes


@lru_cache(maxsize=4096)
def _encoded(shape: tuple[int, ...]) -> Shape4:
    return encoder_shape(shape)
