"""NSGA-II: fronts first, then room around a point. Source: Deb et al., IEEE TEVC 2002."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from eval.evaluator import Arch
from search.errors import SearchError
from search.objective import Objective
from search.pareto import crowding, ranks
from search.space import SearchSpace
from search.strategy import Genes, Strategy

Member = tuple[Genes, tuple[float, ...] | None]  # values None: failed, or beyond a limit


class Nsga2(Strategy):
    """Generations of `population`; parents win tournaments of two by front, then by crowding.

    crossover: probability that a child has two parents; else it is a mutant of one. Children of two mutate each gene
    with probability 1 / genes.
    """

    single = False

    def __init__(
        self, space: SearchSpace, objective: Objective, seed: int = 0, population: int = 20, crossover: float = 0.9
    ) -> None:
        super().__init__(space, objective, seed)
        if population < 2:
            raise SearchError(f"a population of {population} has no parents; give 2 or more")
        self.population, self.crossover = population, crossover
        self._parents: list[Member] = []
        self._children: list[Member] = []

    def ask(self, n: int) -> list[Arch]:
        room = min(n, self.population - len(self._children))
        order = fitness([values for _, values in self._parents])
        return [self._next(self._rng(self.told + place), order) for place in range(room)]

    def _next(self, rng: Random, order: Sequence[tuple[float, float]]) -> Arch:
        if not self._parents:
            return self.space.sample(rng)
        one, other = (self._arch(self._parents[self._winner(rng, order)][0]) for _ in range(2))
        if rng.random() >= self.crossover:
            return self.space.mutate(one, rng)
        child = self.space.crossover(one, other, rng)
        for _ in child.genes:
            if rng.random() < 1 / len(child.genes):
                child = self.space.mutate(child, rng)
        return child

    def _winner(self, rng: Random, order: Sequence[tuple[float, float]]) -> int:
        """Of two members the better one, of equals the first."""
        return min((rng.randrange(len(order)) for _ in range(2)), key=lambda i: order[i])

    def _take(self, arch: Arch, values: tuple[float, ...] | None) -> None:
        self._children.append((arch.genes, values))
        if len(self._children) == self.population:
            both = [*self._parents, *self._children]
            order = fitness([values for _, values in both])
            best = sorted(range(len(both)), key=lambda i: order[i])[: self.population]
            self._parents, self._children = [both[i] for i in best], []

    def _state(self) -> dict[str, Any]:
        return {"parents": _listed(self._parents), "children": _listed(self._children)}

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._parents, self._children = _members(state["parents"]), _members(state["children"])


def fitness(points: Sequence[tuple[float, ...] | None]) -> list[tuple[float, float]]:
    """(front, -crowding) of each: the crowded-comparison operator, smaller is better. None comes after all fronts."""
    found = [(float("inf"), 0.0)] * len(points)
    there = [i for i, p in enumerate(points) if p is not None]
    fronts = ranks([p for p in points if p is not None])
    for number in set(fronts):
        members = [i for i, front in zip(there, fronts, strict=True) if front == number]
        distances = crowding([p for i in members if (p := points[i]) is not None])
        for i, distance in zip(members, distances, strict=True):
            found[i] = (float(number), -distance)
    return found


def _listed(members: Sequence[Member]) -> list[Any]:
    return [[list(genes), values and list(values)] for genes, values in members]


def _members(rows: Sequence[Any]) -> list[Member]:
    return [(tuple(genes), values if values is None else tuple(values)) for genes, values in rows]
