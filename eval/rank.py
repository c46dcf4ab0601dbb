"""How well one ranking agrees with another: Kendall's tau, precision and regret at the top. Larger is better."""

import numpy as np


def kendall(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's tau-b of (n,) values, in n log n; nan where one of them is constant or there are fewer than two.

    Source: Knight, JASA 1966, with ties as in Kendall 1945.
    """
    x, y = _places(x), _places(y)
    n = len(x)
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    ties_x, ties_y, both = _pairs(x), _pairs(y), _pairs(x * (n + 1) + y)
    total = n * (n - 1) // 2
    spread = float(total - ties_x) * float(total - ties_y)
    if spread <= 0:
        return float("nan")
    concordant_less_discordant = total - ties_x - ties_y + both - 2 * _inversions(y)
    return concordant_less_discordant / spread**0.5


def percentiles(values: np.ndarray) -> np.ndarray:
    """(n,) mid-ranks in (0, 1); equals share their middle."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - counts / 2)[place] / len(values)


def top(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` largest; of equals the first."""
    return np.argsort(-values, kind="stable")[:count]


def precision(scores: np.ndarray, truth: np.ndarray, count: int) -> float:
    """Share of the truly best `count` among the `count` that score best."""
    return len(np.intersect1d(top(scores, count), top(truth, count))) / count


def regret(scores: np.ndarray, truth: np.ndarray, count: int) -> float:
    """What is lost by training only the `count` that score best: best of all minus best of those."""
    return float(truth.max() - truth[top(scores, count)].max())


def _places(values: np.ndarray) -> np.ndarray:
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _pairs(values: np.ndarray) -> int:
    """Pairs of equals."""
    counts = np.unique(values, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())


def _inversions(values: np.ndarray) -> int:
    """Pairs in the wrong order: bit by bit, from the highest, those that differ first in this bit, the one before."""
    found, bit = 0, 1 << (int(values.max(initial=0)).bit_length())
    while bit := bit >> 1:
        order = np.argsort(values // (2 * bit), kind="stable")  # groups that agree in the higher bits, in their order
        group, ones = values[order] // (2 * bit), (values[order] // bit) % 2
        before = np.cumsum(ones) - ones
        starts = np.searchsorted(group, group)  # of each one's group
        found += int((before - before[starts])[ones == 0].sum())
    return found
