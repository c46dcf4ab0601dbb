"""Architecture search: spaces, strategies that are asked and told, and a driver that resumes by replay."""

from ghn.lazy import exports

_EXPORTS = {
    "Arch": "eval.evaluator",
    "Result": "eval.evaluator",
    "Evaluator": "eval.evaluator",
    "SearchSpace": "search.space",
    "make_space": "search.spaces",
    "Strategy": "search.strategy",
    "make_strategy": "search.strategies",
    "Objective": "search.objective",
    "maximise": "search.objective",
    "Budget": "search.budget",
    "History": "search.history",
    "SearchError": "search.errors",
    "Outcome": "search.driver",
    "search": "search.driver",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = exports(globals(), _EXPORTS)
