"""How evaluators rank the cells of NAS-Bench-201: Kendall's tau with 200-epoch CIFAR-10 test accuracy, and per second.

Run: python benchmarks/rank_evaluators.py --tables DIR --data DIR [--n 100] [--out FILE]

Cells are drawn at random, the same for all evaluators. Table columns and parameters are ranked on all 15,625 cells too.
Images are of the validation part, evenly by class: 128 for NASWOT (the paper's batch), 64 for scores that take
gradients, 256 for predicted weights. One thread. What the file holds already is not measured again. Seconds are of this
machine, under whatever load it had.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch

from eval.certify import Certificate, certify
from eval.evaluator import Evaluator
from eval.tabular import Tabular
from search.evaluators import Resources
from search.space import SearchSpace
from search.spaces import make_space

TRUTH = "cifar10_test_200"
COLUMNS = ("params_m_c10_formula", "cifar10_valid_12", "one_shot_acc", "few_shot_acc")
LIVE = {  # evaluator -> images that it sees
    "params": 2,
    "flops": 2,
    "synflow": 2,
    "naswot": 128,
    "jacov": 64,
    "snip": 64,
    "grad_norm": 64,
    "predicted": 256,
}


def certified(
    evaluator: Evaluator, space: SearchSpace, genes: list[tuple[int, ...]], truth: Tabular
) -> dict[str, Certificate]:
    """Metric -> certificate of the evaluator on these cells."""
    archs = [space.arch(g) for g in genes]
    results = [evaluator.evaluate([a])[0] for a in archs]
    rows = [space.traits(a) for a in archs]
    traits = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        metric: certify(
            results,
            [truth.values[g] for g in genes],
            metric,
            TRUTH,
            lower_is_better=metric == "loss",
            traits=traits,
        )
        for metric in evaluator.metrics
    }


def row(certificate: Certificate, images: int | None) -> dict[str, Any]:
    """What is kept of a certificate."""
    record = certificate.to_dict()
    del record["points"], record["variants"]
    return {**record, "images": images}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables")
    parser.add_argument("--data")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/rank_evaluators.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    space = make_space("nasbench201")
    truth = Tabular(space.tables, TRUTH, args.tables)
    genes = Random(f"rank {args.seed}").sample(sorted(truth.values), args.n)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "cpus": os.cpu_count()}
    record = {"truth": TRUTH, "n": args.n, "seed": args.seed, "threads": 1, "versions": versions}
    found: dict[str, Any] = {"all": {}, "sample": {}}
    if args.out.exists() and (before := json.loads(args.out.read_text())).get("n") == args.n:
        found = {part: before[part] for part in found}  # what a run that was cut off had found
    for name, evaluator, images in evaluators(space, args):
        parts = {"sample": genes} if images else {"all": sorted(truth.values), "sample": genes}
        for part, cells in parts.items():
            if not any(key.split()[0] == name for key in found[part]):
                for metric, certificate in certified(evaluator(), space, cells, truth).items():
                    key = name if metric == name else f"{name} {metric}"
                    found[part][key] = row(certificate, images)
                    print(part, key, certificate, flush=True)
                args.out.write_text(json.dumps({**record, **found}, indent=1) + "\n")


def evaluators(
    space: SearchSpace, args: argparse.Namespace
) -> Iterator[tuple[str, Callable[[], Evaluator], int | None]]:
    """(name, what makes it, images that it sees; None for columns of the table)."""
    for column in COLUMNS:
        yield column, partial(Tabular, space.tables, column, args.tables), None
    for spec, images in LIVE.items():
        yield spec, partial(Resources(space, args.tables, args.data, images=images).make, spec), images


if __name__ == "__main__":
    main()
