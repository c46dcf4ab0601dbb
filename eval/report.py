"""Certificates as one HTML page: how each evaluator ranks, what it favours, its scores against the truth."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from deepnets_gen.plots import scatter
from eval.certify import Certificate
from ghn.page import document, figure, table

HOW = (
    "Tau is Kendall's tau-b between score and truth: 1 for the same order, 0 for none. The top tenth is that of the "
    "truth: where its interval reaches below 0, the order among the best is not to be trusted. Precision is the share "
    "of the truly best tenth that the evaluator puts in its own. Regret is what is lost by training only the best few "
    "by score. Brackets are 95% bootstrap intervals over architectures."
)
BIAS = (
    "Does the evaluator over-rate a trait? Mean difference between the percentile by score and by truth, for groups of "
    "rising trait: above 0 is over-rated."
)


def certificates_page(title: str, certificates: Mapping[str, Certificate]) -> str:
    """The page. certificates: by evaluator. Raises MissingExtraError where matplotlib is not installed."""
    parts = [f"<h1>{escape(title)}</h1>", *summary(certificates), "<h2>Scores against truth</h2>"]
    charts = [figure(_chart(name, c), _caption(name, c)) for name, c in certificates.items()]
    parts.append(f'<div class="charts">{"".join(charts)}</div>')
    if any(c.bias for c in certificates.values()):
        parts += ["<h2>Biases</h2>", f"<p>{escape(BIAS)}</p>", _biases(certificates)]
    return document(title, parts)


def summary(certificates: Mapping[str, Certificate]) -> list[str]:
    """The table of what the evaluators are worth, and how to read it, as parts of a page."""
    return [f"<p>{escape(HOW)}</p>", table(*rank_table(certificates))]


def rank_table(certificates: Mapping[str, Certificate]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the comparison, best tau first."""
    heads = ["evaluator", "n", "failed", "tau", "top tenth", "precision", "regret of 1 / 5 / 10", "tau over seeds"]
    heads += ["ms each", "each s"]
    order = sorted(certificates.items(), key=lambda item: -item[1].tau.value)
    return heads, [_row(name, c) for name, c in order]


def _row(name: str, c: Certificate) -> list[str]:
    seeds = "" if c.seed_spread is None else f"{c.seed_spread[0]:.3f} ± {c.seed_spread[1]:.3f}"
    regrets = " / ".join(f"{value:.2f}" for value in c.regret.values())
    cells = [name, f"{c.n:,}", str(c.failed), str(c.tau), str(c.tau_top), str(c.precision), regrets, seeds]
    return [*cells, f"{1e3 * c.seconds:.3g}", f"{1 / max(c.seconds, 1e-9):.3g}"]


def _chart(name: str, c: Certificate) -> str:
    points = np.array([p for p in c.points if p[0] is not None], dtype=float).reshape(-1, 2)
    return scatter(points[:, 0], points[:, 1], (f"{name}: {c.metric}", c.truth), f"scatter {name}")


def _caption(name: str, c: Certificate) -> str:
    doubt = "; the order among the best may be chance" if c.doubtful else ""
    return f"{name}: tau {c.tau}, in the top tenth {c.tau_top}{doubt}."


def _biases(certificates: Mapping[str, Certificate]) -> str:
    rows: list[Sequence[str]] = []
    for name, c in certificates.items():
        for trait, bias in c.bias.items():
            groups = ", ".join(f"{_span(a, b)}: {mean:+.3f} (n = {n})" for a, b, n, mean in bias.groups)
            rows.append([name, trait, str(bias.tau), groups])
    return table(["evaluator", "trait", "tau of trait and over-rating", "groups"], rows)


def _span(least: float, most: float) -> str:
    return f"{least:,.6g}" if least == most else f"{least:,.6g} to {most:,.6g}"
