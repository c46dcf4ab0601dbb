"""A certificate: how far an evaluator's ranking can be trusted, against truth that it has not seen."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, median, stdev
from typing import Any, Self

import numpy as np

from eval.evaluator import Result
from eval.rank import kendall, percentiles, precision, regret
from ghn.errors import GHNError

TOP = 0.1  # share of the truly best that the second tau is over
RESAMPLES = 300
LEAST = 20  # architectures that a certificate needs
COUNTS = (1, 5, 10)  # how many finalists regrets are told for
GROUPS = 5  # most values of a trait that are told one by one


@dataclass(frozen=True)
class Interval:
    """An estimate with the 2.5% and 97.5% points of its bootstrap; nan where it is not defined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Bias:
    """Does the evaluator favour a trait? tau: between the trait and (score's percentile - truth's percentile).

    groups: (least, most, architectures, mean of that difference) by rising trait: above 0 is over-rated.
    """

    tau: Interval
    groups: tuple[tuple[float, float, int, float], ...]


@dataclass(frozen=True)
class Certificate:
    """What an evaluator's scores are worth.

    n: architectures drawn; failed: those without a score, which count as worst. tau: Kendall's tau-b with the truth.
    tau_top: the same within the truly best tenth. precision: share of the truly best tenth in the tenth that scores
    best. regret: finalists -> truth lost by training only them. bias: by trait. variants: tau of other seeds,
    batches ... with the truth, and with the scores themselves. seconds: of an evaluation, median. truth, metric: names
    of what is compared; evaluator: its fingerprint. points: (score, truth) of each, score None where it failed.
    made: the options that the evaluator was made with, for people to read. origin: where the certificate is from.
    """

    evaluator: str
    metric: str
    truth: str
    n: int
    failed: int
    tau: Interval
    tau_top: Interval
    precision: Interval
    regret: Mapping[int, float]
    bias: Mapping[str, Bias]
    variants: Mapping[str, tuple[float, float]]
    seconds: float
    points: Sequence[tuple[float | None, float]] = field(repr=False, default=())
    made: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The certificate that `to_dict` wrote. Raises GHNError where it is none."""
        try:
            return cls(
                evaluator=str(record["evaluator"]),
                metric=str(record["metric"]),
                truth=str(record["truth"]),
                n=int(record["n"]),
                failed=int(record["failed"]),
                tau=_interval(record["tau"]),
                tau_top=_interval(record["tau_top"]),
                precision=_interval(record["precision"]),
                regret={int(count): _number(value) for count, value in record["regret"].items()},
                bias={trait: _bias_of(value) for trait, value in record["bias"].items()},
                variants={label: (_number(a), _number(b)) for label, (a, b) in record["variants"].items()},
                seconds=float(record["seconds"]),
                points=[(score, float(real)) for score, real in record.get("points", ())],
                made=dict(record.get("made", {})),
                origin=str(record.get("origin", "")),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise GHNError(f"this is no certificate ({type(error).__name__}: {error})") from error

    @property
    def doubtful(self) -> bool:
        """Whether the ranking among the best may be no better than chance."""
        return not self.tau_top.low > 0

    @property
    def seed_spread(self) -> tuple[float, float] | None:
        """Mean and deviation of tau over the seeds; None where only one was used."""
        taus = [self.tau.value, *(t for name, (t, _) in self.variants.items() if name.startswith("seed"))]
        return (fmean(taus), stdev(taus)) if len(taus) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, nan as None."""
        return _plain(asdict(self))

    def __str__(self) -> str:
        warning = " (may be zero: do not trust the order among the best)" if self.doubtful else ""
        regrets = ", ".join(f"{value:.2f} of {count}" for count, value in self.regret.items())
        return (
            f"{self.metric} against {self.truth}, {self.n} architectures ({self.failed} failed), "
            f"{1e3 * self.seconds:.3g} ms each\n"
            f"  tau {self.tau}; top tenth {self.tau_top}{warning}\n"
            f"  precision at the top tenth {self.precision}; regret {regrets}"
        )


def certify(
    results: Sequence[Result],
    truth: Sequence[float],
    metric: str,
    name: str,
    *,
    lower_is_better: bool = False,
    traits: Mapping[str, Sequence[float]] | None = None,
    variants: Mapping[str, Sequence[Result]] | None = None,
    made: Mapping[str, Any] | None = None,
    origin: str = "",
    seed: int = 0,
) -> Certificate:
    """The certificate of these scores. truth: of the same architectures, larger is better; name: what it is.

    traits: quantities to look for biases towards. variants: the same architectures scored with another seed (named
    'seed ...'), batch, ... Intervals are percentiles of RESAMPLES bootstrap samples of architectures.
    Raises GHNError where there are fewer than 20 architectures.
    """
    if len(results) < LEAST or len(results) != len(truth):
        raise GHNError(f"a certificate needs {LEAST} architectures with truth or more, not {len(results)}")
    scores, real = _scores(results, metric, lower_is_better), np.asarray(truth, dtype=float)
    rng = np.random.default_rng(seed)
    tenth = max(2, round(TOP * len(real)))
    best = np.argsort(-real, kind="stable")[:tenth]
    compared = {label: _scores(other, metric, lower_is_better) for label, other in (variants or {}).items()}
    errors = percentiles(scores) - percentiles(real)
    return Certificate(
        evaluator=results[0].evaluator,
        metric=metric,
        truth=name,
        n=len(real),
        failed=sum(r.error is not None for r in results),
        tau=bootstrap(kendall, (scores, real), rng),
        tau_top=bootstrap(kendall, (scores[best], real[best]), rng),
        precision=bootstrap(_precision_at_tenth, (scores, real), rng),
        regret={count: regret(scores, real, count) for count in COUNTS},
        bias={trait: _bias(np.asarray(values, dtype=float), errors, rng) for trait, values in (traits or {}).items()},
        variants={label: (kendall(other, real), kendall(other, scores)) for label, other in compared.items()},
        seconds=median(r.cost.seconds for r in results),
        points=[(r.metrics.get(metric), float(t)) for r, t in zip(results, truth, strict=True)],
        made=dict(made or {}),
        origin=origin,
    )


def _scores(results: Sequence[Result], metric: str, lower_is_better: bool) -> np.ndarray:
    """Larger is better; failures below all others."""
    sign = -1 if lower_is_better else 1
    return np.array([sign * r.metrics[metric] if r.error is None else -np.inf for r in results])


def _precision_at_tenth(scores: np.ndarray, truth: np.ndarray) -> float:
    return precision(scores, truth, max(1, round(TOP * len(truth))))


def bootstrap(statistic: Callable[..., float], columns: tuple[np.ndarray, ...], rng: np.random.Generator) -> Interval:
    """The statistic of (n,) columns, and the percentiles of what it is of RESAMPLES draws of rows with repetition."""
    n = len(columns[0])
    draws = [statistic(*(c[index] for c in columns)) for index in rng.integers(0, n, (RESAMPLES, n))]
    known = [d for d in draws if not math.isnan(d)]
    low, high = np.quantile(known, (0.025, 0.975)).tolist() if known else (math.nan, math.nan)
    return Interval(float(statistic(*columns)), low, high)


def _bias(trait: np.ndarray, errors: np.ndarray, rng: np.random.Generator) -> Bias:
    values = np.unique(trait)
    if len(values) <= GROUPS:
        members = [trait == value for value in values]
    else:
        third = np.minimum((percentiles(trait) * 3).astype(int), 2)
        members = [third == i for i in range(3) if (third == i).any()]
    groups = tuple(
        (float(trait[m].min()), float(trait[m].max()), int(m.sum()), float(errors[m].mean())) for m in members
    )
    return Bias(bootstrap(kendall, (trait, errors), rng), groups)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _interval(record: Mapping[str, float | None]) -> Interval:
    return Interval(*(_number(record[name]) for name in ("value", "low", "high")))


def _bias_of(record: Mapping[str, Any]) -> Bias:
    groups = ((float(a), float(b), int(count), float(mean)) for a, b, count, mean in record["groups"])
    return Bias(_interval(record["tau"]), tuple(groups))
