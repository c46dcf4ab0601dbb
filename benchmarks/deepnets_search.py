"""A search from one end to the other on real images: DeepNets by the shipped GHN's one-shot accuracy, then training.

Run: python benchmarks/deepnets_search.py --data DIR --work DIR [--out FILE]

Networks of 16 channels and at most 10 million multiply-adds, images of 16 pixels. Evolution and random search get the
same 30 evaluations, each on 256 validation images of CIFAR-10; the best two of evolution are trained from predicted
weights and the winner is what 1,000 validation images prefer. Then the winner, the best of random search and a random
network of the winner's size (within a fifth) are trained with three seeds, which give all of them the same images, from
predicted weights, and the first and the last from He's initialisation too; accuracy is that on 1,000 test images, which
nothing was chosen by. One thread; a run that was cut off goes on from --work.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from generate import versions

import ghn
from eval.evaluator import Arch
from eval.finetune import FEW_SHOT, Parts, Start, tune
from eval.images import SearchImages
from eval.predicted import Predicted
from eval.wrap import Joined
from eval.zerocost import ZeroCost
from search.budget import Budget
from search.driver import Outcome, search
from search.finish import finalists, finish, subject_of
from search.history import History
from search.objective import Limit, Maximise, Objective
from search.spaces.deepnets import DeepNets
from search.strategies import make_strategy

SIDE, EVALUATIONS, FINALISTS, SEEDS = 16, 30, 2, (0, 1, 2)
MOST = 1e7  # multiply-adds
SCHEDULE = replace(FEW_SHOT, steps=60, lr=0.03, weight_decay=3e-4)
OBJECTIVE = Objective((Maximise("accuracy"),), (Limit("flops", MOST),))
STRATEGIES: dict[str, dict[str, int]] = {"evolution": {"population": 12, "sample": 4}, "random": {}}


def found_by(name: str, space: DeepNets, evaluator: Joined, work: Path) -> Outcome:
    """What this strategy finds; recorded, so that it is done once."""
    strategy = make_strategy(name, space, OBJECTIVE, 0, **STRATEGIES[name])
    header = {"strategy": name, "evaluator": evaluator.fingerprint, "budget": EVALUATIONS}
    with History.open(work / f"{name}.jsonl", header, space) as history:
        return search(strategy, evaluator, Budget(EVALUATIONS), history=history)


def like(space: DeepNets, arch: Arch, flops: ZeroCost) -> Arch:
    """A random network with as many parameters, within a fifth, and within the limit."""
    rng, wanted = Random(1), space.graph(arch, 10, SIDE).num_params
    while True:
        other = space.sample(rng)
        if abs(space.graph(other, 10, SIDE).num_params / wanted - 1) < 0.2 and other.key != arch.key:
            found = flops.evaluate([other])[0]
            if found.error is None and found.metrics["flops"] <= MOST:
                return other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/deepnets_search.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    began, hyper, space = time.process_time(), ghn.load("ghn2-cifar10"), DeepNets(channels=16)
    flops = ZeroCost("flops", space, None, SIDE)
    evaluator = Joined([Predicted(hyper, space, SearchImages.load(args.data, "val", 256, SIDE)), flops])
    parts = Parts.load(args.data, side=SIDE, val=1000, test=1000)
    outcomes = {name: found_by(name, space, evaluator, args.work) for name in STRATEGIES}
    searched = time.process_time()
    chosen = finalists(outcomes["evolution"].results, OBJECTIVE, FINALISTS)
    predicted, he = Start("predicted", hyper), Start("kaiming")
    last = finish(space, chosen, predicted, replace(parts, shown=parts.val), SCHEDULE, folder=args.work / "finalists")
    winner = last[0].result.arch
    networks = {
        "winner": (winner, (predicted, he)),
        "best of random search": (outcomes["random"].best[0].arch, (predicted,)),
        "random network of equal size": (like(space, winner, flops), (predicted, he)),
    }
    record: dict[str, Any] = {
        "versions": versions(),
        "cpu_seconds_of_search": round(searched - began, 1),
        "searches": {
            name: {"best": o.best[0].metrics["accuracy"], "failed": sum(r.error is not None for r in o.results)}
            for name, o in outcomes.items()
        },
        "finalists": [
            {"one_shot": f.result.metrics["accuracy"], "val": f.curve.val, "error": f.curve.error} for f in last
        ],
        "rows": [],
    }
    for name, (arch, starts) in networks.items():
        subject = subject_of(space, arch, 10, SIDE)
        for start in starts:
            folder = args.work / name.replace(" ", "_")
            curves = [tune(subject, start, parts, SCHEDULE, seed, folder=folder) for seed in SEEDS]
            accuracy = np.array([c.accuracy for c in curves])
            row = {
                "network": name,
                "genes": list(arch.genes),
                "params": subject.graph.num_params,
                "start": start.name,
                "steps": list(curves[0].steps),
                "mean": accuracy.mean(0).round(4).tolist(),
                "deviation": accuracy.std(0, ddof=1).round(4).tolist(),
                "last": accuracy[:, -1].tolist(),
            }
            record["rows"].append(row)
            print(name, row["params"], start.name, row["steps"], row["mean"], row["last"], flush=True)
            record["cpu_seconds"] = round(time.process_time() - began, 1)
            args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
