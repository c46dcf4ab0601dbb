"""CPU seconds per stage, and peak memory, of one training step of a GHN-2, ours and a plainly written one.

Run: python benchmarks/train_step.py [--quick] [--rounds 12] [--threads 1] [--out benchmarks/results/train_step.json]

A step is the paper's: 8 networks of the train split, 64 images of 32 pixels, the GHN-2 of the published checkpoint.
`ours` is a step of `train.loop.Trainer`; `literal` is benchmarks/literal_step.py, which tests/test_literal_step.py
holds to the same gradients; `lean` is ours with what more networks compute calculated twice, to save memory (the
recipe's `recompute_above`). Each has a process of its own, so that none warms another's memory, and they take turns,
one step at a time, on the same networks; every network is new to all, as nearly all of them are in a run on 100,000. A
ratio's interval is the middle 95% of the ratios of 2,000 resamplings of the rounds. What lowers the networks' own
forward and backward, or does not, is measured by benchmarks/step_floor.py and told here too.
"""

import argparse
import gc
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import literal_step  # noqa: E402
import step_floor  # noqa: E402
from generate import bootstrap, spread, versions  # noqa: E402

import train.loop  # noqa: E402
import train.step  # noqa: E402
from ghn.model import GHN  # noqa: E402
from ghn.propagate.gated import GatedGNN  # noqa: E402
from train.data import load_sample  # noqa: E402
from train.recipes import recipe  # noqa: E402
from train.sampler import Pool  # noqa: E402

WAYS = ("literal", "ours", "lean")
LEAN = {"recompute_above": 512}
NETWORKS = ("networks forward", "networks backward")  # the floor
STAGES = ("reading", "building", "GHN forward", "sweep", *NETWORKS, "GHN backward", "optimiser")
PEER = {  # the published code on two cores of a machine like this one, wall seconds of a step
    "step": 19.9,
    "reading": 0.07,
    "building": 0.4,
    "GHN forward": 1.8,
    "sweep": 1.3,
    "networks forward": 5.8,
    "networks backward": 12.3,  # the GHN's backward pass included
    "peak_mib": 6800,
}


class Bench:
    """What a process of either way holds: a trainer, of which `literal` uses the GHN, the networks and the images."""

    def __init__(self, way: str, settings: dict[str, Any], threads: int) -> None:
        gc.freeze()  # as `ghn train` does
        torch.set_num_threads(threads)
        images = load_sample()
        changes = [f"{key}={value}" for key, value in (settings | (LEAN if way == "lean" else {})).items()]
        chosen = recipe("ghn2_cifar10").changed(["val_networks=0", *changes])
        self.way = way
        self.folder = tempfile.TemporaryDirectory()
        self.trainer = train.loop.Trainer(chosen, images, images, Path(self.folder.name))
        self.trainer._enter_stage(lambda message: None)
        self.before = step_floor.peak_mib()

    def step(self) -> dict[str, Any]:
        """One step: seconds of CPU and wall, seconds of each stage, the loss."""
        cpu, wall = time.process_time(), time.perf_counter()
        loss, stages = self._literal() if self.way == "literal" else self._ours()
        return {
            "cpu": time.process_time() - cpu,
            "wall": time.perf_counter() - wall,
            "stages": stages,
            "loss": loss,
            "peak_mib": step_floor.peak_mib(),
            "before_mib": self.before,
        }

    def _ours(self) -> tuple[float, dict[str, float]]:
        with timed(self.trainer) as seconds:
            loss = self.trainer._step().loss
        return loss, seconds

    def _literal(self) -> tuple[float, dict[str, float]]:
        trainer, stage = self.trainer, self.trainer.recipe.stages[0]
        pool, counts = trainer._train_pool, trainer.counts
        genotypes = [pool.genotypes[i] for i in pool.drawn(counts.networks_drawn, stage.networks)]
        images, labels = trainer._train_images.draw(stage.images, torch.Generator().manual_seed(counts.step))
        outcome = literal_step.step(trainer.ghn, trainer.optimiser, genotypes, images, labels)
        counts.networks_drawn += len(genotypes)
        counts.step += 1
        seconds = outcome.seconds
        seconds["GHN forward"] = seconds["sweep"] + seconds.pop("decoding")
        return sum(outcome.losses) / len(outcome.losses), seconds


@contextmanager
def timed(trainer: train.loop.Trainer) -> Generator[dict[str, float]]:
    """CPU seconds of each stage of the trainer's steps within; the sweep is a part of the GHN's forward pass."""
    seconds = dict.fromkeys(STAGES, 0.0)
    places = (
        (Pool, "graph", "reading"),
        (Pool, "module", "building"),
        (GHN, "collate", "GHN forward"),
        (GHN, "forward", "GHN forward"),
        (GatedGNN, "forward", "sweep"),
        (train.step, "functional", "networks forward"),
        (torch.autograd, "grad", "networks backward"),
        (torch.autograd, "backward", "GHN backward"),
        (torch.nn.utils, "clip_grad_norm_", "optimiser"),
        (trainer.optimiser, "step", "optimiser"),
        (train.loop, "update_average", "optimiser"),
    )

    def clocked(function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[stage] += time.process_time() - start

        return call

    with ExitStack() as stack:
        for owner, name, stage in places:
            stack.enter_context(patch.object(owner, name, clocked(getattr(owner, name), stage)))
        yield seconds


_bench: Bench | None = None  # of this process


def _start(way: str, settings: dict[str, Any], threads: int) -> None:
    global _bench
    _bench = Bench(way, settings, threads)


def _step() -> dict[str, Any]:
    assert _bench is not None
    return _bench.step()


def stepping(settings: dict[str, Any], rounds: int, threads: int) -> dict[str, Any]:
    """Steps of all ways in turn, a process each; the first round warms up and is left out."""
    context = multiprocessing.get_context("spawn")
    steps: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with ExitStack() as stack:
        processes = {
            way: stack.enter_context(ProcessPoolExecutor(1, context, _start, (way, settings, threads))) for way in WAYS
        }
        for turn in range(rounds + 1):
            for way in WAYS if turn % 2 else WAYS[::-1]:
                steps[way].append(processes[way].submit(_step).result())
                print(f"round {turn} of {rounds}, {way}: {steps[way][-1]['cpu']:.1f} s", file=sys.stderr, flush=True)
    result = {way: summary(steps[way][1:]) for way in WAYS}
    cpu = {way: [step["cpu"] for step in steps[way][1:]] for way in WAYS}
    result["literal_over_ours"] = bootstrap(cpu["literal"], cpu["ours"])
    rest = [step["cpu"] - sum(step["stages"][stage] for stage in NETWORKS) for step in steps["ours"][1:]]
    result["ours_outside_networks"] = bootstrap(rest, cpu["ours"])
    result["lean_over_ours"] = bootstrap(cpu["lean"], cpu["ours"])
    for way in WAYS[1:]:
        result[f"peak_{way}_over_literal"] = result[way]["peak_mib"] / result["literal"]["peak_mib"]
    return result


def summary(steps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Median and quartiles of everything; peak memory of the process, and what it had before the first step."""
    return {
        **{clock: spread([step[clock] for step in steps]) for clock in ("cpu", "wall")},
        "stages": {stage: spread([step["stages"][stage] for step in steps]) for stage in STAGES},
        "peak_mib": steps[-1]["peak_mib"],
        "before_mib": steps[-1]["before_mib"],
        "loss": [step["loss"] for step in steps],
    }


def report(results: dict[str, Any]) -> None:
    """The figures in words."""
    made = results["step"]
    print("one step, CPU seconds: median (quartiles)" + " " * 5 + "".join(f"{way:>24s}" for way in (*WAYS, "peer")))
    for stage in ("step", *STAGES):
        cells = [made[way]["cpu"] if stage == "step" else made[way]["stages"][stage] for way in WAYS]
        texts = [f"{c['median']:.3f} ({c['q1']:.3f}-{c['q3']:.3f})" for c in cells]
        print(f"  {stage:42s}" + "".join(f"{t:>24s}" for t in texts) + f"{PEER.get(stage, ''):>24}")
    peaks = [made[way]["peak_mib"] for way in WAYS]
    print(f"  {'peak memory, MiB':42s}" + "".join(f"{p:24.0f}" for p in (*peaks, PEER["peak_mib"])))
    for key, text in (
        ("literal_over_ours", "the literal step takes {:.2f} times as long as ours ({:.2f}-{:.2f})"),
        ("ours_outside_networks", "everything but the networks: {:.1%} of our step ({:.1%}-{:.1%})"),
        ("lean_over_ours", "the lean step takes {:.2f} times as long as ours ({:.2f}-{:.2f})"),
    ):
        print(text.format(*(made[key][k] for k in ("ratio", "low", "high"))))
    for way in WAYS[1:]:
        print(f"peak memory, {way}: {made[f'peak_{way}_over_literal']:.2f} of the literal step's")
    step_floor.report(results["floor"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a smoke run on small networks; its figures mean little")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rounds = 2 if args.quick else args.rounds
    settings: dict[str, Any] = {"corpus": 8 * (rounds + 1)}
    if args.quick:
        small = {"networks": 4, "images": 16, "max_nodes": 150, "max_macs": 4 * 10**7}
        settings = {"corpus": 4 * (rounds + 1), **{f"stages.0.{key}": value for key, value in small.items()}}
    results = {
        "settings": settings,
        "step": stepping(settings, rounds, args.threads),
        "floor": step_floor.measure(args.quick, args.threads),
        "peer": PEER,
    }
    report(results)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        record = {"versions": versions(), "threads": args.threads, **results}
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
