"""The cells of NAS-Bench-201, all 15,625 of them, as data and as graphs. Source: Dong & Yang, ICLR 2020."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any, Self

from deepnets_gen.spaces.fields import check, check_whole, pick, read
from ghn.primitives import Primitive
from ghn.sketch import INPUT, Sketch

NONE = "none"
OPS = (NONE, "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # (source, target); state 0 is the input, 3 the output
SIZE = len(OPS) ** len(EDGES)
STAGES = 3  # each with twice the channels of the one before, at half the resolution
AVG_POOL, GLOB_AVG = Primitive.AVG_POOL.value, Primitive.GLOB_AVG.value


@dataclass(frozen=True)
class Nasbench201Genotype:
    """One network: three stages of the same cell, residual blocks with stride 2 between them.

    ops: the operation on each of EDGES. cells: of a stage. channels: of the first stage.

    An edge carries something where its operation is not 'none', what it reads is fed by the input, and what it feeds
    leads to the output. The benchmark's own networks have the parameters of all edges; there, a convolution that reads
    zeros still adds the bias of its norm, a constant that is left out here.

    Raises GenotypeError where a field is out of range, or nothing connects the cell's output with its input.
    """

    ops: tuple[str, ...]
    cells: int = 5
    channels: int = 16

    def __post_init__(self) -> None:
        check(type(self.ops) is tuple and len(self.ops) == len(EDGES), "ops", self.ops, f"give {len(EDGES)} operations")
        for op in self.ops:
            check(op in OPS, "ops", op, f"known are {', '.join(OPS)}")
        check_whole("cells", self.cells, 1)
        check_whole("channels", self.channels, 2)
        check(bool(self.live), "ops", self.arch, f"{NONE!r} edges cut the output from the input; replace one")

    @cached_property
    def live(self) -> tuple[int, ...]:
        """The edges that carry something from the cell's input to its output, as indices of EDGES."""
        return live_edges(self.ops)

    @property
    def arch(self) -> str:
        """The benchmark's text for the cell."""
        return cell_text(self.ops)

    @property
    def index(self) -> int:
        """The cell's place in the order of `candidate_at`."""
        return sum(OPS.index(op) * len(OPS) ** i for i, op in enumerate(reversed(self.ops)))

    @classmethod
    def from_arch(cls, text: str, cells: int = 5, channels: int = 16) -> Self:
        """The genotype of the benchmark's text for a cell. Raises GenotypeError on any other text."""
        check(isinstance(text, str), "arch", text, "give the benchmark's text for a cell")
        named = [part for part in text.replace("+", "").split("|") if part]
        sources = [f"{source}" for source, _ in EDGES]
        form = [part.rpartition("~")[2] for part in named] == sources
        check(form, "arch", text, "give three nodes: |op~0|+|op~0|op~1|+|op~0|op~1|op~2|")
        found = cls(tuple(part.rpartition("~")[0] for part in named), cells, channels)
        check(found.arch == text, "arch", text, f"write it {found.arch}")
        return found

    def check_side(self, image_size: int) -> None:
        """Raises GenotypeError unless images of this side can be halved between stages."""
        fits = type(image_size) is int and image_size > 0 and image_size % 2 ** (STAGES - 1) == 0
        check(fits, "image_size", image_size, f"give a positive multiple of {2 ** (STAGES - 1)}")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record; `from_dict` gives the genotype back."""
        return {"arch": self.arch, "cells": self.cells, "channels": self.channels}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The genotype that `to_dict` wrote; further entries are ignored. Raises GenotypeError on anything else."""
        return cls.from_arch(*read(record, ("arch", "cells", "channels"), "NAS-Bench-201").values())


def cell_text(ops: tuple[str, ...]) -> str:
    """The benchmark's text for a cell: '|nor_conv_3x3~0|+|none~0|skip_connect~1|+|...|'."""
    nodes: dict[int, str] = {}
    for op, (source, target) in zip(ops, EDGES, strict=True):
        nodes[target] = nodes.get(target, "|") + f"{op}~{source}|"
    return "+".join(nodes.values())


def live_edges(ops: tuple[str, ...]) -> tuple[int, ...]:
    """The edges on a path without 'none' from state 0 to the last, as indices of EDGES; empty where there is none."""
    carrying = [j for j, op in enumerate(ops) if op != NONE]
    fed, wanted = {0}, {EDGES[-1][1]}
    for j in carrying:  # sorted by target
        if EDGES[j][0] in fed:
            fed.add(EDGES[j][1])
    for j in reversed(carrying):
        if EDGES[j][1] in wanted:
            wanted.add(EDGES[j][0])
    return tuple(j for j in carrying if EDGES[j][0] in fed and EDGES[j][1] in wanted)


@dataclass(frozen=True)
class Nasbench201Axes:
    """What varies beside the cell, each value as likely. As it is: nothing, the benchmark's own networks."""

    cells: tuple[int, ...] = (5,)
    channels: tuple[int, ...] = (16,)


def candidate_at(index: int, cells: int = 5, channels: int = 16) -> Nasbench201Genotype | None:
    """The cell number `index` of SIZE: its digits to base 5 are its operations; None where it is not connected.

    Raises GenotypeError where there is no such cell.
    """
    check(type(index) is int and 0 <= index < SIZE, "index", index, f"there are {SIZE} cells, numbered from 0")
    ops = tuple(OPS[index // len(OPS) ** i % len(OPS)] for i in reversed(range(len(EDGES))))
    return Nasbench201Genotype(ops, cells, channels) if live_edges(ops) else None


def candidate(rng: Random, axes: Nasbench201Axes) -> Nasbench201Genotype | None:
    """A random cell, each as likely; None where it is not connected."""
    return candidate_at(int(rng.random() * SIZE), pick(rng, axes.cells), pick(rng, axes.channels))


def num_params_published(genotype: Nasbench201Genotype, num_classes: int = 10) -> int:
    """Parameters of the benchmark's network, which has those of every edge, whether it carries something or not."""
    s = sketch(genotype, num_classes)
    dead = [KERNELS[op] for j, op in enumerate(genotype.ops) if op in KERNELS and j not in genotype.live]
    widths = [genotype.channels << stage for stage in range(STAGES)]
    return s.num_params + genotype.cells * sum(k * k * c * c + 2 * c for k in dead for c in widths)


def sketch(genotype: Nasbench201Genotype, num_classes: int = 10, image_size: int = 32) -> Sketch:
    """The graph of the network, in the making. Raises GenotypeError where images of this side cannot be halved."""
    genotype.check_side(image_size)
    s, c, side, cell = Sketch(), genotype.channels, image_size, 0
    x = s.norm(s.layer(INPUT, "stem.0", (c, 3, 3, 3), side * side), "stem.1", c)
    for stage in range(STAGES):
        if stage:
            c, side = 2 * c, side // 2
            x = _reduction(s, x, f"cells.{cell}", c, side * side)
            cell += 1
        for _ in range(genotype.cells):
            x = _cell(s, x, f"cells.{cell}", genotype, c, side * side)
            cell += 1
    x = s.add(GLOB_AVG, (s.norm(x, "lastact.0", c),), "global_pooling.glob_avg")
    s.layer(x, "classifier", (num_classes, c), bias=True, classifies=True)
    return s


def _cell(s: Sketch, x: int, path: str, g: Nasbench201Genotype, c: int, positions: int) -> int:
    """The node of a cell's output. Terms are added one after the other, in the order of the edges."""
    states: dict[int, int] = {0: x}
    for j in g.live:
        source, target = EDGES[j]
        term = _edge(s, states[source], f"{path}.layers.{j}", g.ops[j], c, positions)
        states[target] = s.sum((states[target], term), path) if target in states else term
    return states[EDGES[-1][1]]


def _edge(s: Sketch, x: int, path: str, op: str, c: int, positions: int) -> int:
    if op == "skip_connect":
        return x
    if op == "avg_pool_3x3":
        return s.pool(x, path, AVG_POOL, 3)
    return _conv(s, x, path, (c, c, KERNELS[op], KERNELS[op]), positions)


def _reduction(s: Sketch, x: int, path: str, c: int, positions: int) -> int:
    """The node of the sum of two convolutions and a pooled, widened input."""
    y = _conv(s, x, f"{path}.conv_a", (c, c // 2, 3, 3), positions)
    y = _conv(s, y, f"{path}.conv_b", (c, c, 3, 3), positions)
    x = s.pool(x, f"{path}.downsample.0", AVG_POOL, 2)
    return s.sum((s.layer(x, f"{path}.downsample.1", (c, c // 2, 1, 1), positions), y), path)


def _conv(s: Sketch, x: int, path: str, shape: tuple[int, int, int, int], positions: int) -> int:
    return s.norm(s.layer(x, f"{path}.op.1", shape, positions), f"{path}.op.2", shape[0])
