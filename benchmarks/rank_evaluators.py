"""How evaluators rank the cells of NAS-Bench-201: Kendall's tau with 200-epoch CIFAR-10 test accuracy, and per second.

Run: python benchmarks/rank_evaluators.py --tables DIR --data DIR [--n 100] [--out FILE]

Cells are drawn at random, the same for all evaluators. Table columns and parameters are ranked on all 15,625 cells too.
Images are of the validation part, evenly by class: 128 for NASWOT (the paper's batch), 64 for scores that take
gradients, 256 for predicted weights. One thread. Seconds are of this machine, under whatever load it had.
"""

import argparse
import json
import os
import platform
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
    found: dict[str, Any] = {"all": {}, "sample": {}}
    for column in COLUMNS:
        evaluator = Tabular(space.tables, column, args.tables)
        for part, cells in (("all", sorted(truth.values)), ("sample", genes)):
            found[part][column] = row(certified(evaluator, space, cells, truth)[column], None)
            print(part, column, found[part][column]["tau"], flush=True)
    for spec, images in LIVE.items():
        evaluator = Resources(space, args.tables, args.data, images=images).make(spec)
        for metric, certificate in certified(evaluator, space, genes, truth).items():
            name = spec if len(evaluator.metrics) == 1 else f"{spec} {metric}"
            found["sample"][name] = row(certificate, images)
            print(name, certificate, flush=True)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "cpus": os.cpu_count()}
    record = {"truth": TRUTH, "n": args.n, "seed": args.seed, "threads": 1, "versions": versions, **found}
    args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
