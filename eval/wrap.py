"""Evaluators made of evaluators: each is one itself, so that any strategy works with any of them.

Every result carries what was really spent, which is what budgets count.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from statistics import fmean, median

import numpy as np

from eval.evaluator import Arch, Cost, Evaluator, Networks, Result, fingerprint
from ghn.errors import GHNError

AGGREGATES = {"mean": fmean, "median": median, "min": min}


class _Wrapper(Evaluator):
    """Of other evaluators. Passes on what they have seen and were told; a subclass gives `evaluate`."""

    def __init__(self, name: str, inner: Sequence[Evaluator], **settings: object) -> None:
        self.metrics = inner[0].metrics
        self.sees = frozenset().union(*(e.sees for e in inner))
        self.told = frozenset().union(*(e.told for e in inner))
        self.price = max(e.price for e in inner)
        self.fingerprint = fingerprint(name, of=[e.fingerprint for e in inner], **settings)

    def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
        result = self.evaluate([arch], seed)[0]
        if result.error is not None:
            raise GHNError(result.error)
        return dict(result.metrics), result.cost.images

    def _of(self, result: Result) -> Result:
        return replace(result, evaluator=self.fingerprint)


class Joined(_Wrapper):
    """The metrics of several evaluators together, such as an accuracy and a latency. Fails where one of them does.

    An architecture counts as evaluated as often as by the one that counts most: once, where all look at it once.
    """

    def __init__(self, inner: Sequence[Evaluator]) -> None:
        super().__init__("joined", inner)
        self.inner = tuple(inner)
        self.metrics = tuple(name for e in inner for name in e.metrics)
        if len(set(self.metrics)) < len(self.metrics):
            raise GHNError(f"two evaluators give the same metric: {', '.join(sorted(self.metrics))}; leave one out")

    def evaluate(self, archs: Sequence[Arch], seed: int = 0) -> list[Result]:
        columns = [e.evaluate(archs, seed) for e in self.inner]
        return [self._of(_merged(row)) for row in zip(*columns, strict=True)]


class Only(_Wrapper):
    """One metric of an evaluator that has several."""

    def __init__(self, inner: Evaluator, metric: str) -> None:
        super().__init__("only", [inner], metric=metric)
        if metric not in inner.metrics:
            raise GHNError(f"the evaluator gives {', '.join(inner.metrics)}, not {metric!r}")
        self.inner, self.metrics = inner, (metric,)

    def evaluate(self, archs: Sequence[Arch], seed: int = 0) -> list[Result]:
        return [self._of(self._reduced(result)) for result in self.inner.evaluate(archs, seed)]

    def _reduced(self, result: Result) -> Result:
        return replace(result, metrics={name: result.metrics[name] for name in self.metrics if result.error is None})


class Ensemble(_Wrapper):
    """Means of what several evaluators with the same metrics find, such as GHNs of several seeds."""

    def __init__(self, inner: Sequence[Evaluator]) -> None:
        super().__init__("ensemble", inner)
        self.inner = tuple(inner)
        if any(e.metrics != self.metrics for e in inner):
            raise GHNError("the members of an ensemble must give the same metrics; join them, or calibrate each first")
        self.price = sum(e.price for e in inner)

    def evaluate(self, archs: Sequence[Arch], seed: int = 0) -> list[Result]:
        columns = [e.evaluate(archs, seed) for e in self.inner]
        return [self._of(_aggregated(row[0].arch, row, fmean)) for row in zip(*columns, strict=True)]


class Blended(_Wrapper):
    """blend: the mean over evaluators of where an architecture stands among a sample, from 0 to 1: what scores of
    different kinds agree on, without a label. Of an evaluator with several metrics, the mean of these.

    sample: any architectures, better random; scored once, at the start, which is not charged. lower: metrics of which
    less is better. Fails where one of the evaluators does.
    """

    metrics = ("blend",)

    def __init__(
        self, inner: Sequence[Evaluator], sample: Sequence[Arch], lower: Sequence[str] = ("loss",), seed: int = 0
    ) -> None:
        keys = sorted(arch.key for arch in sample)
        super().__init__("blended", inner, sample=keys, lower=sorted(lower), seed=seed)
        self.metrics, self.inner, self.lower = type(self).metrics, tuple(inner), frozenset(lower)
        self._standing = [self._standings(e, sample, seed) for e in inner]

    def evaluate(self, archs: Sequence[Arch], seed: int = 0) -> list[Result]:
        columns = [e.evaluate(archs, seed) for e in self.inner]
        return [self._of(self._blended(row)) for row in zip(*columns, strict=True)]

    def _standings(self, evaluator: Evaluator, sample: Sequence[Arch], seed: int) -> dict[str, "Standing"]:
        rows = [r.metrics for r in evaluator.evaluate(sample, seed) if r.error is None]
        if len(rows) < 2:
            raise GHNError(f"{', '.join(evaluator.metrics)}: hardly any of {len(sample)} architectures has a score")
        return {name: Standing([self._sign(name) * row[name] for row in rows]) for name in evaluator.metrics}

    def _blended(self, row: Sequence[Result]) -> Result:
        merged = _merged(row)
        if merged.error is not None:
            return merged
        places = [
            fmean(standing.of(self._sign(name) * merged.metrics[name]) for name, standing in group.items())
            for group in self._standing
        ]
        return replace(merged, metrics={"blend": fmean(places)})

    def _sign(self, metric: str) -> int:
        return -1 if metric in self.lower else 1


class Standing:
    """Where a value stands among others: their mid-ranks, straight between them; beyond, nearer and nearer 0 or 1, so
    that no two values stand alike."""

    def __init__(self, values: Sequence[float]) -> None:
        row = np.asarray(values, dtype=float)
        self._values, counts = np.unique(row, return_counts=True)
        self._places = (np.cumsum(counts) - counts / 2) / len(row)
        self._width = float(row.std()) or 1.0

    def of(self, value: float) -> float:
        least, most = self._values[0], self._values[-1]
        if value > most:
            return float(1 - (1 - self._places[-1]) / (1 + (value - most) / self._width))
        if value < least:
            return float(self._places[0] / (1 + (least - value) / self._width))
        return float(np.interp(value, self._values, self._places))


class Neighborhood(_Wrapper):
    """The aggregate over an architecture and `count` random neighbours of it (None: all): flatness in the space.

    Which ones depends on the architecture and the seed. Neighbours that fail are left out, the architecture's own
    failure stands. Source: Wang et al., Neighborhood-Aware Neural Architecture Search, BMVC 2021: max over a of g over
    the neighbours of a, with distance 1 and g the mean.
    """

    def __init__(self, inner: Evaluator, space: Networks, count: int | None = 6, aggregate: str = "mean") -> None:
        super().__init__("neighborhood", [inner], count=count, aggregate=aggregate)
        self.inner, self.space, self.count, self.aggregate = inner, space, count, aggregate
        if aggregate not in AGGREGATES or (count is not None and count < 1):
            raise GHNError(f"a neighbourhood needs one neighbour or more and one of {', '.join(AGGREGATES)}")
        self.price = inner.price * (1 + (space.degree if count is None else count))

    def evaluate(self, archs: Sequence[Arch], seed: int = 0) -> list[Result]:
        groups = [[arch, *self._chosen(arch, seed)] for arch in archs]
        flat = iter(self.inner.evaluate([a for group in groups for a in group], seed))
        found = []
        for group in groups:
            rows = [next(flat) for _ in group]
            kept = [rows[0], *(r for r in rows[1:] if r.error is None)] if rows[0].error is None else rows[:1]
            cost = sum((r.cost for r in rows), Cost())
            found.append(self._of(replace(_aggregated(group[0], kept, AGGREGATES[self.aggregate]), cost=cost)))
        return found

    def _chosen(self, arch: Arch, seed: int) -> list[Arch]:
        ways = self.space.neighbors(arch)
        if self.count is None or self.count >= len(ways):
            return ways
        return Random(f"neighborhood {seed} {arch.genes}").sample(ways, self.count)


class Partitioned(_Wrapper):
    """Each architecture by the evaluator of its region. region: of an architecture, a key of `inner`.

    Source: Zhao et al., Few-shot Neural Architecture Search, ICML 2021, where each region has its own supernet. Scores
    of different regions may have different levels: calibrate each evaluator on its region.
    """

    def __init__(self, inner: Mapping[str, Evaluator], region: Callable[[Arch], str]) -> None:
        super().__init__("partitioned", list(inner.values()), regions=list(inner))
        self.inner, self.region = dict(inner), region

    def evaluate(self, archs: Sequence[Arch], seed: int = 0) -> list[Result]:
        regions = [self.region(arch) for arch in archs]
        unknown = sorted({r for r in regions if r not in self.inner})
        if unknown:
            raise GHNError(f"no evaluator for the region {unknown[0]!r}; there are {', '.join(self.inner)}")
        found: dict[str, list[Result]] = {}
        for name in dict.fromkeys(regions):
            members = [arch for arch, r in zip(archs, regions, strict=True) if r == name]
            found[name] = self.inner[name].evaluate(members, seed)[::-1]
        return [self._of(found[r].pop()) for r in regions]


class Calibrated(_Wrapper):
    """One metric brought to the scale of labels by the best increasing step function, straight between its steps.

    Ranks stay as they are, but for ties; rewards and ensembles need the scale. labels: (score, truth) of architectures
    that were trained; report on others. Source: isotonic regression by pooling adjacent violators (Barlow et al. 1972).
    """

    def __init__(self, inner: Evaluator, metric: str, labels: Sequence[tuple[float, float]], sees: str) -> None:
        rows = sorted(labels)
        super().__init__("calibrated", [inner], metric=metric, labels=rows)
        if metric not in inner.metrics or not rows:
            raise GHNError(f"calibrating needs labels and a metric of {', '.join(inner.metrics)}, not {metric!r}")
        self.inner, self.metric, self.labels = inner, metric, len(rows)
        self.sees = inner.sees | {sees}
        self._x = [x for x, _ in rows]
        self._y = isotonic([y for _, y in rows])

    def evaluate(self, archs: Sequence[Arch], seed: int = 0) -> list[Result]:
        return [self._of(self._calibrated(result)) for result in self.inner.evaluate(archs, seed)]

    def _calibrated(self, result: Result) -> Result:
        if result.error is not None:
            return result
        value = float(np.interp(result.metrics[self.metric], self._x, self._y))
        return replace(result, metrics={**result.metrics, self.metric: value})


class Cascade(_Wrapper):
    """A cheap evaluator first; a dear one only for what reaches `threshold` by the cheap one's metric.

    What does not reach it fails with that reason. The metrics are those of the dear one.
    """

    def __init__(self, first: Evaluator, then: Evaluator, metric: str, threshold: float) -> None:
        super().__init__("cascade", [first, then], metric=metric, threshold=threshold)
        if metric not in first.metrics:
            raise GHNError(f"the first evaluator gives {', '.join(first.metrics)}, not {metric!r}")
        self.first, self.then, self.metric, self.threshold = first, then, metric, threshold
        self.metrics, self.price = then.metrics, first.price + then.price

    @classmethod
    def above_quantile(
        cls, first: Evaluator, then: Evaluator, metric: str, sample: Sequence[Arch], quantile: float, seed: int = 0
    ) -> "Cascade":
        """The threshold is the quantile of the first one's scores over these architectures; failures count as least."""
        scores = sorted(r.metrics.get(metric, float("-inf")) for r in first.evaluate(sample, seed))
        return cls(first, then, metric, scores[min(len(scores) - 1, int(quantile * len(scores)))])

    def evaluate(self, archs: Sequence[Arch], seed: int = 0) -> list[Result]:
        firsts = self.first.evaluate(archs, seed)
        through = [r.error is None and r.metrics[self.metric] >= self.threshold for r in firsts]
        thens = iter(self.then.evaluate([a for a, ok in zip(archs, through, strict=True) if ok], seed))
        return [self._of(self._joined(r, next(thens) if ok else None)) for r, ok in zip(firsts, through, strict=True)]

    def _joined(self, first: Result, then: Result | None) -> Result:
        if then is not None:
            return replace(then, cost=first.cost + then.cost)
        if first.error is not None:
            return first
        reason = f"{self.metric} {first.metrics[self.metric]:.4g} is below {self.threshold:.4g}"
        return replace(first, metrics={}, error=reason)


def isotonic(values: Sequence[float]) -> list[float]:
    """The increasing sequence nearest to the values in squared distance."""
    blocks: list[tuple[float, int]] = []  # mean, size
    for value in values:
        mean, size = float(value), 1
        while blocks and blocks[-1][0] >= mean:
            before, count = blocks.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    return [mean for mean, size in blocks for _ in range(size)]


def _merged(rows: Sequence[Result]) -> Result:
    cost = sum((r.cost for r in rows), Cost())
    error = next((r.error for r in rows if r.error is not None), None)
    metrics = {name: value for r in rows for name, value in r.metrics.items()} if error is None else {}
    cost = replace(cost, evaluations=max(r.cost.evaluations for r in rows))
    return replace(rows[0], metrics=metrics, cost=cost, error=error)


def _aggregated(arch: Arch, rows: Sequence[Result], how: Callable[[list[float]], float]) -> Result:
    """One result of several of the same metrics; the first error, where there is one."""
    cost = sum((r.cost for r in rows), Cost())
    error = next((r.error for r in rows if r.error is not None), None)
    metrics = {} if error else {name: float(how([r.metrics[name] for r in rows])) for name in rows[0].metrics}
    return replace(rows[0], arch=arch, metrics=metrics, cost=cost, error=error)
