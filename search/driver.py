"""The driver: asks a strategy, evaluates, keeps what was found, tells the strategy; until the budget is spent."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import islice

from eval.evaluator import TEST, Arch, Cost, Evaluator, Result
from search.budget import Budget
from search.errors import SearchError
from search.history import History
from search.objective import Objective
from search.pareto import front
from search.strategy import Strategy

FREE = 1000  # batches in a row that cost nothing (see reuse), after which a search has nothing new to find


@dataclass(frozen=True)
class Outcome:
    """How a search ended. results: all, in the order of asking. best: on the objective's Pareto front, which for one
    term are the equals at the top; the first is the winner. spent: in total. oracle: scores may have seen test data.
    """

    results: tuple[Result, ...]
    best: tuple[Result, ...]
    spent: Cost
    oracle: bool


def search(
    strategy: Strategy,
    evaluator: Evaluator,
    budget: Budget,
    *,
    history: History | None = None,
    batch: int = 1,
    seed: int = 0,
    executor: Executor | None = None,
    reuse: bool = False,
    progress: Callable[[Result, Cost], None] = lambda result, spent: None,
    oracle: bool = False,
) -> Outcome:
    """What the strategy finds within the budget.

    batch: architectures asked for at a time; results are told in the order of asking, so that a run depends on it but
    not on who evaluates. history: results of an earlier run of the same settings are told again in place of being
    evaluated, whatever moment it was killed at, and new ones are added. executor: where architectures are evaluated one
    by one, in this process where there is none, a whole batch at a time. reuse: networks that the space knows to be the
    same (`Arch.key`) are evaluated once and cost nothing again.
    oracle: let scores see test data, for studies of strategies; no claim about what was found can rest on such a run.
    Raises SearchError where the evaluator sees test data, lacks what the objective reads, or the history is another's.
    """
    require_blind(evaluator, oracle)
    strategy.objective.check(evaluator.metrics)
    history = History.in_memory() if history is None else history
    recorded = iter(tuple(history))
    known: dict[str, Result] | None = {} if reuse else None
    spent, free = Cost(), 0
    while free < FREE and (wanted := _wanted(batch, budget.room(spent, evaluator.price))):
        archs = strategy.ask(wanted)
        results = _replayed(archs, recorded)
        _note(known, results)
        for result in _evaluated(evaluator, archs[len(results) :], seed, executor, known):
            history.append(result)
            results.append(result)
        strategy.tell(results)
        before = spent
        for result in results:
            spent += result.cost
            progress(result, spent)
        free = free + 1 if spent == before else 0
    return _outcome(strategy.objective, tuple(history), spent, oracle)


def require_blind(evaluator: Evaluator, oracle: bool) -> None:
    """Raises SearchError where test data had a say in the evaluator's scores, unless the caller asks for an oracle."""
    if TEST in evaluator.sees and not oracle:
        raise SearchError(
            f"{', '.join(evaluator.metrics)} was measured on test data, which no search may see; score with validation "
            "data, or pass oracle (--oracle) to study strategies, which marks the result"
        )


def _wanted(batch: int, room: int | None) -> int:
    return batch if room is None else min(batch, room)


def _replayed(archs: Sequence[Arch], recorded: Iterator[Result]) -> list[Result]:
    """The recorded results of these architectures, as far as they go. Raises SearchError where others come."""
    found = list(islice(recorded, len(archs)))
    for arch, result in zip(archs, found, strict=False):
        if arch != result.arch:
            raise SearchError(
                f"the history has {result.arch.key} where the strategy now asks for {arch.key}: it is of another "
                "version or other settings; give another folder"
            )
    return found


def _note(known: dict[str, Result] | None, results: Sequence[Result]) -> None:
    if known is not None:
        for result in results:
            known.setdefault(result.arch.key, result)


def _evaluated(
    evaluator: Evaluator, archs: Sequence[Arch], seed: int, executor: Executor | None, known: dict[str, Result] | None
) -> Iterator[Result]:
    """A result for each, in order, as they come; what is known, or comes up twice, is paid for once."""
    new = list(archs) if known is None else list({a.key: a for a in archs if a.key not in known}.values())
    if executor is not None:
        found = executor.map(_single, [(evaluator, arch, seed) for arch in new])
    else:
        found = iter(evaluator.evaluate(new, seed) if new else [])
    for arch in archs:
        if known is not None and arch.key in known:
            yield replace(known[arch.key], arch=arch, cost=Cost())
        else:
            result = next(found)
            _note(known, [result])
            yield result


def _single(job: tuple[Evaluator, Arch, int]) -> Result:
    evaluator, arch, seed = job
    return evaluator.evaluate([arch], seed)[0]


def _outcome(objective: Objective, results: tuple[Result, ...], spent: Cost, oracle: bool) -> Outcome:
    scored = [(result, values) for result in results if (values := objective.values(result)) is not None]
    best = [scored[i][0] for i in front([values for _, values in scored])]
    distinct = {result.arch.genes: result for result in reversed(best)}
    return Outcome(results, tuple(reversed(distinct.values())), spent, oracle)
