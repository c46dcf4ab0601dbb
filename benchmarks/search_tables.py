"""What strategies find with each evaluator: true test accuracy against evaluations, on published tables.

Run: python benchmarks/search_tables.py --tables DIR [--seeds 20] [--out benchmarks/results/search_tables.json]

NAS-Bench-201: the search sees 12-epoch validation accuracy (accurate), one-shot or few-shot supernet accuracy (noisy),
or a number of parameters; what it holds for best after 25, 50, 100, 200 and 300 evaluations is looked up in the
200-epoch CIFAR-10 test accuracies, which it never saw. The optimum of the table is 94.37. Neighbours that an evaluator
asks for are charged. NAS-Bench-Macro has test accuracies alone: there the search sees the mean of three seeds (an
oracle, a study of strategies only), within 60 million multiply-adds or for the whole Pareto front.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.evaluator import Evaluator, Result
from eval.tabular import Tabular
from eval.wrap import Joined, Neighborhood
from search.budget import Budget
from search.driver import search
from search.objective import Limit, Maximise, Minimise, Objective, Reward, maximise
from search.pareto import front, hypervolume
from search.spaces import make_space
from search.strategies import make_strategy

TRUTH = "cifar10_test_200"
SCORES = ("cifar10_valid_12", "one_shot_acc", "few_shot_acc", "params_m_c10_formula")
AT = (25, 50, 100, 200, 300)
WAYS: dict[str, tuple[str, dict[str, Any], int | None]] = {  # name -> strategy, its settings, neighbours
    "random": ("random", {}, None),
    "evolution": ("evolution", {"population": 50, "sample": 10}, None),
    "local": ("local", {}, None),
    "NA-RS (6 of 24 neighbours)": ("random", {}, 6),
    "NA-evolution (6)": ("evolution", {"population": 15, "sample": 5}, 6),
}
MOST = 60e6  # multiply-adds


def spread(values: list[float]) -> dict[str, float]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "sd": deviation, "n": len(values)}


def held(results: tuple[Result, ...], metric: str, truth: dict[tuple[int, ...], float]) -> list[float]:
    """The truth of what was best by score after AT evaluations; the worst there is before the first result."""
    found, spent, best, place = [], 0, None, 0
    for limit in AT:
        while place < len(results) and spent + results[place].cost.evaluations <= limit:
            result = results[place]
            spent, place = spent + result.cost.evaluations, place + 1
            if result.error is None and (best is None or result.metrics[metric] > best.metrics[metric]):
                best = result
        found.append(truth[best.arch.genes] if best else min(truth.values()))
    return found


def nasbench201(tables: str, seeds: int) -> dict[str, Any]:
    """Score -> way -> evaluations -> mean and deviation of the true accuracy."""
    space = make_space("nasbench201")
    truth = Tabular(space.tables, TRUTH, tables).values
    found: dict[str, Any] = {"optimum": max(truth.values())}
    for metric in SCORES:
        inner, objective = Tabular(space.tables, metric, tables), maximise(metric)
        for way, (name, settings, neighbours) in WAYS.items():
            evaluator: Evaluator = inner if neighbours is None else Neighborhood(inner, space, neighbours)
            began, rows = time.process_time(), []
            for seed in range(seeds):
                strategy = make_strategy(name, space, objective, seed, **settings)
                rows.append(held(search(strategy, evaluator, Budget(AT[-1])).results, metric, truth))
            points = {str(at): spread(list(column)) for at, column in zip(AT, zip(*rows, strict=True), strict=True)}
            found.setdefault(metric, {})[way] = {"at": points, "cpu_seconds": (time.process_time() - began) / seeds}
            print(metric, way, {at: f"{p['mean']:.2f} ± {p['sd']:.2f}" for at, p in points.items()}, flush=True)
    return found


def macro(tables: str, seeds: int, evaluations: int = 300) -> dict[str, Any]:
    """Way -> share of the whole front's hypervolume, and best accuracy within the limit."""
    space = make_space("macro")
    both = Joined([Tabular(space.tables, name, tables) for name in ("test_acc_mean", "flops")])
    acc, flops = (e.values for e in both.inner)  # ty: ignore[unresolved-attribute]
    points = [(acc[g], -flops[g]) for g in acc]
    floor = (80.0, -max(flops.values()))
    whole = hypervolume([points[i] for i in front(points)], floor)
    best = max(a for g, a in acc.items() if flops[g] <= MOST)
    pareto = Objective((Maximise("test_acc_mean"), Minimise("flops")))
    soft, hard = (Objective((make("test_acc_mean", "flops", MOST),)) for make in (Reward.soft, Reward.hard))
    capped = Objective((Maximise("test_acc_mean"),), (Limit("flops", MOST),))
    ways: dict[str, Callable[[int], Any]] = {
        "random": lambda seed: make_strategy("random", space, pareto, seed),
        "NSGA-II (20)": lambda seed: make_strategy("nsga2", space, pareto, seed, population=20),
        "evolution, soft reward": lambda seed: make_strategy("evolution", space, soft, seed, population=30),
        "evolution, hard reward": lambda seed: make_strategy("evolution", space, hard, seed, population=30),
        "evolution, limit": lambda seed: make_strategy("evolution", space, capped, seed, population=30),
        "local, limit": lambda seed: make_strategy("local", space, capped, seed),
    }
    found: dict[str, Any] = {"optimum": max(acc.values()), "optimum_within_limit": best, "evaluations": evaluations}
    for way, make in ways.items():
        volumes, within = [], []
        for seed in range(seeds):
            results = search(make(seed), both, Budget(evaluations), oracle=True).results
            seen = [(r.metrics["test_acc_mean"], -r.metrics["flops"]) for r in results]
            volumes.append(hypervolume([seen[i] for i in front(seen)], floor) / whole)
            within.append(max([a for a, f in seen if -f <= MOST], default=0.0))
        found[way] = {"hypervolume": spread(volumes), "within_limit": spread(within)}
        print(way, {k: f"{v['mean']:.3f} ± {v['sd']:.3f}" for k, v in found[way].items()}, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/search_tables.json"))
    args = parser.parse_args()
    record = {
        "versions": {"python": platform.python_version(), "cpus": os.cpu_count()},
        "seeds": args.seeds,
        "nasbench201": nasbench201(args.tables, args.seeds),
        "macro": macro(args.tables, args.seeds),
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
