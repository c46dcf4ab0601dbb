"""What few labels give: rankers on all of NAS-Bench-201, by what they read, whose labels, how many, and how chosen.

Run: python benchmarks/rank_learned.py --tables DIR [--seeds 5] [--out FILE]

A ranker is told the labels of some cells and ranks all others that make none of the same networks, some 15,000. Labels
are 12-epoch validation accuracies, which a search may see, or the truth itself: 200-epoch test accuracies, as if cells
had been trained to the end; that is what labels could give at best. It reads genes one-hot, the parameters of live
layers, and scores that benchmarks/score_cells.py has measured of every network: those of predicted weights (accuracy,
loss, margin, lead) and zero-cost ones (naswot, jacov, synflow).

`random`: the labelled are drawn from the space, other ones for each seed. `half chosen`: half of them are, and the
other half are those that a ranker told the first half puts on top. Tau is with the truth, of the ranker (`alone`) and
of the mean of where a cell stands by it and by its size (`with size`); `found` is the truly best of the labelled, which
is what a search holds that trains these. Rows that the file holds are kept.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from generate import versions
from score_cells import OUT as SCORES
from search_scores import Recorded, recorded

from eval.certify import TOP
from eval.evaluator import Arch
from eval.learned import Learned
from eval.rank import kendall, percentiles, precision, top
from eval.tabular import Tabular
from search.space import SearchSpace
from search.spaces import make_space

LABELS = {"12 epochs": "cifar10_valid_12", "trained (oracle)": "cifar10_test_200"}
COUNTS = (25, 50, 100, 200, 400)
ZERO_COST = ("naswot", "jacov", "synflow")
FEATURES: dict[str, tuple[str, ...]] = {  # what a ranker reads; `genes`, or an evaluator of score_cells.py
    "genes": ("genes",),
    "genes, params": ("genes", "params"),
    "genes, zero-cost, params": ("genes", *ZERO_COST, "params"),
    "genes, predicted, params": ("genes", "predicted", "params"),
    "predicted, zero-cost, params": ("predicted", *ZERO_COST, "params"),
    "genes, predicted, zero-cost, params": ("genes", "predicted", *ZERO_COST, "params"),
}
Values = Mapping[tuple[int, ...], float]


@dataclass(frozen=True)
class Cells:
    """All cells of the table, the first of each distinct network that has scores, and what is known of them."""

    space: SearchSpace
    archs: Sequence[Arch]
    networks: Sequence[Arch]
    truth: Values
    of: Mapping[str, Recorded]

    @classmethod
    def read(cls, tables: str) -> "Cells":
        space = make_space("nasbench201")
        truth, of = Tabular(space.tables, str(space.truth), tables).values, recorded(SCORES)
        archs = [space.arch(genes) for genes in sorted(truth)]
        distinct: dict[str, Arch] = {}
        for arch in archs:
            distinct.setdefault(arch.key, arch)
        scored = [r.arch for r in of["params"].evaluate(list(distinct.values())) if r.error is None]
        return cls(space, archs, scored, truth, of)

    def rows(self, features: Sequence[str]) -> dict[str, list[float]]:
        """Key of a network -> what stands for it."""
        rows = {a.key: list(self.space.encode(a)) if "genes" in features else [] for a in self.networks}
        for name in (f for f in features if f != "genes"):
            for result in self.of[name].evaluate(self.networks):
                rows[result.arch.key] += [result.metrics[m] for m in self.of[name].metrics]
        return rows

    @cached_property
    def sizes(self) -> dict[str, float]:
        return {r.arch.key: r.metrics["params"] for r in self.of["params"].evaluate(self.networks)}


def labelled(cells: Cells, rows: Mapping[str, list[float]], labels: Values, count: int, seed: int, chosen: bool) -> Any:
    """The ranker told so many labels, its score of every network, and the best truth among the labelled."""
    able = [a for a in cells.archs if a.key in rows]
    told = Random(f"labels {seed}").sample(able, count // 2 if chosen else count)
    ranker, scores = fitted(cells, rows, labels, told, seed)
    if chosen:
        fresh = [a for a in cells.networks if a.key not in ranker.told]
        told += sorted(fresh, key=lambda a: -scores[a.key])[: count - len(told)]
        ranker, scores = fitted(cells, rows, labels, told, seed)
    return ranker, scores, max(cells.truth[a.genes] for a in told)


def fitted(
    cells: Cells, rows: Mapping[str, list[float]], labels: Values, told: Sequence[Arch], seed: int
) -> tuple[Learned, dict[str, float]]:
    ranker = Learned(lambda a: rows[a.key], [(a, labels[a.genes]) for a in told], "val", seed=seed)
    return ranker, {r.arch.key: r.metrics["rank_score"] for r in ranker.evaluate(cells.networks)}


def quality(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Tau overall and in the truly best tenth, and precision there."""
    tenth = round(TOP * len(truth))
    best = top(truth, tenth)
    return {
        "tau": kendall(scores, truth),
        "tau_top": kendall(scores[best], truth[best]),
        "precision": precision(scores, truth, tenth),
    }


def ranked(
    cells: Cells, rows: Mapping[str, list[float]], labels: Values, count: int, seed: int, chosen: bool
) -> dict[str, dict[str, float]]:
    """The quality of the ranker alone and with size on cells that are no network of a labelled one."""
    ranker, scores, found = labelled(cells, rows, labels, count, seed, chosen)
    others = [a for a in cells.archs if a.key not in ranker.told]
    real = np.array([cells.truth[a.genes] for a in others])

    def spread_out(of: Mapping[str, float]) -> np.ndarray:
        return np.array([of.get(a.key, -np.inf) for a in others])  # a cell that is cut off comes last

    alone, size = spread_out(scores), spread_out(cells.sizes)
    both = percentiles(alone) + percentiles(size)
    return {"alone": quality(alone, real), "with size": quality(both, real), "labelled": {"found": found}}


def spread(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Mean and deviation over the seeds."""
    return {
        name: [round(statistics.fmean(r[name] for r in rows), 4), round(statistics.stdev(r[name] for r in rows), 4)]
        for name in rows[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/rank_learned.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells.read(args.tables)
    record = json.loads(args.out.read_text()) if args.out.exists() else {"rows": {}}
    for whose, column in LABELS.items():
        labels = Tabular(cells.space.tables, column, args.tables).values
        for name, features in FEATURES.items():
            rows = cells.rows(features)
            for way in ("random", "half chosen"):
                began, key = time.process_time(), f"{name}; {whose}; {way}"
                if key in record["rows"]:
                    continue
                found = {}
                for count in COUNTS:
                    runs = [ranked(cells, rows, labels, count, seed, way != "random") for seed in range(args.seeds)]
                    found[count] = {how: spread([run[how] for run in runs]) for how in runs[0]}
                print(key, found, f"{time.process_time() - began:.1f} s", flush=True)
                record["rows"][key] = found
                record |= {"machine": versions(), "seeds": args.seeds, "cells": len(cells.archs)}
                args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
