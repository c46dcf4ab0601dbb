"""Identity of a graph whatever the order of its nodes: Weisfeiler-Lehman colour refinement on a DAG.

Source: Weisfeiler & Leman 1968; Shervashidze et al., JMLR 2011 (as a hash). On a DAG one sweep in topological order
carries a colour along whole paths, so sweeps to and fro reach the stable colouring that rounds over neighbours would
need as many of as the graph is deep.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np

Sources = Sequence[Sequence[int]]
MASK = (1 << 64) - 1
SPREAD, STIR = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # odd: multiplying by them loses nothing


def key(ops: Iterable[int], shapes: Iterable[tuple[int, ...]], preds: Sources) -> str:
    """32 hexadecimal digits: equal for isomorphic graphs, and unequal for all that refinement can tell apart.

    ops, shapes: type and shape of each node. preds: the nodes before each, all with lower numbers.
    """
    colours = [_colour(op, shape) for op, shape in zip(ops, shapes, strict=True)]
    succs: list[list[int]] = [[] for _ in colours]
    for v, sources in enumerate(preds):
        for u in sources:
            succs[u].append(v)
    forward, backward = (preds, range(len(colours))), (succs, range(len(colours) - 1, -1, -1))
    found = 0
    for turn in range(len(colours) + 2):
        colours = _sweep(colours, *(backward if turn % 2 else forward))
        classes = len(set(colours))
        # Stable: neither direction, one after the other, made a difference; or every node is told apart.
        if turn and classes in (found, len(colours)):
            break
        found = classes
    return _digest(colours)


def topology(ops: Iterable[int], shapes: Iterable[tuple[int, ...]], preds: Sources) -> str:
    """32 hexadecimal digits, equal for graphs that differ in channel counts alone (and for some others).

    Types, kernel sizes and connections decide: the colours of the nodes that nothing follows, after one sweep.
    """
    colours = [_colour(op, shape[2:]) for op, shape in zip(ops, shapes, strict=True)]
    colours = _sweep(colours, preds, range(len(colours)))
    followed = {u for sources in preds for u in sources}
    return _digest([c for v, c in enumerate(colours) if v not in followed])


def _sweep(colours: list[int], sources: Sources, order: Iterable[int]) -> list[int]:
    """The colours after each node has seen the new colours of its sources, whose sum stands for their multiset."""
    new = colours[:]
    for v in order:
        before = sources[v]
        seen = new[before[0]] if len(before) == 1 else sum([new[u] for u in before])
        x = (colours[v] + seen * SPREAD) & MASK
        x = (x ^ x >> 32) * STIR & MASK
        new[v] = x ^ x >> 29
    return new


@lru_cache(maxsize=1 << 16)
def _colour(op: int, shape: tuple[int, ...]) -> int:
    return int.from_bytes(blake2b(repr((int(op), *shape)).encode(), digest_size=8).digest(), "little")


def _digest(colours: list[int]) -> str:
    return blake2b(np.sort(np.array(colours, dtype="<u8")).tobytes(), digest_size=16).hexdigest()
