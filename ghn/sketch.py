"""Sketch: a graph written down node by node, in the order in which a network computes, without the network.

Where `tracing` finds the graph of a module that exists, a sketch states the graph of one that need not: the same
nodes, names, slots and shapes, by the same rules, some hundred times faster. No torch.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from ghn import kinds
from ghn.graph import ArchGraph, ParamSlot, encoder_shape, shortest_paths
from ghn.kinds import Shape4
from ghn.primitives import Primitive, Role

INPUT = 0
NO_SHAPE: Shape4 = (0, 0, 0, 0)
CONV, BIAS, BN, POS_ENC = (int(p) for p in (Primitive.CONV, Primitive.BIAS, Primitive.BN, Primitive.POS_ENC))
SUM, CONCAT = int(Primitive.SUM), int(Primitive.CONCAT)
LABELS = [f".{p.label}" for p in Primitive]  # a lookup: the properties of an enum take ten times as long

Parts = tuple[tuple[str, Role], ...]  # what a module's path is followed by, and the role of the parameter of that name
WEIGHT: Parts = ((".weight", Role.WEIGHT),)
OFFSET: Parts = ((".bias", Role.BIAS),)
CLASSIFIER_WEIGHT: Parts = ((".weight", Role.CLASSIFIER_WEIGHT),)
CLASSIFIER_OFFSET: Parts = ((".bias", Role.CLASSIFIER_BIAS),)
NORM_WEIGHT: Parts = ((".weight", Role.NORM_WEIGHT),)
NORM: Parts = (*NORM_WEIGHT, (".bias", Role.NORM_BIAS))
POSITION: Parts = (("", Role.POSITION),)

_ONE = [(n,) for n in range(1 << 14)]  # the predecessors of nodes that have one, for chains to be cut out of
_slot = tuple.__new__  # what the constructor of a named tuple comes down to, in half the time


class Entry(NamedTuple):
    """Parameters of one module in one place. node: counted from where the entry was written."""

    path: str
    parts: Parts
    shape: tuple[int, ...]
    node: int
    aliases: tuple[str, ...] = ()


class Arrays(NamedTuple):
    """ops: (N,) uint8. edges: (E, 2) int32. shapes: (N, 4) int32. distances: (N, N) uint8. As in `ArchGraph`."""

    ops: np.ndarray
    edges: np.ndarray
    shapes: np.ndarray
    distances: np.ndarray


class Sketch:
    """A graph in the making. Methods add nodes and return the last one's number, a source for later ones.

    kinds, preds, levels: of every node its kind (`ghn.kinds`), the nodes before it, and the longest path to it.
    labels: (path, what follows it for each of the next nodes). entries: (path, parameters, number that their nodes
    count from), in the order in which they were written, which must be that of the module's `named_parameters()`.
    Names and slots are put together when the graph is made: most sketches serve to tell architectures apart, which
    takes neither.
    num_params: numbers in all parameters; a tied tensor counts once. macs, outputs: multiply-adds of its layers for one
    input, and numbers that they put out, as far as they were told how many positions they run over.
    """

    __slots__ = ("entries", "kinds", "labels", "levels", "macs", "num_params", "outputs", "preds")

    def __init__(self) -> None:
        self.kinds: list[int] = [kinds.number(int(Primitive.INPUT), NO_SHAPE)]
        self.preds: list[tuple[int, ...]] = [()]
        self.levels: list[int] = [0]
        self.labels: list[tuple[str, tuple[str, ...]]] = [("input", ("",))]
        self.entries: list[tuple[str, tuple[Entry, ...], int]] = []
        self.num_params = 0
        self.macs = 0
        self.outputs = 0

    def __len__(self) -> int:
        return len(self.kinds)

    def add(self, op: int, preds: tuple[int, ...], path: str, label: str = "", shape: Shape4 = NO_SHAPE) -> int:
        """Any node, by the name path + label. preds: different nodes; none makes a source."""
        self.kinds.append(kinds.number(op, shape))
        self.preds.append(preds)
        self.levels.append(1 + max([self.levels[u] for u in preds], default=-1))
        self.labels.append((path, (label,)))
        return len(self.kinds) - 1

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
        node = self.add(op, (x,), path, ".weight", encoder_shape(shape))
        self._enter(path, CLASSIFIER_WEIGHT if classifies else WEIGHT, shape, node)
        self.macs += math.prod(shape) * positions
        self.outputs += shape[0] * positions
        if not bias:
            return node
        node = self.add(BIAS, (node,), path, ".bias", (shape[0], 1, 1, 1))
        self._enter(path, CLASSIFIER_OFFSET if classifies else OFFSET, shape[:1], node)
        return node

    def norm(self, x: int, path: str, channels: int, op: int = BN, *, bias: bool = True) -> int:
        """A batch or layer norm (op LN): one node for weight and bias."""
        node = self.add(op, (x,), path, ".weight", (channels, 1, 1, 1))
        self._enter(path, NORM if bias else NORM_WEIGHT, (channels,), node)
        return node

    def table(self, fqn: str, shape: tuple[int, ...], *, x: int | None = None, aliases: tuple[str, ...] = ()) -> int:
        """A position encoding, or rows looked up by the index x; a source where there is none."""
        node = self.add(POS_ENC, () if x is None else (x,), fqn, "", encoder_shape(shape))
        self._enter(fqn, POSITION, shape, node, aliases)
        return node

    def ride(self, node: int, fqn: str, role: Role, shape: tuple[int, ...]) -> None:
        """A parameter without a node of its own, on one that its values flow into or scale."""
        self._enter(fqn, (("", role),), shape, node)

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
        return different[0] if len(different) == 1 else self.add(op, different, path, LABELS[op])

    def _enter(self, path: str, parts: Parts, shape: tuple[int, ...], node: int, aliases: tuple[str, ...] = ()) -> None:
        self.entries.append((path, (Entry("", parts, shape, node, aliases),), 0))
        self.num_params += math.prod(shape) * len(parts)

    def paste(self, piece: "Piece", x: int, path: str) -> int:
        """A piece after node x, its names after `path`; the node that it ends with."""
        first = len(self.kinds)
        shift, level = first - 1, self.levels[x]
        self.kinds += piece.kinds
        self.levels += [level + above for above in piece.levels]
        if piece.chain and first + len(piece.kinds) < len(_ONE):
            self.preds.append((x,))
            self.preds += _ONE[first : first + len(piece.kinds) - 1]
        else:
            self.preds += [tuple([u + shift if u else x for u in before]) for before in piece.preds]
        self.labels.append((path, piece.labels))
        self.entries.append((path, piece.entries, shift))
        self.num_params += piece.num_params
        self.macs += piece.macs
        self.outputs += piece.outputs
        return piece.end + shift if piece.end else x

    @property
    def ops(self) -> list[int]:
        """The type of every node."""
        return kinds.table().ops[self.kinds].tolist()

    @property
    def slots(self) -> tuple[ParamSlot, ...]:
        """The parameters and their nodes, in order."""
        return tuple(
            [
                _slot(ParamSlot, (path + below + name, role, shape, node + shift, aliases, ""))
                for path, entries, shift in self.entries
                for below, parts, shape, node, aliases in entries
                for name, role in parts
            ]
        )

    def arrays(self) -> Arrays:
        """What an `ArchGraph` knows of its nodes but for names and slots, with the distances."""
        return Arrays(*self._arrays(), shortest_paths(self.preds))

    def graph(self) -> ArchGraph:
        """The graph; its output is the last node."""
        names = tuple([(path + label).lstrip(".") for path, labels in self.labels for label in labels])
        return ArchGraph(*self._arrays(), slots=self.slots, names=names)

    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sources = np.fromiter(chain.from_iterable(self.preds), np.int32)
        targets = np.repeat(np.arange(len(self), dtype=np.int32), np.fromiter(map(len, self.preds), np.int32))
        edges = np.stack((sources, targets), axis=1)[np.argsort(sources, kind="stable")]
        known = kinds.table()
        return known.ops[self.kinds], edges, known.shapes[self.kinds]


@dataclass(frozen=True)
class Piece:
    """A part of a sketch that follows one node, to be pasted wherever it recurs.

    Nodes count from 1, 0 being the node that it follows; `end` is that of its output. chain: whether each node follows
    the one before. The rest as in a sketch.
    """

    kinds: tuple[int, ...]
    preds: tuple[tuple[int, ...], ...]
    levels: tuple[int, ...]
    labels: tuple[str, ...]
    entries: tuple[Entry, ...]
    num_params: int
    macs: int
    outputs: int
    end: int
    chain: bool

    @classmethod
    def of(cls, sketch: Sketch, end: int) -> "Piece":
        """What was written to a new sketch, with paths that begin where a pasted one's end."""
        preds = tuple(sketch.preds[1:])
        return cls(
            kinds=tuple(sketch.kinds[1:]),
            preds=preds,
            levels=tuple(sketch.levels[1:]),
            labels=tuple(path + label for path, labels in sketch.labels[1:] for label in labels),
            entries=tuple(
                entry._replace(path=path + entry.path, node=entry.node + shift)
                for path, entries, shift in sketch.entries
                for entry in entries
            ),
            num_params=sketch.num_params,
            macs=sketch.macs,
            outputs=sketch.outputs,
            end=end,
            chain=bool(preds) and preds == tuple((v,) for v in range(len(preds))),
        )
