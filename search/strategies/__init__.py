"""The strategies by name. A new one is a file here and a line in STRATEGIES."""

import importlib
from typing import Any

from search.errors import SearchError
from search.objective import Objective
from search.space import SearchSpace
from search.strategy import Strategy

STRATEGIES = {  # name -> where its class is, imported when asked for
    "random": "random_search:RandomSearch",
    "evolution": "evolution:Evolution",
    "local": "local_search:LocalSearch",
    "nsga2": "nsga2:Nsga2",
    "optuna": "optuna:Optuna",
}


def make_strategy(name: str, space: SearchSpace, objective: Objective, seed: int = 0, **settings: Any) -> Strategy:
    """The strategy of this name. settings: of its class, such as population. Raises SearchError."""
    if name not in STRATEGIES:
        raise SearchError(f"no strategy {name!r}; there are {', '.join(STRATEGIES)}")
    module, _, kind = STRATEGIES[name].partition(":")
    try:
        return getattr(importlib.import_module(f"search.strategies.{module}"), kind)(space, objective, seed, **settings)
    except TypeError as error:
        raise SearchError(f"the strategy {name} cannot be made with {settings}: {error}") from error
