"""Ideas for GHNs that rank: what several GHNs, GHNs of regions, longer training, and a ranking term give on
NAS-Bench-201.

Run: python benchmarks/rank_ghns.py --tables DIR --data DIR --seeds GHN GHN ... [--runs DIR] [--out FILE]

--seeds: GHNs of different seeds by the recipe ghn2_nasbench201_cpu, the first of which the ideas begin from (`ghn train
ghn2_nasbench201_cpu --set seed=1 --out runs/1`, then runs/1/ghn). Each idea takes a few more steps:

  longer      the plain recipe
  regions     five GHNs, one for each operation on the edge from input to output, each on the cells that have it
              (few-shot NAS: Zhao et al., ICML 2021)
  ranking     on 200 labelled cells (12-epoch validation accuracy), the gradient of each network weighed by that of
              a ranking loss: softplus of the signed difference of losses over all pairs of a meta-batch (ReNAS: Xu et
              al., CVPR 2021), so that a network that stands too well is pushed back
  labelled    the same 200 cells without the ranking term: what the term is to be held against

All score the 1,000 random cells that benchmarks/rank_evaluators.py does, one cell a stage, 256 validation images of 16
pixels; `ranking` and `labelled` are held against the others on those without a label. Means over GHNs are of their
scores. Runs and scores that are there already are kept, as are the rows of --out that are not measured again.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from generate import versions
from rank_evaluators import MOST, SMALL, drawn

import deepnets_gen
import ghn
from deepnets_gen.spaces.nasbench201 import OPS, Nasbench201Genotype
from eval.evaluator import Arch
from eval.learned import pairwise_loss
from eval.predicted import METRICS
from eval.rank import kendall, top
from eval.tabular import Tabular
from search.evaluators import Resources
from search.spaces import make_space
from search.spaces.nasbench201 import operations
from train import runs
from train.config import Recipe, Stage
from train.data import load
from train.log import CSVLog, Log
from train.loop import Trainer
from train.recipes import recipe
from train.step import Job, Trial

DIRECT = 3  # the edge from the cell's input to its output: genes are of the edges sorted by target
LABELS, STEPS, REGION_STEPS, RATE = 200, 200, 100, 1e-3
TEMPERATURE, WEIGHT = 0.1, 0.1  # of the ranking loss, and its share
CHEAP = "cifar10_valid_12"

Keep = Callable[[Nasbench201Genotype], bool]


class OnSome(Trainer):
    """A run on those networks of its pool that `keep` names."""

    keep: Keep

    def _pool(self, part: str, size: int, report: Callable[[str], None]) -> Any:
        pool = super()._pool(part, size, report)
        return replace(pool, genotypes=tuple(filter(self.keep, pool.genotypes))) if part == "train" else pool


class Ranking(OnSome):
    """A run in which a network's gradient counts 1 and what a ranking loss of the meta-batch's losses adds.

    truth: operations -> accuracy.
    """

    truth: Mapping[tuple[str, ...], float]

    def _jobs(self, indices: Sequence[int], places: Sequence[int]) -> dict[int, Job]:
        jobs = super()._jobs(indices, places)
        pool = self._train_pool
        known = {id(jobs[place]): self.truth[pool.genotypes[indices[place]].ops] for place in places}
        self._map = lambda function, arguments: weighed(list(arguments), list(map(function, arguments)), known)
        return jobs


def weighed(arguments: Sequence[Any], trials: Sequence[Trial], truth: Mapping[int, float]) -> list[Trial]:
    """The trials, each gradient times 1 + WEIGHT n dR / d(its loss), R the mean ranking loss over pairs."""
    losses = torch.tensor([trial.loss for trial in trials], requires_grad=True)
    labels = torch.tensor([truth[id(job)] for job, *_ in arguments])
    (slopes,) = torch.autograd.grad(pairwise_loss(-losses / TEMPERATURE, labels), losses)
    factors = (1 + WEIGHT * len(trials) * slopes).tolist()
    return [
        replace(trial, gradients=trial.gradients and tuple(g if g is None else g * factor for g in trial.gradients))
        for trial, factor in zip(trials, factors, strict=True)
    ]


def made(steps: int) -> Recipe:
    """The recipe of NAS-Bench-201 for a few steps more; images shared, so that losses of a meta-batch compare."""
    stage = Stage(steps=steps, image_size=16, images=32, networks=8)
    base = recipe("ghn2_nasbench201_cpu")
    return replace(base, stages=(stage,), lr=RATE, warmup=5, val_networks=0, shared_images=True, seed=100)


def train(kind: type[OnSome], name: str, steps: int, start: Path, args: argparse.Namespace, **fields: Any) -> Path:
    """The folder of the GHN of this idea; trained where it is not there yet."""
    folder = args.runs / name
    if not (folder / "ghn").exists():
        folder.mkdir(exist_ok=True)
        images, held_out = (load(part, args.data) for part in ("train", "val"))
        trainer = kind(made(steps), images, held_out, folder / runs.CHECKPOINTS)
        for field, value in fields.items():
            setattr(trainer, field, value)
        trainer.start_from(ghn.load(str(start)).model.state_dict())
        with Log(CSVLog(folder / "log.csv", 0)) as log:
            trainer.run(log)
        runs.export(folder, folder / "ghn")
    return folder / "ghn"


def scores(name: str, folder: Path, archs: Sequence[Arch], args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Metric -> the score of each cell by this GHN, larger is better; the worst there is where it has none."""
    kept = args.runs / f"{name}.json"
    if not kept.exists():
        evaluator = Resources(make_space("nasbench201"), data=args.data, checkpoint=str(folder), **SMALL).make(
            "predicted"
        )
        kept.write_text(json.dumps([r.metrics or None for r in evaluator.evaluate(archs)]))
    rows = json.loads(kept.read_text())
    columns = {m: [-np.inf if r is None else -r[m] if m == "loss" else r[m] for r in rows] for m in METRICS}
    return {metric: np.array(column) for metric, column in columns.items()}


def taus(found: Mapping[str, np.ndarray], truth: np.ndarray, on: np.ndarray) -> dict[str, list[float]]:
    """Metric -> Kendall's tau on these cells, overall and in the best tenth."""
    real = truth[on]
    best = top(real, len(real) // 10)
    return {m: [round(kendall(s[on], real), 4), round(kendall(s[on][best], real[best]), 4)] for m, s in found.items()}


def mean(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {metric: np.mean([part[metric] for part in parts], axis=0) for metric in METRICS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables")
    parser.add_argument("--data")
    parser.add_argument("--seeds", nargs="+", type=Path, required=True, metavar="GHN")
    parser.add_argument("--only", nargs="*", metavar="IDEA", help="these ideas (default: all)")
    parser.add_argument("--runs", type=Path, default=Path("runs/rank_ghns"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/rank_ghns.json"))
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    space = make_space("nasbench201")
    assert space.truth
    table = Tabular(space.tables, space.truth, args.tables)
    cheap = Tabular(space.tables, CHEAP, args.tables).values
    archs = drawn(space, table, 0)[:MOST]
    truth = np.array([table.values[a.genes] for a in archs])
    start = args.seeds[0]

    by_seed = [scores(f"seed {k}", folder, archs, args) for k, folder in enumerate(args.seeds)]
    of_ops = {operations(genes): value for genes, value in cheap.items()}
    pool = [g.ops for g in deepnets_gen.generate("cells201_train", recipe("ghn2_nasbench201_cpu").corpus)]
    told = set(Random("labels").sample(pool, LABELS))
    keys = {space.arch([OPS.index(op) for op in ops]).key for ops in told}
    unlabelled = np.array([a.key not in keys for a in archs])

    def scored(name: str, kind: type[OnSome], steps: int, **fields: Any) -> dict[str, np.ndarray]:
        return scores(name, train(kind, name, steps, start, args, **fields), archs, args)

    def regions() -> dict[str, np.ndarray]:
        parts = [scored(f"region {op}", OnSome, REGION_STEPS, keep=on_direct(op)) for op in OPS]
        own = np.array([a.genes[DIRECT] for a in archs])
        return {metric: np.choose(own, [part[metric] for part in parts]) for metric in METRICS}

    ideas: dict[str, Callable[[], dict[str, np.ndarray]]] = {
        "longer": lambda: scored("longer", OnSome, STEPS, keep=lambda g: True),
        "labelled": lambda: scored("labelled", OnSome, STEPS, keep=lambda g: g.ops in told),
        "ranking": lambda: scored("ranking", Ranking, STEPS, keep=lambda g: g.ops in told, truth=of_ops),
        "regions": regions,
    }
    found = {name: ideas[name]() for name in args.only or ideas}
    found |= {f"seed {k}": part for k, part in enumerate(by_seed)}
    if len(by_seed) > 1:
        found["mean over seeds"] = mean(by_seed)
    if "longer" in found:
        found["mean of start and longer"] = mean([by_seed[0], found["longer"]])
    everywhere = np.ones(len(archs), dtype=bool)
    record = {
        name: {"all": taus(part, truth, everywhere), "unlabelled": taus(part, truth, unlabelled)}
        for name, part in found.items()
    }
    for name, row in record.items():
        print(name, row, flush=True)
    counts = {"cells": len(archs), "unlabelled": int(unlabelled.sum())}
    before = json.loads(args.out.read_text())["rows"] if args.out.exists() else {}
    args.out.write_text(json.dumps({"machine": versions(), **counts, "rows": before | record}, indent=1) + "\n")


def on_direct(op: str) -> Keep:
    return lambda genotype: genotype.ops[DIRECT] == op


if __name__ == "__main__":
    main()
