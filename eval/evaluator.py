"""What is scored and what a score is: Arch -> Evaluator -> Result. No torch here: strategies of search read it too."""

import hashlib
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ghn.errors import GHNError

if TYPE_CHECKING:
    from torch import nn

    from ghn.graph import ArchGraph

TEST = "test"  # the part of data that no score used for search may have seen


@dataclass(frozen=True)
class Arch:
    """One architecture of a space, as the number of the choice that each of the space's variables takes.

    key: equal for architectures that are the same network, as far as the space can tell; made by `SearchSpace.arch`.
    """

    space: str
    genes: tuple[int, ...]
    key: str = field(compare=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `SearchSpace.read` gives the architecture back."""
        return {"space": self.space, "genes": list(self.genes)}


@dataclass(frozen=True)
class Cost:
    """What was spent. evaluations: of single architectures. images: seen by networks. seconds: wall time, which plays
    no part in comparisons."""

    evaluations: int = 0
    images: int = 0
    seconds: float = field(default=0.0, compare=False)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.evaluations + other.evaluations, self.images + other.images, self.seconds + other.seconds)


@dataclass(frozen=True)
class Result:
    """What an evaluator found of an architecture. metrics: by name; empty where it failed, and error says why.

    evaluator: its fingerprint. seed: that it was called with.
    """

    arch: Arch
    metrics: Mapping[str, float]
    cost: Cost
    evaluator: str
    seed: int = 0
    error: str | None = None


class Networks(Protocol):
    """What evaluators ask of a search space."""

    @property
    def name(self) -> str: ...

    @property
    def networks(self) -> str: ...

    @property
    def degree(self) -> int: ...

    def build(self, arch: Arch, num_classes: int = 10, image_size: int = 32) -> "nn.Module": ...

    def graph(self, arch: Arch, num_classes: int = 10, image_size: int = 32) -> "ArchGraph": ...

    def neighbors(self, arch: Arch) -> list[Arch]: ...


class Evaluator(ABC):
    """Scores architectures; a function of the architecture and the seed alone, whatever else is in the list.

    metrics: names of what it finds. fingerprint: changes with whatever changes a score. sees: parts of data that had a
    say in its scores ('train', 'val', 'test'). price: most evaluations that one architecture costs. told: keys of
    architectures whose truth it was fitted to; a certificate is of others. A subclass gives `measure`, or `evaluate`
    where many at a time are cheaper.
    """

    metrics: tuple[str, ...] = ()
    fingerprint: str = ""
    sees: frozenset[str] = frozenset()
    price: int = 1
    told: frozenset[str] = frozenset()

    def evaluate(self, archs: Sequence[Arch], seed: int = 0) -> list[Result]:
        """A result for each, in order. What is wrong with one is that result's error, never an exception."""
        return [self._timed(arch, seed) for arch in archs]

    @abstractmethod
    def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
        """The metrics, and how many images networks saw for them. GHNError where there is none."""

    def _timed(self, arch: Arch, seed: int) -> Result:
        began = time.perf_counter()
        metrics, images, error = {}, 0, None
        try:
            metrics, images = self.measure(arch, seed)
        except (GHNError, ArithmeticError, RuntimeError, ValueError) as reason:  # the last two: what torch raises
            error = " ".join(str(reason).split())[:300] or type(reason).__name__
        cost = Cost(1, images, time.perf_counter() - began)
        return checked(Result(arch, metrics, cost, self.fingerprint, seed, error))


def checked(result: Result) -> Result:
    """The result; where a metric is no finite number, one with an error in place of its metrics."""
    odd = [f"{name} is {value}" for name, value in result.metrics.items() if not math.isfinite(value)]
    if not odd:
        return result
    return Result(result.arch, {}, result.cost, result.evaluator, result.seed, ", ".join(odd))


def fingerprint(name: str, **settings: Any) -> str:
    """'name-' and 12 hexadecimal digits of the settings, which must be ready for JSON."""
    return f"{name}-{digest([json.dumps(settings, sort_keys=True)])}"


def digest(parts: Iterable[str]) -> str:
    """12 hexadecimal digits of the texts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
