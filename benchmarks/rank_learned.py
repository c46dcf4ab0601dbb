"""What few labels give: rankers on NAS-Bench-201, by what they read, whose labels, and how many.

Run: python benchmarks/rank_learned.py --tables DIR [--checkpoint GHN] [--scores FILE] [--out FILE]

The 1,000 cells of rank_evaluators.py are divided anew by every seed: from 200 labels are taken (the first 50 of them,
100, all), the others are ranked, but for those that are the same network as one of the 200. Labels are 12-epoch
validation accuracies, which a search may see, or the truth itself: 200-epoch test accuracies, as if cells had been
trained to the end; that is what labels could give at best. A ranker reads the genes one-hot, the parameters of live
layers, the embedding by a GHN, and scores that rank_evaluators.py has measured. Tau is with the truth.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rank_evaluators import MOST, SMALL, TRUTH, drawn

from eval.certify import TOP
from eval.evaluator import Arch
from eval.learned import Learned
from eval.rank import kendall, precision, top
from eval.tabular import Tabular
from search.evaluators import ENCODINGS, Resources
from search.spaces import make_space

LABELS = {"12 epochs": "cifar10_valid_12", "200 epochs (oracle)": TRUTH["nasbench201"]}
COUNTS = (50, 100, 200)
Columns = dict[tuple[int, ...], list[float]]


def read(scores: Path, row: str) -> Columns:
    """Genes -> the metrics of this row of the file of scores, seed 0."""
    records = [json.loads(line) for line in scores.read_text().splitlines()]
    wanted = (r for r in records if (r["row"], r["space"], r["seed"]) == (row, "nasbench201", 0) and r["metrics"])
    return {tuple(map(int, r["genes"])): list(r["metrics"].values()) for r in wanted}


def encoded(encode: Callable[[Arch], Sequence[float]], archs: Sequence[Arch]) -> Columns:
    """Genes -> encoding, of the cells that have one."""
    found: Columns = {}
    for arch in archs:
        try:
            found[arch.genes] = list(encode(arch))
        except ValueError:  # cut off: no network
            continue
    return found


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


def ranked(columns: Columns, archs: Sequence[Arch], labels: Tabular, truth: Tabular, seed: int) -> dict[int, Any]:
    """Number of labels -> quality on the cells that are not among them."""
    order = np.random.default_rng(seed).permutation(len(archs))
    shuffled = [archs[i] for i in order]
    told = {a.key for a in shuffled[: max(COUNTS)]}
    others = [a for a in shuffled[max(COUNTS) :] if a.key not in told]
    real = np.array([truth.values[a.genes] for a in others])
    found = {}
    for count in COUNTS:
        taught = [(a, labels.values[a.genes]) for a in shuffled[:count] if a.genes in columns]
        ranker = Learned(lambda a: columns[a.genes], taught, "val", seed=seed)
        known = iter(ranker.evaluate([a for a in others if a.genes in columns]))
        scores = [next(known).metrics["rank_score"] if a.genes in columns else -np.inf for a in others]
        found[count] = quality(np.array(scores), real)
    return found


def beside(*parts: Columns) -> Columns:
    """The columns of all parts, of the cells that all of them have."""
    common = set.intersection(*(set(p) for p in parts))
    return {genes: [x for part in parts for x in part[genes]] for genes in common}


def features(args: argparse.Namespace, archs: Sequence[Arch]) -> dict[str, Columns]:
    """What rankers read, by name; of GHNs and measured scores what is there."""
    space = make_space("nasbench201")
    sets = {"genes": encoded(space.encode, archs)}
    params = read(args.scores, "params")
    sets["genes, params"] = beside(sets["genes"], params)
    if args.checkpoint:
        resources = Resources(space, args.tables, checkpoint=args.checkpoint, **SMALL)
        sets["ghn"] = encoded(ENCODINGS["ghn"](resources), archs)
        sets["genes, ghn, params"] = beside(sets["genes"], sets["ghn"], params)
        if predicted := read(args.scores, "predicted, small"):
            sets["predicted, params"] = beside(predicted, params)
            sets["ghn, predicted, params"] = beside(sets["ghn"], predicted, params)
            sets["genes, ghn, predicted, params"] = beside(sets["genes"], sets["ghn"], predicted, params)
    return sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables")
    parser.add_argument("--checkpoint", help="GHN whose embeddings and scores are read, if any")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scores", type=Path, default=Path("runs/rank_scores.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/rank_learned.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    space = make_space("nasbench201")
    truth = Tabular(space.tables, TRUTH["nasbench201"], args.tables)
    archs = drawn(space, truth, 0)[:MOST]
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name, columns in features(args, archs).items():
        for whose, column in LABELS.items():
            key, began = f"{name}; labels of {whose}", time.process_time()
            if key in found:
                continue
            labels = Tabular(space.tables, column, args.tables)
            runs = [ranked(columns, archs, labels, truth, seed) for seed in range(args.seeds)]
            found[key] = {count: spread([run[count] for run in runs]) for count in COUNTS}
            print(key, found[key], f"{time.process_time() - began:.1f} s", flush=True)
            args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
