"""A search as one HTML page: what was found when, the Pareto front, the winner drawn, what its scores are worth."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate
from typing import Any

import numpy as np

from deepnets_gen.plots import scatter, steps
from eval.certify import Certificate
from eval.evaluator import Cost, Result
from eval.report import summary
from ghn.errors import GHNError
from ghn.page import document, figure, picture, table
from search.driver import Outcome
from search.finish import Finalist
from search.objective import Objective
from search.space import SearchSpace

SHOWN = 12  # architectures of the front in the table
ORACLE = "Scores of this run may have seen test data: it studies a strategy, and says nothing about what was found."


def search_page(
    title: str,
    space: SearchSpace,
    objective: Objective,
    outcome: Outcome,
    certificate: Certificate | str,
    truths: Mapping[tuple[int, ...], float],
    last: Sequence[Finalist] = (),
) -> str:
    """The page. certificate: or why there is none. truths: of the best, by genes, as far as known. last: the trained.

    Raises MissingExtraError without matplotlib.
    """
    spent = outcome.spent
    failed = sum(r.error is not None for r in outcome.results)
    said = f"{spent.evaluations:,} evaluations, {spent.images:,} images, {spent.seconds:,.1f} s; {failed:,} failed."
    parts = [f"<h1>{escape(title)}</h1>", f"<p>{escape(said)}</p>"]
    parts += [f"<p><b>{escape(ORACLE)}</b></p>"] if outcome.oracle else []
    parts += ["<h2>What was found</h2>", _best(space, outcome.best, truths)]
    parts += [f'<div class="charts">{"".join(_charts(objective, outcome))}</div>']
    parts += _finalists(space, last) if last else []
    winner = last[0].result if last else outcome.best[0] if outcome.best else None
    parts += _winner(space, winner) if winner else []
    parts.append("<h2>What the scores are worth</h2>")
    if isinstance(certificate, Certificate):
        parts += [*summary({"this search's evaluator": certificate}), f"<p>{escape(certificate.origin)}</p>"]
    else:
        parts.append(f"<p>{escape(certificate)}</p>")
    return document(title, parts)


def trajectory(objective: Objective, results: Sequence[Result]) -> tuple[list[float], list[float]]:
    """Evaluations spent, and the best value of the first term so far, after each result that has one."""
    spent = [c.evaluations for c in accumulate((r.cost for r in results), Cost.__add__)]
    values = [v[0] if (v := objective.values(r)) is not None else -math.inf for r in results]
    best = list(accumulate(values, max))
    rows = [(x, y) for x, y in zip(spent, best, strict=True) if y > -math.inf]
    return [float(x) for x, _ in rows], [y for _, y in rows]


def _best(space: SearchSpace, best: Sequence[Result], truths: Mapping[tuple[int, ...], float]) -> str:
    rows: list[Sequence[Any]] = []
    for result in best[:SHOWN]:
        metrics = ", ".join(f"{name} {value:.6g}" for name, value in result.metrics.items())
        truth = truths.get(result.arch.genes)
        rows.append([metrics, "" if truth is None else f"{truth:.6g}", space.describe(result.arch)])
    more = f"<p>and {len(best) - SHOWN} more in result.json</p>" if len(best) > SHOWN else ""
    return table(["score", "truth", "architecture"], rows) + more


def _finalists(space: SearchSpace, last: Sequence[Finalist]) -> list[str]:
    rows = [
        [
            f.curve.error or f"{f.curve.val:.2%}",
            *(f"{v:.6g}" for v in f.result.metrics.values()),
            space.describe(f.result.arch),
        ]
        for f in last
    ]
    heads = ["validation accuracy", *last[0].result.metrics, "architecture"]
    return ["<h2>The best, trained from predicted weights</h2>", table(heads, rows)]


def _charts(objective: Objective, outcome: Outcome) -> list[str]:
    x, y = trajectory(objective, outcome.results)
    label = _name(objective, 0)
    line = steps({"best so far": (np.array(x), np.array(y))}, ("evaluations", label), "trajectory")
    charts = [figure(line, f"The best {label} so far, against evaluations spent.")]
    if len(objective.terms) > 1:
        points = [v for r in outcome.results if (v := objective.values(r)) is not None]
        edge = sorted(v for r in outcome.best if (v := objective.values(r)) is not None)
        labels = (_name(objective, 0), _name(objective, 1))
        charts.append(figure(_cloud(points, labels), f"All {len(points):,} that were scored."))
        line = steps({"front": (_column(edge, 0), _column(edge, 1))}, labels, "front", dots=True)
        charts.append(figure(line, f"The {len(edge):,} on the Pareto front."))
    return charts


def _cloud(points: Sequence[tuple[float, ...]], labels: tuple[str, str]) -> str:
    return scatter(_column(points, 0), _column(points, 1), labels, "all")


def _column(points: Sequence[tuple[float, ...]], number: int) -> np.ndarray:
    return np.array([p[number] for p in points])


def _name(objective: Objective, number: int) -> str:
    term = objective.terms[number]
    return f"{type(term).__name__.lower()} {' '.join(term.needs)}"


def _winner(space: SearchSpace, winner: Result) -> list[str]:
    try:
        graph = space.picture(winner.arch)
    except GHNError as error:
        return [f"<p>The winner cannot be drawn: {escape(str(error))}</p>"]
    caption = f"{space.describe(winner.arch)}: {len(graph)} nodes as drawn. Read down each column, then on at the next."
    return ["<h2>The winner</h2>", picture(graph, caption)]
