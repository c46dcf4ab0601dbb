"""Regularised evolution: the best of a random few has a child, the oldest dies. Source: Real et al., AAAI 2019,
algorithm 1. With the best of many by a cheap score as its first population it is AREA (Mellor et al. 2021)."""

from collections import deque
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from eval.evaluator import Arch
from search.errors import SearchError
from search.objective import Objective
from search.space import SearchSpace
from search.strategy import Genes, Strategy, from_json, jsonable, score


class Evolution(Strategy):
    """population: how many live at a time. sample: how many of them compete to have a child.

    initial: the first to be scored, in place of random ones; what is missing to a population is sampled.
    """

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int = 0,
        population: int = 50,
        sample: int = 10,
        initial: Sequence[Arch] = (),
    ) -> None:
        super().__init__(space, objective, seed)
        if not 1 <= sample <= population:
            raise SearchError(f"of a population of {population} a sample of {sample} cannot compete; give 1 to all")
        self.population, self.sample = population, sample
        self.initial = tuple(initial)[:population]
        self._living: deque[tuple[Genes, float]] = deque(maxlen=population)

    def ask(self, n: int) -> list[Arch]:
        return [self._next(self.told + place) for place in range(n)]

    def _next(self, index: int) -> Arch:
        rng = self._rng(index)
        if index < len(self.initial):
            return self.initial[index]
        if index < self.population or not self._living:
            return self.space.sample(rng)
        return self.space.mutate(self._arch(self._parent(rng)), rng)

    def _parent(self, rng: Random) -> Genes:
        """The best of `sample` that are drawn with repetition, as in the published code; of equals the first drawn."""
        drawn = [self._living[rng.randrange(len(self._living))] for _ in range(self.sample)]
        return max(drawn, key=lambda member: member[1])[0]

    def _take(self, arch: Arch, values: tuple[float, ...] | None) -> None:
        self._living.append((arch.genes, score(values)))

    def _state(self) -> dict[str, Any]:
        return {"living": [[list(genes), jsonable(value)] for genes, value in self._living]}

    def _restore(self, state: Mapping[str, Any]) -> None:
        members = [(tuple(genes), from_json(value)) for genes, value in state["living"]]
        self._living = deque(members, maxlen=self.population)
