"""What lowers the networks' own forward and backward passes, the floor of a training step, and what does not.

Each way of running a network is timed on the same networks with the same weights and images, in turn, warm; a ratio
is of the total CPU seconds over all networks, with its 95% interval over resampled networks. `benchmarks/train_step.py`
runs it.
"""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from generate import bootstrap, spread
from literal_step import replaced
from torch import Tensor
from torch.nn import functional as F

import deepnets_gen
from ghn.model import GHN, GHNConfig
from ghn.primitives import Primitive
from train.data import load_sample
from train.fast import quicken
from train.recompute import recomputing

SIDE, IMAGES = 32, 64
MOST = 128  # images of a network


@dataclass(frozen=True)
class Way:
    """How a network is run. images: at a time. recompute: activations inside cells, in the backward pass."""

    channels_last: bool = True
    fast: bool = True
    bf16: bool = False
    recompute: bool = False
    images: int = IMAGES


WAYS = {
    "ours": Way(),
    "plain convolutions": Way(fast=False),
    "plain": Way(channels_last=False, fast=False),
    "bf16": Way(bf16=True),
    "recompute": Way(recompute=True),
    "32 images": Way(images=32),
    "128 images": Way(images=128),
}
PAIRS = {  # what is compared with what, per image
    "contiguous instead of channels-last, both with torch's own convolution calls": ("plain", "plain convolutions"),
    "torch's own convolution calls instead of train/fast.py": ("plain convolutions", "ours"),
    "neither": ("plain", "ours"),
    "bfloat16, but for networks with attention": ("bf16", "ours"),
    "activations of the cells recomputed": ("recompute", "ours"),
    "32 images a network instead of 64": ("32 images", "ours"),
    "128 images a network instead of 64": ("128 images", "ours"),
}


@dataclass(frozen=True, eq=False)
class Case:
    """A network, its weights, and images for it."""

    genotype: Any
    weights: dict[str, Tensor]
    images: Tensor
    labels: Tensor


def networks(quick: bool) -> list[Any]:
    """Genotypes of the first networks of the train split; of small ones, if it must be quick."""
    count, most = (2, 4 * 10**7) if quick else (24, 10**10)
    drawn = deepnets_gen.generate("train", 10**6)
    return list(islice((g for g in drawn if deepnets_gen.sketch(g, 10, SIDE).macs <= most), count))


def cases(genotypes: list[Any]) -> list[Case]:
    """These networks with the weights that an untrained GHN-2 predicts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GHN(GHNConfig())
    images, labels = load_sample().draw(MOST, torch.Generator().manual_seed(0))
    with torch.no_grad():
        weights = [model(model.collate([deepnets_gen.graph(g, 10, SIDE)]))[0] for g in genotypes]
    return [Case(g, w, images, labels) for g, w in zip(genotypes, weights, strict=True)]


def prepared(case: Case, way: Way) -> Callable[[], None]:
    """One forward and backward pass, ready to be run."""
    network = deepnets_gen.build(case.genotype, 10, SIDE, device="meta").train()
    if way.fast:
        quicken(network)
    leaves = {name: value.clone().requires_grad_() for name, value in case.weights.items()}
    replaced(network, leaves)
    memory = torch.channels_last if way.channels_last else torch.contiguous_format
    images, labels = case.images[: way.images].contiguous(memory_format=memory), case.labels[: way.images]
    attention = Primitive.MSA in deepnets_gen.graph(case.genotype, 10, SIDE).ops

    def run() -> None:
        half = torch.autocast("cpu", torch.bfloat16, enabled=way.bf16 and not attention)
        with half, recomputing(network) if way.recompute else nullcontext():
            logits = network(images)
        torch.autograd.grad(F.cross_entropy(logits.float(), labels), list(leaves.values()), allow_unused=True)

    return run


def timed(run: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    start = clock()
    run()
    return clock() - start


def measure(quick: bool, threads: int) -> dict[str, Any]:
    """Ratios of all pairs, threads against processes, and the peak memory with and without recomputing."""
    given = cases(networks(quick))
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn, case in enumerate(given):
        names = list(WAYS)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            run = prepared(case, WAYS[name])
            run()  # makes the kernels of this network's shapes
            seconds[name].append(timed(run) / WAYS[name].images)
    ratios = {text: bootstrap(seconds[way], seconds[base]) for text, (way, base) in PAIRS.items()}
    return {
        "networks": len(given),
        "seconds_per_network": {name: spread([s * WAYS[name].images for s in seconds[name]]) for name in WAYS},
        "ratios": ratios,
        "two_cores": two_cores(given[:12], 1 if quick else 3, threads),
        "peak_mib": peaks(quick),
    }


def two_cores(given: list[Case], rounds: int, threads: int) -> dict[str, Any]:
    """Wall seconds of all networks on one thread, on two threads each, and two at a time on one thread each."""
    runs = [prepared(case, WAYS["ours"]) for case in given]

    def one_by_one() -> None:
        for run in runs:
            run()

    def side_by_side() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda run: run(), runs))

    found: dict[str, list[float]] = {"one thread": [], "two threads a network": [], "two networks at a time": []}
    one_by_one()
    for _ in range(rounds):
        for name, threads_each, way in zip(found, (1, 2, 1), (one_by_one, one_by_one, side_by_side), strict=True):
            torch.set_num_threads(threads_each)
            found[name].append(timed(way, time.perf_counter))
    torch.set_num_threads(threads)
    return {name: spread(values) for name, values in found.items()}


def peaks(quick: bool) -> dict[str, float]:
    """MiB that the largest of the networks needs for its passes, in a process of its own, by way."""
    context = multiprocessing.get_context("spawn")
    found = {}
    for name in ("ours", "recompute"):
        with ProcessPoolExecutor(1, context) as pool:
            found[name] = pool.submit(_peak, name, quick).result()
    return found


def _peak(name: str, quick: bool) -> float:
    torch.set_num_threads(1)
    genotype = max(networks(quick), key=lambda g: deepnets_gen.sketch(g, 10, SIDE).macs)
    draw = torch.Generator().manual_seed(0)
    weights = {s.fqn: 0.05 * torch.randn(s.shape, generator=draw) for s in deepnets_gen.graph(genotype, 10, SIDE).slots}
    run = prepared(Case(genotype, weights, *load_sample().draw(IMAGES, draw)), WAYS[name])
    before = peak_mib()
    run()
    return peak_mib() - before


def peak_mib() -> float:
    """MiB that this process had at most in memory until now. (ru_maxrss counts what its parent had, too.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def report(found: dict[str, Any]) -> None:
    """The figures in words."""
    base = found["seconds_per_network"]["ours"]
    print(
        f"a network's forward and backward, {IMAGES} images, {found['networks']} networks: median {base['median']:.2f} "
        f"CPU seconds ({base['q1']:.2f}-{base['q3']:.2f}); CPU seconds an image, times ours"
    )
    for text, r in found["ratios"].items():
        print(f"  {text:80s}{r['ratio']:6.2f} ({r['low']:.2f}-{r['high']:.2f})")
    one = found["two_cores"]["one thread"]["median"]
    for name, wall in found["two_cores"].items():
        print(f"  wall seconds, {name:66s}{wall['median'] / one:6.2f} of one thread's")
    print("  peak MiB of the largest network: " + ", ".join(f"{n} {p:.0f}" for n, p in found["peak_mib"].items()))
