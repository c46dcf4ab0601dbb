"""Identity of graphs whatever the order of their nodes: Weisfeiler-Lehman colours, for many graphs at a time.

Source: Weisfeiler & Leman 1968; Shervashidze et al., JMLR 2011 (as a hash). On a DAG one sweep in topological order
carries colours along whole paths, so that two sweeps, to and fro, do the work of as many rounds over neighbours as the
graph is deep. A colour is 64 bits; that of a multiset is the sum of its members', which are well mixed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NamedTuple, Protocol

import numpy as np

from ghn import kinds

SWEEPS = 2
WHITE = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # of splitmix64: Steele et al. 2014
HALF, THIRD = np.uint64(32), np.uint64(29)


class Nodes(Protocol):
    """What identity reads of a graph, by node: its kind (`ghn.kinds`), the nodes before it, which have lower numbers,
    and the longest path to it."""

    @property
    def kinds(self) -> Sequence[int]: ...
    @property
    def preds(self) -> Sequence[Sequence[int]]: ...
    @property
    def levels(self) -> Sequence[int]: ...


class Identity(NamedTuple):
    """32 hexadecimal digits each: equal for isomorphic graphs, unequal for those that colours tell apart.

    topology: with channel counts left out, so that types, kernel sizes and connections decide.
    """

    key: str
    topology: str


def identities(graphs: Sequence[Nodes]) -> list[Identity]:
    """The identity of each graph; what else is in the list does not matter."""
    if not graphs:
        return []
    sizes = np.array([len(g.preds) for g in graphs])
    first = np.cumsum(sizes) - sizes
    source, target, levels = _edges(graphs, np.repeat(first, sizes))
    forward = _turns(target, source, levels)
    backward = _turns(source, target, levels)[::-1]
    own = kinds.table().colours[:, np.fromiter(chain.from_iterable(g.kinds for g in graphs), np.int64, sizes.sum())]
    found = []
    for colours in own:
        for turn in range(SWEEPS):
            colours = _sweep(colours, backward if turn % 2 else forward)
        halves = [np.add.reduceat(_mixed(colours + salt), first).tolist() for salt in (FIRST, SECOND)]
        found.append([f"{a:016x}{b:016x}" for a, b in zip(*halves, strict=True)])
    return [Identity(key, topology) for key, topology in zip(*found, strict=True)]


@dataclass(frozen=True)
class Turn:
    """One level's part of a sweep. nodes: those with neighbours; first: where in `seen` each one's begin."""

    nodes: np.ndarray
    seen: np.ndarray
    first: np.ndarray


def _sweep(colours: np.ndarray, turns: Sequence[Turn]) -> np.ndarray:
    """The colours after each node has seen the new colours of its neighbours on one side."""
    new = _mixed(colours)
    for turn in turns:
        met = np.add.reduceat(new[turn.seen], turn.first)
        new[turn.nodes] = _mixed(colours[turn.nodes] + met * WHITE)
    return new


def _turns(ours: np.ndarray, theirs: np.ndarray, levels: np.ndarray) -> list[Turn]:
    """The edges by the level of their end in `ours`, ascending, and within a level by node."""
    order = np.lexsort((ours, levels[ours]))
    ours, theirs = ours[order], theirs[order]
    begins = np.flatnonzero(np.diff(ours, prepend=-1))  # of each node's edges
    nodes = ours[begins]
    cuts = [0, *(np.flatnonzero(np.diff(levels[nodes])) + 1).tolist(), len(nodes)]
    ends = [*begins.tolist(), len(ours)]
    return [Turn(nodes[a:b], theirs[ends[a] : ends[b]], begins[a:b] - ends[a]) for a, b in pairwise(cuts) if b > a]


def _edges(graphs: Sequence[Nodes], offset: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source and target of every edge, and each node's longest path from a source, nodes numbered through.

    offset: for each node, the number of its graph's first.
    """
    preds = list(chain.from_iterable(g.preds for g in graphs))
    counts = np.fromiter(map(len, preds), np.int64, len(preds))
    target = np.repeat(np.arange(len(preds)), counts)
    source = np.fromiter(chain.from_iterable(preds), np.int64, len(target)) + offset[target]
    levels = np.fromiter(chain.from_iterable(g.levels for g in graphs), np.int64, len(preds))
    return source, target, levels


def _mixed(x: np.ndarray) -> np.ndarray:
    """A bijection of 64 bits in which every bit of the result depends on every bit of x. Source: splitmix64."""
    x = (x ^ (x >> HALF)) * FIRST
    x = (x ^ (x >> THIRD)) * SECOND
    return x ^ (x >> HALF)
