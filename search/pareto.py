"""Dominance, fronts, crowding and hypervolume of points that are to be maximised."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

Point = Sequence[float]


def dominates(one: Point, other: Point) -> bool:
    """Whether `one` is nowhere worse and somewhere better."""
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def front(points: Sequence[Point]) -> list[int]:
    """Places of the points that no other dominates, in order; of equal points all."""
    x = np.asarray(points, dtype=float)
    best: list[int] = []
    falling = np.lexsort(x.T[::-1])[::-1].tolist() if len(x) else []  # none dominates one that comes before it
    for i in falling:
        ahead = x[best]
        if not ((ahead >= x[i]).all(1) & (ahead > x[i]).any(1)).any():
            best.append(i)
    return sorted(best)


def ranks(points: Sequence[Point]) -> list[int]:
    """The number of the front each point is in, from 0, by non-dominated sorting. Source: Deb et al. 2002, III-A."""
    if not points:
        return []
    x = np.asarray(points, dtype=float)
    better = (x[:, None] >= x[None]).all(2) & (x[:, None] > x[None]).any(2)  # [i, j]: i dominates j
    found, left, number = np.zeros(len(x), dtype=int), np.ones(len(x), dtype=bool), 0
    while left.any():
        first = left & ~(better & left[:, None]).any(0)
        found[first] = number
        left &= ~first
        number += 1
    return found.tolist()


def crowding(points: Sequence[Point]) -> list[float]:
    """For points of one front the distance between each one's neighbours, summed over the axes, each scaled to 1.

    Infinite at the ends of an axis. Source: Deb et al. 2002, section III-B.
    """
    x = np.asarray(points, dtype=float)
    total = np.zeros(len(x))
    for column in x.T if len(x) else ():
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        gaps = np.zeros(len(x))
        gaps[[0, -1]] = np.inf
        if span > 0:
            gaps[1:-1] = (column[order[2:]] - column[order[:-2]]) / span
        total[order] += gaps
    return total.tolist()


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The measure of what the points dominate above the reference, in two or three dimensions.

    Points not above it add nothing. Raises ValueError for other dimensions.
    """
    floor = np.asarray(reference, dtype=float)
    x = np.asarray([p for p in points if all(a > b for a, b in zip(p, reference, strict=True))], dtype=float)
    if len(floor) not in (2, 3):
        raise ValueError(f"hypervolume is for 2 or 3 objectives, not {len(floor)}")
    if not len(x):
        return 0.0
    x = x - floor
    return _area(x) if len(floor) == 2 else _volume(x)


def _area(x: np.ndarray) -> float:
    total, height = 0.0, 0.0
    for width, y in sorted(x.tolist(), reverse=True):  # from the widest: each adds what rises above those before
        total += width * max(0.0, y - height)
        height = max(height, y)
    return total


def _volume(x: np.ndarray) -> float:
    """Slices between the levels of the last axis."""
    levels = np.unique(x[:, 2])
    edges = np.concatenate([[0.0], levels])
    return float(sum((b - a) * _area(x[x[:, 2] >= b][:, :2]) for a, b in pairwise(edges)))
