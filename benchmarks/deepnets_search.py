"""A search from one end to the other on real images: DeepNets by the shipped GHN's one-shot accuracy, then training.

Run: python benchmarks/deepnets_search.py --data DIR --work DIR [--out FILE]

Networks of the space's own 32 channels and at most 80 million multiply-adds on images of 32 pixels: what the GHN was
trained on last. For each of three seeds evolution and random search get the same 100 evaluations, each on 256
validation images of CIFAR-10. Their winners, and a random network with as many parameters as evolution's (within a
fifth), are trained from predicted weights and from He's initialisation, with the same images in the same order, at
whichever of two rates 1,000 validation images prefer with the first seed; accuracy is that on 1,000 test images, which
nothing was chosen by. The spread is over searches. `narrow`: how the same networks of 16 channels score, with which
this benchmark searched once. `other_images`: how far the scores of the first random search are the networks' and not
the images': tau, deviation and the winner's accuracy on 768 other validation images.
One thread; a run that was cut off goes on from --work.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from generate import versions

import ghn
from eval.evaluator import Arch, Result
from eval.finetune import FEW_SHOT, Parts, Start, tune
from eval.images import SearchImages
from eval.predicted import Predicted
from eval.rank import kendall
from eval.wrap import Joined
from eval.zerocost import ZeroCost
from ghn.hyper import Hypernet
from search.budget import Budget
from search.driver import Outcome, search
from search.finish import subject_of
from search.history import History
from search.objective import Limit, Maximise, Objective
from search.spaces.deepnets import DeepNets
from search.strategies import make_strategy

SIDE, EVALUATIONS, SEEDS = 32, 100, (0, 1, 2)
MOST = 8e7  # multiply-adds
SCHEDULE, RATES = replace(FEW_SHOT, steps=60, weight_decay=3e-4), (0.003, 0.03)
OBJECTIVE = Objective((Maximise("accuracy"),), (Limit("flops", MOST),))
STRATEGIES: dict[str, dict[str, int]] = {"evolution": {"population": 20, "sample": 5}, "random": {}}
MARKS = (30, 50, 100)  # evaluations after which the best so far is told
NARROW, SOME = 16, 30  # channels, and networks of these


def evaluator(hyper: Hypernet, space: DeepNets, data: str) -> Joined:
    images = SearchImages.load(data, "val", 256, SIDE)
    return Joined([Predicted(hyper, space, images), ZeroCost("flops", space, None, SIDE)])


def found_by(name: str, space: DeepNets, scores: Joined, seed: int, work: Path) -> Outcome:
    """What this strategy finds; recorded, so that it is done once."""
    strategy = make_strategy(name, space, OBJECTIVE, seed, **STRATEGIES[name])
    header = {"strategy": name, "evaluator": scores.fingerprint, "budget": EVALUATIONS, "seed": seed}
    with History.open(work / f"{name}-{seed}.jsonl", header, space) as history:
        return search(strategy, scores, Budget(EVALUATIONS), history=history)


def told(outcome: Outcome) -> dict[str, Any]:
    """The best so far at each mark, and what the evaluations were like."""
    values = [v[0] if (v := OBJECTIVE.values(r)) is not None else 0.0 for r in outcome.results]
    best = list(accumulate(values, max))
    within = [v for v in values if v]
    return {
        "best": {str(mark): best[mark - 1] for mark in MARKS},
        "first_half": statistics.fmean(within[: len(within) // 2]),
        "second_half": statistics.fmean(within[len(within) // 2 :]),
        "beyond_the_limit_or_failed": len(values) - len(within),
    }


def like(space: DeepNets, arch: Arch, seed: int) -> Arch:
    """A random network with as many parameters, within a fifth, and within the limit."""
    rng, wanted = Random(f"like {seed}"), space.graph(arch, 10, SIDE).num_params
    flops = ZeroCost("flops", space, None, SIDE)
    while True:
        other = space.sample(rng)
        if abs(space.graph(other, 10, SIDE).num_params / wanted - 1) < 0.2 and other.key != arch.key:
            found = flops.evaluate([other])[0]
            if found.error is None and found.metrics["flops"] <= MOST:
                return other


def trained(
    space: DeepNets, arch: Arch, start: Start, parts: Parts, rate: float, seed: int, folder: Path
) -> dict[str, Any]:
    subject = subject_of(space, arch, 10, SIDE)
    curve = tune(subject, start, parts, replace(SCHEDULE, lr=rate), seed, folder=folder)
    size = {"genes": list(arch.genes), "params": subject.graph.num_params, "rate": rate, "val": curve.val}
    return {**size, "steps": list(curve.steps), "accuracy": list(curve.accuracy), "error": curve.error}


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Network -> start -> accuracy before and after training, mean and deviation over the searches."""
    table: dict[str, Any] = {}
    for network, starts in runs[0]["networks"].items():
        for start in starts:
            ends = [[r["networks"][network][start]["accuracy"][i] for r in runs] for i in (0, -1)]
            table[f"{network}, {start}"] = {
                when: [round(statistics.fmean(x), 4), round(statistics.stdev(x), 4)]
                for when, x in zip(("step 0", "last step"), ends, strict=True)
            }
    return table


def other_images(hyper: Hypernet, space: DeepNets, data: str, results: Sequence[Result]) -> dict[str, Any]:
    """The scores of these results beside those on validation images that had no part in them."""
    val = SearchImages.load(data, "val", 1024, SIDE).images  # classes take turns: the first 256 are those of the search
    rest = SearchImages(val.take(torch.arange(256, 1024)), "val")
    within = [r for r in results if OBJECTIVE.values(r) is not None]
    again = Predicted(hyper, space, rest).evaluate([r.arch for r in within])
    first, second = (np.array([r.metrics["accuracy"] for r in rows]) for rows in (within, again))
    return {
        "n": len(within),
        "tau": kendall(first, second),
        "deviation": [float(first.std(ddof=1)), float(second.std(ddof=1))],
        "winner": [float(first.max()), float(second[first.argmax()])],
        "mean": [float(first.mean()), float(second.mean())],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/deepnets_search.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    began, hyper, space = time.process_time(), ghn.load("ghn2-cifar10"), DeepNets()
    scores, parts = evaluator(hyper, space, args.data), Parts.load(args.data, side=SIDE, val=1000, test=1000)
    runs: list[dict[str, Any]] = []
    starts, rates = (Start("predicted", hyper), Start("kaiming")), dict[str, tuple[float]]()
    record: dict[str, Any] = {"versions": versions(), "evaluations": EVALUATIONS, "narrow": narrow(hyper, args.data)}
    for seed in SEEDS:
        outcomes = {name: found_by(name, space, scores, seed, args.work) for name in STRATEGIES}
        if "other_images" not in record:
            record["other_images"] = other_images(hyper, space, args.data, outcomes["random"].results)
        winners = {f"best of {name}": outcome.best[0].arch for name, outcome in outcomes.items()}
        winners["random of equal size"] = like(space, winners["best of evolution"], seed)
        run: dict[str, Any] = {"seed": seed, "searches": {n: told(o) for n, o in outcomes.items()}, "networks": {}}
        folders = {name: args.work / f"{name.replace(' ', '_')}-{seed}" for name in winners}
        for start in starts:
            tried = {
                rate: {n: trained(space, a, start, parts, rate, seed, folders[n]) for n, a in winners.items()}
                for rate in rates.get(start.name, RATES)
            }
            best = max(tried, key=lambda rate: statistics.fmean(e["val"] for e in tried[rate].values()))
            rates[start.name] = (best,)
            for name, found in tried[best].items():
                run["networks"].setdefault(name, {})[start.name] = found
        runs.append(run)
        print(json.dumps(run), flush=True)
        record |= {"runs": runs, "cpu_seconds": round(time.process_time() - began, 1)}
        if len(runs) > 1:
            record["summary"] = summary(runs)
        args.out.write_text(json.dumps(record, indent=1) + "\n")


def narrow(hyper: Hypernet, data: str) -> dict[str, list[float]]:
    """Channels -> one-shot accuracies of random networks, ascending."""
    rows = {}
    for channels in (NARROW, DeepNets().channels):
        space, rng = DeepNets(channels=channels), Random(0)
        results = evaluator(hyper, space, data).evaluate([space.sample(rng) for _ in range(SOME)])
        rows[str(channels)] = sorted(r.metrics["accuracy"] for r in results if r.error is None)
    return rows


if __name__ == "__main__":
    main()
