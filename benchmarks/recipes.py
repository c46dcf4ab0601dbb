"""Held-out one-shot accuracy against CPU seconds of training: our recipe, the published one, and other GHNs by ours.

Run: python benchmarks/recipes.py --data DIR [--seconds 450] [--seeds 3] [--workers 2] [--out FILE]
     python benchmarks/recipes.py --data DIR --kinds "ours, ghn3-t" ours --pace 1.2 0.93 --out FILE

All runs train on the same kind of networks and images: the train split with C = 16, at most 160 nodes, no attention
and no squeeze-and-excitation, images of 16 pixels, which are the conditions that the peer's own code was timed under.
`published` trains as the recipe ghn2_cifar10 does, `ours` as ghn2_cifar10_cpu, `shifted` as the latter with shifted
images in batches that are not stratified. `ours, NAME` trains another member of the family, by the recipe
NAME_cifar10_cpu where there is one (`ours, ghn3-t`), else by that of GHN-2: `ours, mlp` and `ours, ghn1` are the
paper's ablations.

Each run is a process of its own with one thread. It may spend CPU seconds, because these machines are shared; loading
data, drawing the pool of networks, and measuring are not counted. The learning rate of our recipe falls to its end, so
its steps are set beforehand from --pace, one for all kinds or one for each. The curve is of 20 networks of the val
split on 500 validation images; at its end the first 20 such networks of the test split are scored on the first 2,000
test images (batch 5).
"""

import argparse
import contextlib
import gc
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks")]

from generate import versions  # noqa: E402

from eval.benchmark import Summary  # noqa: E402
from train.config import Recipe, Stage  # noqa: E402
from train.data import load  # noqa: E402
from train.log import Log, Row  # noqa: E402
from train.loop import Trainer  # noqa: E402
from train.recipes import RECIPES, recipe  # noqa: E402
from train.sampler import PoolSpec, build_pool  # noqa: E402
from train.step import accuracy  # noqa: E402

NODES = 160
CONDITIONS: dict[str, Any] = {"image_size": 16, "channels": 16, "max_nodes": NODES, "without": ("msa", "cse")}
SCORED, VAL_IMAGES, TEST_IMAGES, BATCH = 20, 500, 2000, 64
POINTS = 6  # of a curve
POOL = 4000  # networks of each stage
PEER = {  # the peer's own code under these conditions
    "core_seconds": 1608,  # 13.4 minutes of two cores of a machine like this one
    "steps": 218,
    "mean": 0.198,
    "deviation": 0.013,
    "networks": 20,
    "images": 2000,
}


def published(seed: int) -> Recipe:
    """Adam at 1e-3, eight networks on the same 64 images: the recipe of the paper on small images and networks."""
    stage = Stage(steps=10**6, images=64, networks=8, **CONDITIONS)
    return replace(recipe("ghn2_cifar10"), stages=(stage,), corpus=POOL, milestones=(), seed=seed)


def ours(seed: int, steps: int, member: str) -> Recipe:
    """This member's recipe for CPUs, its stages as long in proportion, on these images and networks."""
    own = f"{member.replace('-', '_')}_cifar10"
    base = recipe(f"{own}_cpu") if f"{own}_cpu" in RECIPES else replace(recipe("ghn2_cifar10_cpu"), ghn=recipe(own).ghn)
    stages = tuple(
        replace(
            stage,
            **CONDITIONS | {"max_nodes": min(stage.max_nodes or NODES, NODES)},
            steps=max(1, round(steps * stage.steps / base.steps)),
        )
        for stage in base.stages
    )
    return replace(base, stages=stages, corpus=POOL, seed=seed)


def shifted(seed: int, steps: int) -> Recipe:
    """Our recipe without what it does about images: they are shifted, too, and a batch may hold any."""
    return replace(ours(seed, steps, "ghn2"), augmentation="cifar", stratified=False)


class Spent(Exception):
    """The run has used up its CPU seconds."""


class Clock:
    """A log that counts a trainer's CPU seconds and stops it, taking its accuracy at even distances.

    measure: the mean accuracy now. Its own seconds are not counted.
    """

    def __init__(self, seconds: float, measure: Callable[[], float]) -> None:
        self.seconds, self.measure = seconds, measure
        self.curve: list[dict[str, float]] = []
        self.paused, self.used, self.steps = 0.0, 0.0, 0
        self.start = time.process_time()

    def write(self, row: Row) -> None:
        self.steps = row.step + 1
        self.used = time.process_time() - self.start - self.paused
        over = self.used >= self.seconds
        if over or self.used >= self.seconds * (len(self.curve) + 1) / POINTS:
            before = time.process_time()
            point = {"seconds": self.used, "steps": self.steps, "mean": self.measure(), "train": row.accuracy}
            self.curve.append(point)
            self.paused += time.process_time() - before
            print(point, file=sys.stderr, flush=True)
        if over:
            raise Spent

    def close(self) -> None: ...


def trained(kind: str, seed: int, seconds: float, pace: float, data: str) -> dict[str, Any]:
    """One run: its curve, and the accuracies of held-out networks on test images at its end."""
    gc.freeze()
    torch.set_num_threads(1)
    name, _, member = kind.partition(", ")
    steps = round(seconds / pace)
    if name == "published":
        made = published(seed)
    elif name == "shifted":
        made = shifted(seed, steps)
    else:
        made = ours(seed, steps, member or "ghn2")
    held_out, test = (held(data, split, images) for split, images in (("val", VAL_IMAGES), ("test", TEST_IMAGES)))
    with tempfile.TemporaryDirectory() as folder:
        trainer = prepared(made, data, folder)
        clock = Clock(seconds, lambda: Summary.of(scores(trainer, held_out)).mean)
        uncounted(trainer, clock)
        with contextlib.suppress(Spent):
            trainer.run(Log(clock))
        final = scores(trainer, test)
    print(f"{kind}, seed {seed}: {Summary.of(final)}", file=sys.stderr, flush=True)
    return {
        "kind": kind,
        "seed": seed,
        "cpu_seconds": clock.used,
        "steps": clock.steps,
        "networks_skipped": trainer.counts.networks_skipped,
        "curve": clock.curve,
        "test": Summary.of(final).to_dict(),
        "test_scores": final,
    }


def prepared(made: Recipe, data: str, folder: str) -> Trainer:
    """The trainer of a recipe, without validation and checkpoints of its own."""
    quiet = replace(made, val_networks=0, save_every=10**9)
    return Trainer(quiet, load("train", data), load("val", data), Path(folder))


def uncounted(trainer: Trainer, clock: Clock) -> None:
    """Takes the drawing of a stage's networks out of what the run has used."""
    enter = trainer._enter_stage

    def entering(report: Callable[[str], None]) -> None:
        before = time.process_time()
        enter(report)
        clock.paused += time.process_time() - before

    trainer._enter_stage = entering


def held(data: str, split: str, images: int) -> tuple[Any, list[Any]]:
    """Networks and batches of images of a split, under the conditions of all runs."""
    spec = PoolSpec(split, SCORED, **CONDITIONS)
    part = load(split, data)
    mixed = (
        torch.arange(images)
        if split == "test"
        else torch.randperm(len(part), generator=torch.Generator().manual_seed(0))[:images]
    )
    return build_pool(spec), list(part.take(mixed).resized(CONDITIONS["image_size"]).batches(BATCH))


def scores(trainer: Trainer, held_out: tuple[Any, list[Any]]) -> list[float]:
    """Top-1 of each held-out network with weights from the averaged GHN."""
    pool, batches = held_out
    return [accuracy(trainer.average, pool.graph(i), pool.module(i), batches) for i in range(len(pool.genotypes))]


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Per kind: mean and deviation over the seeds of the networks' mean accuracy, and the steps taken."""
    found = {}
    for kind in dict.fromkeys(run["kind"] for run in runs):
        mine = [run for run in runs if run["kind"] == kind]
        means = Summary.of([run["test"]["mean"] for run in mine])
        found[kind] = {"seeds": means.to_dict(), "steps": [run["steps"] for run in mine]}
    return found


def record(runs: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """What is written of the runs."""
    return {"versions": versions(), "seconds": seconds, "summary": summary(runs), "peer": PEER, "runs": runs}


def report(results: dict[str, Any]) -> None:
    """The figures in words."""
    print(f"{SCORED} held-out networks, {TEST_IMAGES} test images, after {results['seconds']:.0f} CPU seconds")
    for kind, found in results["summary"].items():
        print(f"  {kind:14s}{Summary(**found['seeds'])} over seeds; steps {found['steps']}")
    print(f"  the peer's own code, {PEER['core_seconds']} core seconds: {PEER['mean']:.1%}, {PEER['steps']} steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR", help="CIFAR-10 (see `ghn data --help`)")
    parser.add_argument("--seconds", type=float, default=450, help="CPU seconds of a run")
    parser.add_argument(
        "--pace", type=float, nargs="+", default=[0.93], help="CPU seconds of one of our steps, to set their number"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--kinds", nargs="*", default=["ours", "published"], help="also shifted, 'ours, mlp' and the like"
    )
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--out", type=Path, help="runs that it holds are kept and not made again")
    args = parser.parse_args()
    if len(args.pace) not in (1, len(args.kinds)):
        parser.error(f"--pace takes one number, or one for each of {len(args.kinds)} kinds")
    pace = dict(zip(args.kinds, args.pace * len(args.kinds), strict=False))
    runs = json.loads(args.out.read_text())["runs"] if args.out and args.out.exists() else []
    made = {(run["kind"], run["seed"]) for run in runs}
    wanted = [(kind, seed) for seed in range(args.seeds) for kind in args.kinds if (kind, seed) not in made]
    with ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        waiting = [pool.submit(trained, kind, seed, args.seconds, pace[kind], args.data) for kind, seed in wanted]
        for each in waiting:
            runs.append(each.result())
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps(record(runs, args.seconds), indent=1) + "\n")
    report(record(runs, args.seconds))


if __name__ == "__main__":
    main()
