"""Whether two corpora are draws of one distribution: two-sample tests and effect sizes, with numpy alone."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deepnets_gen.published import Published
from deepnets_gen.stats import Counts, Table, readable

PERMUTATIONS = 999


@dataclass(frozen=True)
class NumberTest:
    """A quantity in two samples. networks, mean, sd: of each. d: Cohen's, (first - second) / pooled sd.

    ks: Kolmogorov-Smirnov's statistic, the greatest distance of the distribution functions. p: its significance by
    Kolmogorov's law, which for whole numbers is too large rather than too small.
    """

    networks: tuple[int, int]
    mean: tuple[float, float]
    sd: tuple[float, float]
    d: float
    ks: float
    p: float


@dataclass(frozen=True)
class CountTest:
    """Kinds in two samples. networks: in each. v: Cramér's V of the table of counts. p: by permutation of networks.

    The edges of one network are no independent draws, so chi-square's own law does not hold; whole networks are.
    most: the kind whose share differs most, with its share in each.
    """

    networks: tuple[int, int]
    v: float
    p: float
    most: tuple[str, float, float]


@dataclass(frozen=True)
class Against:
    """A sample's nodes and paths beside the published ones. z: difference of means in standard errors of both."""

    networks: tuple[int, int]
    nodes: tuple[float, float]
    nodes_sd: tuple[float, float]
    nodes_error: tuple[float, float]
    z: float
    path: tuple[float, float]
    path_error: float

    def __str__(self) -> str:
        here, there = (f"{mean:.1f} ± {sd:.1f}" for mean, sd in zip(self.nodes, self.nodes_sd, strict=True))
        return (
            f"against the published table ({self.networks[1]:,} networks): nodes {here} here, {there} there, "
            f"means {self.z:+.1f} standard errors apart; average path {self.path[0]:.2f} here, {self.path[1]:.1f} there"
        )


@dataclass(frozen=True)
class Comparison:
    """All quantities that two samples share."""

    numbers: Mapping[str, NumberTest]
    counts: Mapping[str, CountTest]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{'':20}{'networks':>15}{'mean':>20}{'sd':>20}{'d':>8}{'KS':>7}{'p':>8}"]
        for name, t in self.numbers.items():
            cells = (f"{readable(a)} / {readable(b)}" for a, b in (t.networks, t.mean, t.sd))
            sizes, means, spreads = cells
            lines.append(f"{name:20}{sizes:>15}{means:>20}{spreads:>20}{t.d:8.3f}{t.ks:7.3f}{t.p:8.3f}")
        lines += ["", f"{'':20}{'networks':>15}  {'differs most':40}{'V':>8}{'':7}{'p':>8}"]
        for name, c in self.counts.items():
            sizes, (kind, a, b) = f"{readable(c.networks[0])} / {readable(c.networks[1])}", c.most
            lines.append(f"{name:20}{sizes:>15}  {f'{kind} {a:.1%} / {b:.1%}':40}{c.v:8.3f}{'':7}{c.p:8.3f}")
        return "\n".join(lines)


def compare(ours: Table, theirs: Table, rng: np.random.Generator, permutations: int = PERMUTATIONS) -> Comparison:
    """Every quantity that both have, the first sample named first throughout. rng: of the permutations."""
    numbers = {
        name: compare_numbers(a, theirs.numbers[name]) for name, a in ours.numbers.items() if name in theirs.numbers
    }
    sides = ({**ours.counts, **_as_counts(ours)}, {**theirs.counts, **_as_counts(theirs)})
    counts = {
        name: compare_counts(a, sides[1][name], rng, permutations) for name, a in sides[0].items() if name in sides[1]
    }
    return Comparison(numbers, counts)


def compare_numbers(a: np.ndarray, b: np.ndarray) -> NumberTest:
    """Two samples of a quantity."""
    sd = (_sd(a), _sd(b))
    freedom = len(a) + len(b) - 2
    pooled = math.sqrt(((len(a) - 1) * sd[0] ** 2 + (len(b) - 1) * sd[1] ** 2) / freedom) if freedom > 0 else 0.0
    d = float(a.mean() - b.mean()) / pooled if pooled else 0.0
    ks = _distance(a, b)
    return NumberTest((len(a), len(b)), (float(a.mean()), float(b.mean())), sd, d, ks, _kolmogorov(ks, len(a), len(b)))


def compare_counts(a: Counts, b: Counts, rng: np.random.Generator, permutations: int = PERMUTATIONS) -> CountTest:
    """Two samples of networks with counts of kinds."""
    rows = np.concatenate([a.rows, b.rows]).astype(float)
    total, smaller = rows.sum(axis=0), min(len(a.rows), len(b.rows))
    found = _chi2(a.rows.sum(axis=0), total)
    drawn = (rng.permutation(len(rows))[:smaller] for _ in range(permutations))
    as_far = sum(_chi2(rows[group].sum(axis=0), total) >= found * (1 - 1e-12) for group in drawn)
    share_a, share_b = a.share, b.share
    kind = max(a.labels, key=lambda label: round(abs(share_a[label] - share_b[label]), 12))
    return CountTest(
        (len(a.rows), len(b.rows)),
        math.sqrt(found / max(total.sum(), 1)),
        (1 + as_far) / (1 + permutations),
        (kind, share_a[kind], share_b[kind]),
    )


def against(ours: Table, published: Published) -> Against:
    """A sample beside the published table."""
    nodes, path = ours.numbers["nodes"], ours.numbers["path"]
    sd = _sd(nodes)
    errors = (sd / math.sqrt(len(nodes)), published.sd / math.sqrt(published.networks))
    return Against(
        (len(nodes), published.networks),
        (float(nodes.mean()), published.mean),
        (sd, published.sd),
        errors,
        (float(nodes.mean()) - published.mean) / math.hypot(*errors),
        (float(path.mean()), published.path),
        _sd(path) / math.sqrt(len(path)),
    )


def _as_counts(table: Table) -> dict[str, Counts]:
    """Traits as counts of networks with and without."""
    return {
        name: Counts(("with", "without"), np.stack([has, ~has], axis=1).astype(int))
        for name, has in table.traits.items()
    }


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    points = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(x), points, side="right") / len(x) for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def _kolmogorov(distance: float, n: int, m: int) -> float:
    """The chance of a greater distance between two samples of one distribution, for samples of dozens or more."""
    x = distance * math.sqrt(n * m / (n + m))
    if x < 0.2:  # the series below converges too slowly here; the chance differs from 1 by less than 1e-12
        return 1.0
    tail = 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101))
    return min(max(tail, 0.0), 1.0)


def _chi2(first: np.ndarray, total: np.ndarray) -> float:
    """Chi-square of a table of counts with two rows: `first`, and what it lacks to the total."""
    counts = np.stack([first, total - first])
    expected = counts.sum(axis=1, keepdims=True) * total / max(total.sum(), 1)
    return float(((counts - expected) ** 2 / np.where(expected > 0, expected, 1)).sum())
