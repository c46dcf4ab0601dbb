"""What of a genotype reaches the output: which cells and edges carry something from image to logits.

A 'none' edge adds nothing, so that states, and whole cells, may carry zeros only, or lead nowhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

Edge = tuple[str, int]  # an operation and the index of the cell state that it reads
NONE = "none"


@dataclass(frozen=True)
class CellKind:
    """Edges (two per step; step i makes state i + 2) and the states concatenated into the output of a cell."""

    edges: tuple[Edge, ...]
    concat: tuple[int, ...]


@dataclass(frozen=True)
class CellFlow:
    """What is alive of one cell. fed: per state, whether more than zeros arrives. live: edges that reach the logits.

    reads: which of the states 0 and 1 the live edges and the concatenation read.
    """

    fed: tuple[bool, ...]
    live: frozenset[int]
    reads: frozenset[int]


def flows(cells: Sequence[CellKind]) -> tuple[CellFlow, ...] | None:
    """The flow of every cell of a stack, cell k reading the outputs of k - 2 and k - 1; None if the end is zeros."""
    inputs = (True, True)  # both ends of the stem
    known: dict[tuple[int, tuple[bool, bool]], tuple[bool, ...]] = {}  # the cells of a stack are one or two objects
    fed = []
    for cell in cells:
        like = id(cell), inputs
        if like not in known:
            known[like] = _fed(cell, *inputs)
        fed.append(known[like])
        inputs = inputs[1], any(known[like][i] for i in cell.concat)
    if not inputs[1]:
        return None
    return _backwards(cells, fed)


def _backwards(cells: Sequence[CellKind], fed: Sequence[tuple[bool, ...]]) -> tuple[CellFlow, ...]:
    """The flow of every cell from what arrives at its states: wanted is what a later cell reads."""
    wanted = [False] * (len(cells) + 1) + [True]
    known: dict[tuple[int, tuple[bool, ...]], CellFlow] = {}
    result = []
    for k in reversed(range(len(cells))):
        like = id(cells[k]), fed[k]
        if not wanted[k + 2]:
            result.append(CellFlow(fed[k], frozenset(), frozenset()))
            continue
        if like not in known:
            known[like] = _flow(cells[k], fed[k])
        for i in known[like].reads:
            wanted[k + i] = True
        result.append(known[like])
    return tuple(reversed(result))


def _fed(cell: CellKind, first: bool, second: bool) -> tuple[bool, ...]:
    fed = [first, second]
    for i in range(0, len(cell.edges), 2):
        fed.append(any(op != NONE and fed[source] for op, source in cell.edges[i : i + 2]))
    return tuple(fed)


def _flow(cell: CellKind, fed: tuple[bool, ...]) -> CellFlow:
    """What is alive of a cell whose output is wanted."""
    wanted = set(cell.concat)
    live = set()
    for j in reversed(range(len(cell.edges))):
        op, source = cell.edges[j]
        if j // 2 + 2 in wanted and op != NONE and fed[source]:
            live.add(j)
            wanted.add(source)
    return CellFlow(fed, frozenset(live), frozenset(wanted & {0, 1}))
