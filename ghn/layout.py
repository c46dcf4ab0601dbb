"""Where the nodes and edges of a graph go on a page: rows by level, lanes for branches, columns for depth.

A layered drawing (Sugiyama et al. 1981) with one liberty: edges that pass over rows do not run between the lanes but
in tracks beside them, so that straight chains with residual connections, the common case, stay straight.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ghn.graph import ArchGraph

BOX = (184, 22)  # pixels of a node
ROW, LANE = 40, 196  # pixels from node to node, down and across
TRACK = 7  # pixels from track to track
MARGIN = 14  # between lanes and tracks, columns, and around everything
LEAVE, ENTER = 6, 7  # pixels from a node to where its edges turn, below and above
ROWS = 42  # in a column, where the width allows
WIDTH = 2600  # pixels: what the number of columns is chosen for
CORRIDOR = -1  # the gutter above all columns, for edges that pass over a whole column

Point = tuple[float, float]
Path = tuple[Point, ...]


@dataclass(frozen=True)
class Layout:
    """Positions on a page, in pixels.

    nodes: (x, y) of the middle of each node. edges: a path for each of the graph's edges, from the bottom of one node
    to the top of the other. size: width and height of it all.
    """

    nodes: tuple[Point, ...]
    edges: tuple[Path, ...]
    size: tuple[float, float]


@dataclass(frozen=True)
class _Place:
    """A node's column, row within the column, and lane within the row."""

    column: int
    row: int
    lane: int


def layout(graph: ArchGraph) -> Layout:
    """The drawing of this graph. No two nodes overlap; edges enter from above and leave below."""
    rank = ranks(graph)
    lanes = _lanes(graph, rank)
    breaks = _breaks(graph, rank, _columns(graph, rank, lanes))
    column = np.searchsorted(breaks, rank, side="right") - 1
    places = [_Place(int(c), int(r - breaks[c]), lane) for c, r, lane in zip(column, rank, lanes, strict=True)]
    return _drawn(graph, places, len(breaks))


def ranks(graph: ArchGraph) -> np.ndarray:
    """(N,) row of each node on one endless page: its level; sources other than the input just above their first use."""
    rank = graph.levels.copy()
    for v in range(1, len(graph)):
        if not graph.predecessors[v] and graph.successors[v]:
            rank[v] = min(rank[s] for s in graph.successors[v]) - 1
    return rank


def _lanes(graph: ArchGraph, rank: np.ndarray) -> list[int]:
    """A lane for each node, no two the same in a row; that of the node just above it where it is free."""
    lanes = [0] * len(graph)
    taken: set[tuple[int, int]] = set()
    for v in sorted(range(len(graph)), key=lambda v: (rank[v], not graph.predecessors[v], v)):
        above = [u for u in graph.predecessors[v] if rank[u] == rank[v] - 1] or graph.predecessors[v]
        wish = min((lanes[u] for u in above), default=0)
        lane = next(x for x in _outward(wish) if (int(rank[v]), x) not in taken)
        taken.add((int(rank[v]), lane))
        lanes[v] = lane
    return lanes


def _outward(start: int) -> Iterable[int]:
    """start, start + 1, start - 1, ..., never below 0, without end."""
    yield start
    step = 0
    while True:
        step += 1
        yield start + step
        if start >= step:
            yield start - step


def _columns(graph: ArchGraph, rank: np.ndarray, lanes: list[int]) -> int:
    """How many columns: enough that each has about ROWS rows, but no more than fit in WIDTH."""
    width = LANE * (max(lanes) + 1) + TRACK * max(_crossings(graph, rank)) + 2 * MARGIN
    return max(1, min(-(-(int(rank.max()) + 1) // ROWS), WIDTH // width))


def _crossings(graph: ArchGraph, rank: np.ndarray) -> list[int]:
    """For each row, how many nodes above it have an edge that goes past the row above it."""
    count = np.zeros(int(rank.max()) + 2, dtype=int)
    for u, targets in enumerate(graph.successors):
        last = max((rank[v] for v in targets), default=rank[u])
        if last > rank[u] + 1:
            count[rank[u] + 1] += 1
            count[last] -= 1
    return np.cumsum(count)[:-1].tolist()


def _breaks(graph: ArchGraph, rank: np.ndarray, columns: int) -> list[int]:
    """The first row of each column: where the fewest edges are cut, about an even share of the rows from the last."""
    total, crossings = int(rank.max()) + 1, _crossings(graph, rank)
    breaks = [0]
    for left in range(columns, 1, -1):
        share = (total - breaks[-1]) / left
        window = range(breaks[-1] + max(1, round(0.85 * share)), breaks[-1] + max(1, round(1.15 * share)) + 1)
        breaks.append(min((r for r in window if r < total), key=lambda r: (crossings[r], -r)))
    return breaks


def _drawn(graph: ArchGraph, places: list[_Place], columns: int) -> Layout:
    """Coordinates, once the tracks are allotted. The gutter of a column is to its right."""
    far = [(u, v) for u, v in graph.edges.tolist() if not _adjacent(places[u], places[v])]
    tracks = _Tracks()
    for u, v in far:
        _reserve(tracks, u, places[u], places[v])
    tracks.allot()
    lanes = [max(p.lane for p in places if p.column == c) + 1 for c in range(columns)]
    left = [float(MARGIN)]
    for c in range(columns):
        left.append(left[-1] + LANE * lanes[c] + TRACK * tracks.used(c) + 2 * MARGIN)
    top = 2 * MARGIN + TRACK * tracks.used(CORRIDOR)
    nodes = tuple((left[p.column] + LANE * p.lane + BOX[0] / 2, top + ROW * p.row + BOX[1] / 2) for p in places)

    def track_x(gutter: int, u: int) -> float:
        return left[gutter] + LANE * lanes[gutter] + MARGIN / 2 + TRACK * tracks.of(gutter, u)

    def path(u: int, v: int) -> Path:
        start, end = (nodes[u][0], nodes[u][1] + BOX[1] / 2), (nodes[v][0], nodes[v][1] - BOX[1] / 2)
        if _adjacent(places[u], places[v]):
            return start, end
        x, low, high = track_x(places[u].column, u), start[1] + LEAVE, end[1] - ENTER
        bends = [(start[0], low), (x, low)]
        if places[v].column > places[u].column + 1:
            over, x = MARGIN + TRACK * tracks.of(CORRIDOR, u), track_x(places[v].column - 1, u)
            bends += [(bends[-1][0], over), (x, over)]
        return start, *bends, (x, high), (end[0], high), end

    paths = tuple(path(u, v) for u, v in graph.edges.tolist())
    return Layout(nodes, paths, (left[-1] + MARGIN, top + ROW * (max(p.row for p in places) + 1) + MARGIN))


def _adjacent(a: _Place, b: _Place) -> bool:
    """Whether b is in the row right below a, so that an edge meets nothing on its way."""
    return a.column == b.column and b.row == a.row + 1


def _reserve(tracks: "_Tracks", source: int, a: _Place, b: _Place) -> None:
    """Room for an edge from a to b: beside a's column, and if b is further than the next, above and beside b's.

    Heights are in rows; halves are the spaces between rows, -1 is the corridor.
    """
    leave, enter = a.row + 0.5, b.row - 0.5
    if b.column <= a.column + 1:
        tracks.reserve(a.column, source, leave, enter)
    else:
        tracks.reserve(a.column, source, leave, -1)
        tracks.reserve(CORRIDOR, source, a.column, b.column - 0.5)
        tracks.reserve(b.column - 1, source, -1, enter)


class _Tracks:
    """Parallel tracks in gutters. A node has one track in a gutter for all its edges, and shares no stretch of it."""

    def __init__(self) -> None:
        self._stretch: dict[tuple[int, int], tuple[float, float]] = {}
        self._track: dict[tuple[int, int], int] = {}

    def reserve(self, gutter: int, source: int, start: float, end: float) -> None:
        low, high = self._stretch.get((gutter, source), (start, start))
        self._stretch[gutter, source] = min(low, start, end), max(high, start, end)

    def allot(self) -> None:
        """Gives each stretch the innermost free track, the shortest first, so that short edges stay near."""
        taken: dict[tuple[int, int], list[tuple[float, float]]] = {}
        for (gutter, source), (low, high) in sorted(self._stretch.items(), key=lambda x: x[1][1] - x[1][0]):
            track = 0
            while any(low <= b and a <= high for a, b in taken.get((gutter, track), ())):
                track += 1
            taken.setdefault((gutter, track), []).append((low, high))
            self._track[gutter, source] = track

    def of(self, gutter: int, source: int) -> int:
        return self._track[gutter, source]

    def used(self, gutter: int) -> int:
        return 1 + max((t for (g, _), t in self._track.items() if g == gutter), default=-1)
