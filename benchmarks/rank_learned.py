"""What few labels give: rankers on NAS-Bench-201, by what they read, whose labels, and how many.

Run: python benchmarks/rank_learned.py --tables DIR [--scores FILE] [--seeds N] [--out FILE]

The 1,000 cells of rank_evaluators.py are divided anew by every seed: from 200 labels are taken (the first 25 of them,
50, 100, all), the others are ranked, but for those that are the same network as one of the 200. Labels are 12-epoch
validation accuracies, which a search may see; the same blended with size (mean of where a cell stands by each among the
labelled); or the truth itself: 200-epoch test accuracies, as if cells had been trained to the end; that is what labels
could give at best. A ranker reads the genes one-hot, parameters of live layers, and scores that rank_evaluators.py has
measured: those of predicted weights (accuracy, loss, margin) and zero-cost ones (naswot, jacov, synflow). Tau is with
the truth, of the ranker (`alone`) and of the mean of where a cell stands by it and by its size (`with size`).
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rank_evaluators import MOST, drawn

from eval.certify import TOP
from eval.evaluator import Arch
from eval.learned import Learned
from eval.rank import kendall, percentiles, precision, top
from eval.tabular import Tabular
from search.spaces import make_space

LABELS = {
    "12 epochs": "cifar10_valid_12",
    "12 epochs, size": "cifar10_valid_12",
    "200 epochs (oracle)": "cifar10_test_200",
}
COUNTS = (25, 50, 100, 200)
ZERO_COST = ("naswot, small", "jacov, small", "synflow, small")
Columns = dict[tuple[int, ...], list[float]]


def read(scores: Path, row: str) -> Columns:
    """Genes -> the metrics of this row of the file of scores, seed 0."""
    records = [json.loads(line) for line in scores.read_text().splitlines()]
    wanted = (r for r in records if (r["row"], r["space"], r["seed"]) == (row, "nasbench201", 0) and r["metrics"])
    return {tuple(map(int, r["genes"])): list(r["metrics"].values()) for r in wanted}


def quality(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Tau overall and in the truly best tenth, and precision there."""
    tenth = round(TOP * len(truth))
    best = top(truth, tenth)
    return {
        "tau": kendall(scores, truth),
        "tau_top": kendall(scores[best], truth[best]),
        "precision": precision(scores, truth, tenth),
    }


def spread(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Mean and deviation over the seeds."""
    return {
        name: [round(statistics.fmean(r[name] for r in rows), 4), round(statistics.stdev(r[name] for r in rows), 4)]
        for name in rows[0]
    }


def ranked(
    columns: Columns, sizes: Columns, archs: Sequence[Arch], labels: Tabular, truth: Tabular, seed: int, blend: bool
) -> dict[int, Any]:
    """Number of labels -> quality on the cells that are not among them. blend: of labels with size."""
    order = np.random.default_rng(seed).permutation(len(archs))
    shuffled = [archs[i] for i in order]
    told = {a.key for a in shuffled[: max(COUNTS)]}
    others = [a for a in shuffled[max(COUNTS) :] if a.key not in told]
    able = [a for a in others if a.genes in columns]
    real = np.array([truth.values[a.genes] for a in others])
    found = {}
    for count in COUNTS:
        taught = [a for a in shuffled[:count] if a.genes in columns]
        values = np.array([labels.values[a.genes] for a in taught])
        if blend:
            values = percentiles(values) + percentiles(np.array([sizes[a.genes][0] for a in taught]))
        ranker = Learned(lambda a: columns[a.genes], list(zip(taught, values.tolist(), strict=True)), "val", seed=seed)
        scores = np.array([r.metrics["rank_score"] for r in ranker.evaluate(able)])
        both = percentiles(scores) + percentiles(np.array([sizes[a.genes][0] for a in able]))
        found[count] = {
            name: quality(_spread_out(values, able, others), real)
            for name, values in (("alone", scores), ("with size", both))
        }
    return found


def _spread_out(values: np.ndarray, able: Sequence[Arch], others: Sequence[Arch]) -> np.ndarray:
    """The values of those that have one at their places among all; the rest worst."""
    known = dict(zip((a.genes for a in able), values, strict=True))
    return np.array([known.get(a.genes, -np.inf) for a in others])


def beside(*parts: Columns) -> Columns:
    """The columns of all parts, of the cells that all of them have."""
    common = set.intersection(*(set(p) for p in parts))
    return {genes: [x for part in parts for x in part[genes]] for genes in common}


def features(scores: Path, archs: Sequence[Arch]) -> dict[str, Columns]:
    """What rankers read, by name."""
    size, encode = read(scores, "params"), make_space("nasbench201").encode
    genes = {a.genes: encode(a) for a in archs if a.genes in size}  # the others are cut off: no network
    predicted, zero = read(scores, "predicted, small"), beside(*(read(scores, row) for row in ZERO_COST))
    return {
        "genes": genes,
        "genes, params": beside(genes, size),
        "predicted, params": beside(predicted, size),
        "genes, predicted, zero-cost, params": beside(genes, predicted, zero, size),
        "genes, zero-cost, params": beside(genes, zero, size),
        "predicted, zero-cost, params": beside(predicted, zero, size),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scores", type=Path, default=Path("runs/rank_scores.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/rank_learned.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    space = make_space("nasbench201")
    truth = Tabular(space.tables, str(space.truth), args.tables)
    archs = drawn(space, truth, 0)[:MOST]
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    sizes = read(args.scores, "params")
    for name, columns in features(args.scores, archs).items():
        for whose, column in LABELS.items():
            key, began = f"{name}; labels of {whose}", time.process_time()
            if key in found:
                continue
            labels = Tabular(space.tables, column, args.tables)
            runs = [ranked(columns, sizes, archs, labels, truth, seed, "size" in whose) for seed in range(args.seeds)]
            found[key] = {
                count: {how: spread([run[count][how] for run in runs]) for how in runs[0][count]} for count in COUNTS
            }
            print(key, found[key], f"{time.process_time() - began:.1f} s", flush=True)
            args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
