"""The certificate of a search's scores: measured, given in a file, shipped with the package, or made from finalists.

One is of certain scores: those of an evaluator with this fingerprint, so of this GHN, these images, this space.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from shlex import quote
from typing import Any

from eval.certify import LEAST, Certificate, certify
from eval.evaluator import Evaluator
from eval.wrap import Joined
from ghn.errors import GHNError
from search.errors import SearchError
from search.finish import Finalist
from search.history import changes
from search.objective import Minimise, Objective
from search.space import SearchSpace

SHIPPED = Path(__file__).with_name("data_files") / "certificates.json"  # by benchmarks/rank_evaluators.py


def read(path: Path) -> list[Certificate]:
    """The certificates in a file that `ghn rank` wrote; of a folder, in its certificates.json. Raises SearchError."""
    path = path / "certificates.json" if path.is_dir() else path
    try:
        record = json.loads(path.read_text())
        return [Certificate.from_dict(value) for value in record.values()]
    except OSError as error:
        raise SearchError(
            f"cannot read the certificates in {path}: {error.strerror}; `ghn rank` writes some"
        ) from error
    except (AttributeError, ValueError, GHNError) as error:
        raise SearchError(f"{path} holds no certificates as `ghn rank` writes them ({error})") from error


@cache
def shipped() -> tuple[Certificate, ...]:
    return tuple(replace(c, origin="shipped with the package") for c in read(SHIPPED))


def scorer(evaluator: Evaluator, metric: str) -> Evaluator:
    """The one of evaluators that are joined which gives this metric."""
    inner = evaluator.inner if isinstance(evaluator, Joined) else ()
    return next((e for e in inner if metric in e.metrics), evaluator)


def known(certificates: Sequence[Certificate], evaluator: Evaluator, metric: str) -> Certificate | None:
    """That of exactly these scores, if it is among these."""
    wanted = (scorer(evaluator, metric).fingerprint, metric)
    return next((c for c in certificates if (c.evaluator, c.metric) == wanted), None)


def given(path: Path, evaluator: Evaluator, metric: str, made: Mapping[str, Any]) -> Certificate:
    """The certificate of these scores in this file. Raises SearchError, which says what others are of."""
    found = read(path)
    if certificate := known(found, evaluator, metric):
        return replace(certificate, origin=str(path))
    near = nearest(found, metric, made)
    if near is None:
        raise SearchError(f"{path} holds no certificate")
    raise SearchError(
        f"{path} certifies other scores than {metric} by {made['evaluator']} ({_difference(near, metric, made)}); "
        "give the same options, or leave --certificate out"
    )


def nearest(certificates: Sequence[Certificate], metric: str, made: Mapping[str, Any]) -> Certificate | None:
    """The one made with the most options alike."""

    def alike(c: Certificate) -> int:
        return sum(c.made.get(k) == v for k, v in made.items()) + (c.metric == metric)

    return max(certificates, key=alike, default=None)


def of_finalists(last: Sequence[Finalist], objective: Objective, steps: int) -> Certificate | None:
    """How the scores order the finalists, against their accuracy after training; None of fewer than 20."""
    able = [f for f in last if f.curve.error is None]
    if len(able) < LEAST:
        return None
    term = objective.terms[0]
    return certify(
        [f.result for f in able],
        [f.curve.val for f in able],
        term.needs[0],
        f"validation accuracy after {steps} steps",
        lower_is_better=isinstance(term, Minimise),
        origin="the finalists of this search, trained: it is of the best by these scores alone",
    )


def uncertified(space: SearchSpace, metric: str, made: Mapping[str, Any], options: Sequence[str]) -> str:
    """Why there is no certificate, and how to come by one. options: of `ghn rank`, for the command that makes it."""
    said = "not certified: nothing is known about how well these scores rank."
    same = [
        c for c in shipped() if all(c.made.get(k) == made[k] for k in ("space", "evaluator")) and c.metric == metric
    ]
    if near := nearest(same, metric, made):
        said += f" The package has a certificate of others ({_difference(near, metric, made)})."
    if space.truth is None:
        return f"{said} --finish {LEAST} trains the best {LEAST} networks and certifies how the scores order those."
    if "neighbors" in made:
        return f"{said} --truth {space.truth} certifies them after the search."
    words = ["ghn", "rank", *options, "--evaluators", str(made["evaluator"]), "--truth", space.truth]
    command = " ".join(map(quote, words))
    return f"{said} `{command} --out certified` makes one; give it with --certificate certified."


def _difference(near: Certificate, metric: str, made: Mapping[str, Any]) -> str:
    there, here = {**near.made, "metric": near.metric}, {**made, "metric": metric}
    return changes(there, here) or "of another GHN, other images or other labels, under the same names"
