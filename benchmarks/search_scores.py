"""What strategies find on NAS-Bench-201 with evaluators that look at networks: true test accuracy against evaluations
and against seconds.

Run: python benchmarks/search_scores.py --tables DIR [--seeds 20] [--out benchmarks/results/search_scores.json]

The scores and the processor seconds of each are those that benchmarks/score_cells.py measured of every network of the
space; a search is charged what the evaluations that it asks for took, each time. No search sees a label, but for those
rows whose ranker (`learned`) is told the 12-epoch validation accuracies of 100 random cells, other ones for each seed.
What a search holds for best is looked up in the 200-epoch test accuracies, which it never saw. `finalists`: of the
10 best by score, the one of best 12-epoch validation accuracy, as if those ten had been trained for 12 epochs. Beside
it, how each score ranks the whole space. The optimum of the table is 94.37.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from generate import versions
from score_cells import OUT, networks
from search_tables import AT, TRUTH, WAYS, spread

from eval.evaluator import Arch, Cost, Evaluator, Result, fingerprint
from eval.learned import Learned
from eval.rank import kendall, precision, top
from eval.tabular import Tabular
from eval.wrap import Blended, Joined, Neighborhood, Only
from ghn.errors import GHNError
from search.budget import Budget
from search.driver import search
from search.evaluators import SAMPLE
from search.labels import from_table
from search.objective import Maximise, Minimise, Objective
from search.options import LOWER
from search.space import SearchSpace
from search.spaces import make_space
from search.strategies import make_strategy

CHEAP = "cifar10_valid_12"
FINALISTS, LABELS = 10, 100
SECONDS = (2, 5, 10, 20)  # of processor time, at which a search is looked at

Make = Callable[[int], Evaluator]


class Recorded(Evaluator):
    """What an evaluator found of every network of the space, at the seconds that it took then.

    found: key of a network -> its metrics, None where it failed, and seconds.
    """

    def __init__(self, name: str, found: Mapping[str, tuple[Mapping[str, float] | None, float]]) -> None:
        self.metrics = tuple(next(metrics for metrics, _ in found.values() if metrics))
        self.sees, self.fingerprint = frozenset({"val"}), fingerprint(f"recorded.{name}")
        self._found = found

    def evaluate(self, archs: Sequence[Arch], seed: int = 0) -> list[Result]:
        return [replace(self._timed(a, seed), cost=Cost(1, seconds=self._of(a)[1])) for a in archs]

    def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
        metrics, _ = self._of(arch)
        if metrics is None:
            raise GHNError("it had no score")
        return dict(metrics), 0

    def _of(self, arch: Arch) -> tuple[Mapping[str, float] | None, float]:
        return self._found.get(arch.key, (None, 0.0))


class Charged(Learned):
    """A ranker whose evaluations cost what the scores that it reads took when they were recorded."""

    def evaluate(self, archs: Sequence[Arch], seed: int = 0) -> list[Result]:
        assert self.inner
        read = self.inner.evaluate(archs, seed)
        return [replace(r, cost=i.cost) for r, i in zip(super().evaluate(archs, seed), read, strict=True)]


def recorded(path: Path) -> dict[str, Recorded]:
    """The evaluators whose scores the file holds."""
    table, known = pq.read_table(path).to_pydict(), networks()
    keys = [known[cell].key for cell in table["cell"]]
    found = {}
    for name in (column.removesuffix(".s") for column in table if column.endswith(".s")):
        metrics = {c.removeprefix(f"{name}."): table[c] for c in table if c.partition(".")[0] == name}
        seconds = metrics.pop("s")
        rows = [dict(zip(metrics, row, strict=True)) for row in zip(*metrics.values(), strict=True)]
        scores = [None if None in row.values() else row for row in rows]
        found[name] = Recorded(name, dict(zip(keys, zip(scores, seconds, strict=True), strict=True)))
    return found


def evaluators(space: SearchSpace, path: Path, tables: str) -> dict[str, tuple[Make, str]]:
    """Row -> the evaluator of a seed, and the metric that a search reads."""
    of, rng = recorded(path), Random("blend")
    sample = [space.sample(rng) for _ in range(SAMPLE)]

    def blended(*inner: Evaluator) -> Make:
        made = Blended(inner, sample)
        return lambda seed: made

    def ranker(seed: int) -> Evaluator:
        labels = from_table(space, CHEAP, LABELS, tables, seed)
        return Charged(space.encode, labels.rows, labels.sees, inner=Joined(list(of.values())), seed=seed)

    found: dict[str, tuple[Make, str]] = {
        "predicted, loss": (lambda seed: of["predicted"], "loss"),
        "predicted, accuracy": (lambda seed: of["predicted"], "accuracy"),
        "predicted, lead": (lambda seed: of["predicted"], "lead"),
        "blend of lead and params": (blended(Only(of["predicted"], "lead"), of["params"]), "blend"),
        "blend of jacov and params": (blended(of["jacov"], of["params"]), "blend"),
        "blend of lead, jacov and params": (
            blended(Only(of["predicted"], "lead"), of["jacov"], of["params"]),
            "blend",
        ),
        "learned from 100 labels": (ranker, "rank_score"),
    }
    return found | {name: (lambda seed, e=of[name]: e, name) for name in ("params", "naswot", "synflow", "jacov")}


def objective(metric: str) -> Objective:
    return Objective(((Minimise if metric in LOWER else Maximise)(metric),))


def held(
    results: Sequence[Result], metric: str, spent: Callable[[Cost], float], limits: Sequence[float]
) -> list[Arch | None]:
    """What was best by the metric when so much was spent; None before anything was."""
    found, place, total, best = [], 0, Cost(), (float("-inf"), None)
    read = objective(metric)
    for limit in limits:
        while place < len(results) and spent(total + results[place].cost) <= limit:
            result, total, place = results[place], total + results[place].cost, place + 1
            (value,) = read.values(result) or (float("-inf"),)
            best = max(best, (value, result.arch), key=lambda pair: pair[0])
        found.append(best[1])
    return found


def finalist(results: Sequence[Result], metric: str, cheap: Mapping[tuple[int, ...], float]) -> Arch:
    """Of the best different networks by score, the one that the cheap training prefers."""
    read = objective(metric)
    scored = {r.arch.key: (values[0], r.arch) for r in results if (values := read.values(r))}
    best = sorted(scored.values(), key=lambda pair: -pair[0])[:FINALISTS]
    return max((arch for _, arch in best), key=lambda arch: cheap[arch.genes])


def searched(
    space: SearchSpace, make: Make, metric: str, way: str, seeds: int, truth: Mapping[Any, float], cheap: Any
) -> dict[str, Any]:
    """Mean and deviation over the seeds of what was found, by evaluations, by seconds, and after finalists."""
    name, settings, neighbours = WAYS[way]
    worst = min(truth.values())
    rows: dict[str, list[list[float]]] = {"evaluations": [], "seconds": [], "finalists": []}
    for seed in range(seeds):
        evaluator = make(seed)
        if neighbours is not None:
            evaluator = Neighborhood(evaluator, space, neighbours)
        strategy = make_strategy(name, space, objective(metric), seed, **settings)
        results = search(strategy, evaluator, Budget(AT[-1])).results
        for unit, limits in (("evaluations", AT), ("seconds", SECONDS)):
            best = held(results, metric, lambda cost, unit=unit: getattr(cost, unit), limits)
            rows[unit].append([truth[arch.genes] if arch else worst for arch in best])
        rows["finalists"].append([truth[finalist(results, metric, cheap).genes]])
    points = {"evaluations": AT, "seconds": SECONDS, "finalists": (FINALISTS,)}
    return {
        unit: {str(p): spread(list(column)) for p, column in zip(points[unit], zip(*found, strict=True), strict=True)}
        for unit, found in rows.items()
    }


def ranking(space: SearchSpace, make: Make, metric: str, truth: Mapping[tuple[int, ...], float]) -> dict[str, Any]:
    """How the score orders all cells of the table; those without one come last. Labelled cells are left out."""
    evaluator, read = make(0), objective(metric)
    archs = [a for a in map(space.arch, sorted(truth)) if a.key not in evaluator.told]
    results = evaluator.evaluate(archs)
    scores = np.array([(read.values(r) or (-np.inf,))[0] for r in results])
    real = np.array([truth[a.genes] for a in archs])
    best = top(real, len(real) // 10)
    return {
        "n": len(archs),
        "tau": kendall(scores, real),
        "tau_top": kendall(scores[best], real[best]),
        "precision": precision(scores, real, len(best)),
        "seconds": float(np.median([r.cost.seconds for r in results if r.cost.seconds])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--scores", type=Path, default=OUT)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/search_scores.json"))
    args = parser.parse_args()
    space = make_space("nasbench201")
    truth, cheap = (Tabular(space.tables, name, args.tables).values for name in (TRUTH, CHEAP))
    found: dict[str, Any] = {"optimum": max(truth.values()), "seeds": args.seeds, "versions": versions(), "rows": {}}
    for name, (make, metric) in evaluators(space, args.scores, args.tables).items():
        row = found["rows"][name] = {"ranking": ranking(space, make, metric, truth), "searches": {}}
        print(name, {key: round(value, 3) for key, value in row["ranking"].items()}, flush=True)
        for way in WAYS:
            points = row["searches"][way] = searched(space, make, metric, way, args.seeds, truth, cheap)
            text = {unit: [f"{p['mean']:.2f} ± {p['sd']:.2f}" for p in of.values()] for unit, of in points.items()}
            print(f"  {way}: {text}", flush=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
