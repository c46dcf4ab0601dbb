"""Local search: to the best neighbour, again and again; anew from a random place where none is better.

Source: White et al., UAI 2021, "Exploring the loss landscape in neural architecture search", algorithm 1.
"""

from collections.abc import Mapping
from random import Random
from typing import Any

from eval.evaluator import Arch
from search.objective import Objective
from search.space import SearchSpace
from search.strategy import Genes, Strategy, from_json, jsonable, score


class LocalSearch(Strategy):
    """Scores all neighbours of where it stands, those that it knows already from memory, in random order."""

    def __init__(self, space: SearchSpace, objective: Objective, seed: int = 0) -> None:
        super().__init__(space, objective, seed)
        self._known: dict[Genes, float] = {}
        self._move(None)

    def ask(self, n: int) -> list[Arch]:
        if self._centre is None:
            return [self.space.sample(self._rng(self.told))]
        return self._unknown()[:n]

    def _take(self, arch: Arch, values: tuple[float, ...] | None) -> None:
        self._known[arch.genes] = score(values)
        if self._centre is None:
            self._move(arch.genes)
        while self._centre is not None and not self._unknown():
            best = max(self._ways, key=lambda a: self._known[a.genes], default=None)
            better = best is not None and self._known[best.genes] > self._known[self._centre]
            self._move(best.genes if best is not None and better else None)

    def _move(self, centre: Genes | None) -> None:
        """Stands there from now on; None: nowhere yet."""
        self._centre, self._ways = centre, []
        if centre is not None:
            self._ways = self.space.neighbors(self._arch(centre))
            Random(f"{self.seed} {centre}").shuffle(self._ways)

    def _unknown(self) -> list[Arch]:
        """Neighbours without a score, in the order in which they will be asked for."""
        return [a for a in self._ways if a.genes not in self._known]

    def _state(self) -> dict[str, Any]:
        known = [[list(genes), jsonable(value)] for genes, value in self._known.items()]
        return {"known": known, "centre": self._centre and list(self._centre)}

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._known = {tuple(genes): from_json(value) for genes, value in state["known"]}
        self._move(None if state["centre"] is None else tuple(state["centre"]))
