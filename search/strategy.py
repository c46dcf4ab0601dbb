"""Strategy: which architectures to score next, given those scored so far."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar

from eval.evaluator import Arch, Result
from search.errors import SearchError
from search.objective import Objective
from search.space import SearchSpace

Genes = tuple[int, ...]
WORST = float("-inf")


class Strategy(ABC):
    """Asked for architectures and told what they scored, in the order in which it named them.

    `ask` changes nothing: what it names follows from the seed and from what was told, so that a run is repeated by
    telling the same results again. A strategy calls no evaluator, reads no clock, no file and no shared generator.
    """

    single: ClassVar[bool] = True  # whether it maximises one value

    def __init__(self, space: SearchSpace, objective: Objective, seed: int = 0) -> None:
        if self.single and len(objective.terms) > 1:
            raise SearchError(
                f"{type(self).__name__} maximises one value, the objective has {len(objective.terms)}; "
                "give one, a reward, or use nsga2"
            )
        self.space, self.objective, self.seed = space, objective, seed
        self.told = 0

    @abstractmethod
    def ask(self, n: int) -> list[Arch]:
        """Between one and n architectures; the same ones until something is told."""

    def tell(self, results: Sequence[Result]) -> None:
        """Takes in the results of what was asked for, in order."""
        for result in results:
            self._take(result.arch, self.objective.values(result))
            self.told += 1

    def state_dict(self) -> dict[str, Any]:
        """What it knows, ready for JSON."""
        return {"told": self.told, **self._state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` gave, of a strategy made with the same arguments."""
        self.told = state["told"]
        self._restore(state)

    @abstractmethod
    def _take(self, arch: Arch, values: tuple[float, ...] | None) -> None:
        """Notes one result. values: of the objective's terms; None: failed, or beyond a limit."""

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """Beside `told`, what `_restore` needs."""

    @abstractmethod
    def _restore(self, state: Mapping[str, Any]) -> None: ...

    def _rng(self, index: int) -> Random:
        """For what depends on the index-th architecture of the run."""
        return Random(f"{type(self).__name__} {self.seed} {index}")

    def _arch(self, genes: Sequence[int]) -> Arch:
        return self.space.arch(tuple(genes))


def score(values: tuple[float, ...] | None) -> float:
    """The one value; worst of all where there is none."""
    return WORST if values is None else values[0]


def jsonable(value: float) -> float | None:
    """WORST is no number of JSON."""
    return None if value == WORST else value


def from_json(value: float | None) -> float:
    return WORST if value is None else value
