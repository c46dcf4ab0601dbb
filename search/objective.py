"""Objective: metrics -> what a search maximises, one value or several, within limits."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

from eval.evaluator import Result
from search.errors import SearchError

Metrics = Mapping[str, float]


class Term(Protocol):
    """One value to maximise. needs: metrics that it is made from."""

    @property
    def needs(self) -> tuple[str, ...]: ...

    def __call__(self, metrics: Metrics) -> float: ...


@dataclass(frozen=True)
class Maximise:
    """The metric itself."""

    metric: str

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.metric,)

    def __call__(self, metrics: Metrics) -> float:
        return metrics[self.metric]


@dataclass(frozen=True)
class Minimise:
    """The metric with its sign changed."""

    metric: str

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.metric,)

    def __call__(self, metrics: Metrics) -> float:
        return -metrics[self.metric]


@dataclass(frozen=True)
class Reward:
    """ACC x (LAT / target)^w, w = alpha up to the target and beta beyond. Source: Tan et al., CVPR 2019, equations 2-3.

    `soft` has alpha = beta = -0.07 (twice the latency counts as 5% of accuracy), `hard` alpha = 0 and beta = -1.
    Accuracy must be on a ratio scale: calibrate a score that only ranks.
    """

    metric: str
    latency: str
    target: float
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        if not self.target > 0:
            raise SearchError(f"the target of {self.latency} is {self.target}; it must be above 0")

    @classmethod
    def soft(cls, metric: str, latency: str, target: float) -> "Reward":
        return cls(metric, latency, target, -0.07, -0.07)

    @classmethod
    def hard(cls, metric: str, latency: str, target: float) -> "Reward":
        return cls(metric, latency, target, 0.0, -1.0)

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.metric, self.latency)

    def __call__(self, metrics: Metrics) -> float:
        ratio = metrics[self.latency] / self.target
        return metrics[self.metric] * ratio ** (self.alpha if ratio <= 1 else self.beta)


@dataclass(frozen=True)
class Limit:
    """A metric that must stay at or below `most`."""

    metric: str
    most: float


@dataclass(frozen=True)
class Objective:
    """What to maximise: one term, or several for a Pareto front; architectures beyond a limit count as worst of all."""

    terms: tuple[Term, ...]
    limits: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        if not self.terms:
            raise SearchError("an objective needs something to maximise or minimise")

    @property
    def needs(self) -> frozenset[str]:
        """Metrics that it reads."""
        return frozenset(name for term in self.terms for name in term.needs) | {limit.metric for limit in self.limits}

    def values(self, result: Result) -> tuple[float, ...] | None:
        """What each term gives; None for a failed evaluation and beyond a limit."""
        if result.error is not None or any(result.metrics[limit.metric] > limit.most for limit in self.limits):
            return None
        return tuple(term(result.metrics) for term in self.terms)

    def check(self, metrics: tuple[str, ...]) -> None:
        """Raises SearchError where it reads something that is none of these metrics."""
        missing = sorted(self.needs - set(metrics))
        if missing:
            raise SearchError(f"the objective reads {', '.join(missing)}; the evaluator gives {', '.join(metrics)}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for the record of a run."""
        return {
            "terms": [{"kind": type(t).__name__, **_fields(t)} for t in self.terms],
            "limits": [_fields(limit) for limit in self.limits],
        }


def maximise(metric: str) -> Objective:
    """The objective that is one metric."""
    return Objective((Maximise(metric),))


def _fields(value: Any) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value)}
