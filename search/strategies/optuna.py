"""Optuna's samplers on our spaces, behind ask and tell; optuna is imported only here."""

from collections.abc import Mapping
from typing import Any

from eval.evaluator import Arch
from search.errors import SearchError
from search.objective import Objective
from search.space import SearchSpace
from search.strategy import Genes, Strategy, jsonable, score

SAMPLERS = ("TPESampler", "RandomSampler", "CmaEsSampler", "GPSampler")


class Optuna(Strategy):
    """sampler: of optuna.samplers; each variable is a categorical parameter. Failed architectures are not told.

    A draw that makes no network is drawn again. Raises SearchError where optuna is missing.
    """

    def __init__(self, space: SearchSpace, objective: Objective, seed: int = 0, sampler: str = "TPESampler") -> None:
        super().__init__(space, objective, seed)
        try:
            import optuna
        except ImportError as error:
            raise SearchError(f"optuna cannot be imported ({error}); run `pip install optuna`") from error
        if sampler not in SAMPLERS:
            raise SearchError(f"no sampler {sampler!r}; known are {', '.join(SAMPLERS)}")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self.sampler = optuna, sampler
        self._seen: list[tuple[Genes, float]] = []

    def ask(self, n: int) -> list[Arch]:
        study = self._study()
        return [self._draw(study, self.told + place) for place in range(n)]

    def _study(self) -> Any:
        """A study that has been told all that we know, with a seed of its own: asking twice gives the same."""
        seed = self._rng(self.told).randrange(2**31)
        sampler = getattr(self._optuna.samplers, self.sampler)(seed=seed)
        study = self._optuna.create_study(direction="maximize", sampler=sampler)
        spread = self._distributions()
        for genes, value in self._seen:
            params = {v.name: gene for v, gene in zip(self.space.variables, genes, strict=True)}
            study.add_trial(self._optuna.trial.create_trial(params=params, distributions=spread, value=value))
        return study

    def _draw(self, study: Any, index: int) -> Arch:
        for _ in range(20):
            params = study.ask(self._distributions()).params
            try:
                return self.space.arch([params[v.name] for v in self.space.variables])
            except SearchError:  # these genes make no network
                continue
        return self.space.sample(self._rng(index))

    def _distributions(self) -> dict[str, Any]:
        kind = self._optuna.distributions.CategoricalDistribution
        return {v.name: kind(tuple(range(len(v.choices)))) for v in self.space.variables}

    def _take(self, arch: Arch, values: tuple[float, ...] | None) -> None:
        value = jsonable(score(values))
        if value is not None:
            self._seen.append((arch.genes, value))

    def _state(self) -> dict[str, Any]:
        return {"seen": [[list(genes), value] for genes, value in self._seen]}

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._seen = [(tuple(genes), value) for genes, value in state["seen"]]
