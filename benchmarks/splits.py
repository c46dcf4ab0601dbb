"""One-shot accuracy of a GHN over the held-out splits, beside the published one, and beside one epoch of SGD.

Run: python benchmarks/splits.py --data DIR --out FILE [--checkpoint ghn2-cifar10] [--count 100] [--sgd 0]

Each network of a split is scored on --images test images of its own: blocks of the test set dealt out in turn, so that
a split's mean rests on all of them. ResNet-50 and the ViT of the paper are scored on the whole test set. Images are of
the size that the GHN was trained for.

--sgd N: the first N networks of every split are also trained for one epoch on all training images of --side pixels,
from PyTorch's initialisation (Nesterov momentum, batches of 64, rate 0.025 falling to 0), and scored on the same block
of test images at that size; so is the GHN's prediction. --sgd-macs M passes over networks of more than M million
multiply-adds there: an epoch of one takes up to 2,700 CPU seconds. No GHN has a part in the training: --sgd-from takes
such figures from the file of another GHN, and only what it lacks is trained.

--sustained also scores the predicted weights after `ghn.sustain_variance` on 64 training images.

What the file holds already is not measured again, so a run may be stopped and gone on with, or made larger.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks")]

from generate import versions  # noqa: E402

import deepnets_gen  # noqa: E402
import ghn  # noqa: E402
from eval.benchmark import Finish, Summary, seeded, sustaining  # noqa: E402
from eval.score import score  # noqa: E402
from ghn.files import write  # noqa: E402
from train.data import load  # noqa: E402
from train.fast import quicken  # noqa: E402
from train.images import ImageSet  # noqa: E402
from train.sgd import Schedule, descend  # noqa: E402

SINGLE = ("resnet50", "vit")  # networks by themselves
PAPER = {  # top-1 of the paper's GHN-2 and of SGD after one epoch, percent: ghn_spec 12.1
    "val": (67.5, 46.1),
    "test": (66.9, 46.9),
    "wide": (64.0, 47.2),
    "deep": (60.5, 34.2),
    "dense": (65.8, 45.3),
    "bnfree": (36.8, 18.0),
    "resnet50": (58.6, 51.5),
    "vit": (11.4, None),
}
CLASSES = 10


def genotypes(split: str, count: int) -> Iterator[tuple[int, Any]]:
    """Places in the split and networks; of the two predefined ones, that of the name."""
    if split in SINGLE:
        yield 0, list(deepnets_gen.generate("predefined", 2))[split == "vit"]
    else:
        yield from enumerate(deepnets_gen.generate(split, count))


def block(images: ImageSet, index: int, size: int) -> ImageSet:
    """The images that the network at this place of a split is scored on."""
    start = index * size % (len(images) - size + 1) if size < len(images) else 0
    return images.take(torch.arange(start, min(start + size, len(images))))


class Table:
    """The results file: a network's figures under 'split/index', kept as they come."""

    def __init__(self, file: Path, settings: dict[str, Any]) -> None:
        self.file = file
        self.data = json.loads(file.read_text()) if file.exists() else {"settings": settings, "networks": {}}
        if self.data["settings"] != settings:
            sys.exit(f"{file} was made with {self.data['settings']}, not {settings}; give another --out")

    def has(self, key: str, what: str) -> bool:
        return what in self.data["networks"].get(key, {})

    def take_trained(self, file: Path) -> None:
        """Takes over what SGD reached from the file of another GHN. Exits where that was trained otherwise."""
        other = json.loads(file.read_text())
        same = ("images", "schedule")
        if any(other["settings"][name] != self.data["settings"][name] for name in same):
            sys.exit(f"{file} has other {' or '.join(same)} than {self.data['settings']}")
        for key, row in other["networks"].items():
            if found := {name: value for name, value in row.items() if name.startswith("sgd_")}:
                self.note(key, **found)

    def note(self, key: str, **figures: float) -> None:
        self.data["networks"].setdefault(key, {}).update(figures)
        self.data["summary"] = summary(self.data["networks"])
        self.data["versions"] = versions()
        write(self.file, (json.dumps(self.data, indent=1) + "\n").encode())


def summary(networks: dict[str, dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Of each split and way: mean, spread and count; beside them the paper's GHN-2 and its epoch of SGD."""
    found: dict[str, dict[str, Any]] = {}
    for split in PAPER:
        mine = [row for key, row in networks.items() if key.split("/")[0] == split]
        ways = dict.fromkeys(way for row in mine for way in row if not way.endswith("seconds"))
        found[split] = {way: Summary.of([row[way] for row in mine if way in row]).to_dict() for way in ways}
        found[split]["paper"] = PAPER[split]
    return found


def one_shot(
    table: Table, hyper: ghn.Hypernet, test: ImageSet, split: str, count: int, size: int, sustained: Finish | None
) -> None:
    """sustained: what makes the weights so before they are scored; None leaves them as predicted."""
    for index, genotype in genotypes(split, count):
        key, way = f"{split}/{index}", "ghn_sustained" if sustained else "ghn"
        if not table.has(key, way):
            model = hyper.init(deepnets_gen.build(genotype, num_classes=CLASSES, image_size=test.side))
            images = test if split in SINGLE else block(test, index, size)
            table.note(key, **{way: score(sustained(model) if sustained else model, images).accuracy})


def affordable(split: str, count: int, macs: float, side: int) -> Iterator[tuple[int, Any]]:
    """Places and networks of the first so many of a split, of at most so many million multiply-adds."""
    small = ((i, g) for i, g in genotypes(split, 1000) if deepnets_gen.sketch(g, CLASSES, side).macs <= macs * 10**6)
    return islice(small, count)


def one_epoch(
    table: Table,
    hyper: ghn.Hypernet,
    train: ImageSet,
    test: ImageSet,
    networks: Iterator[tuple[int, Any]],
    split: str,
    size: int,
) -> None:
    side = f"{test.side}px"
    for index, genotype in networks:
        key, images = f"{split}/{index}", block(test, index, size)

        def fresh(genotype: Any = genotype) -> nn.Module:
            return deepnets_gen.build(genotype, num_classes=CLASSES, image_size=test.side)

        if not table.has(key, f"ghn_{side}"):
            known = table.data["networks"].get(key, {}).get("ghn") if test.side == hyper.image_size else None
            table.note(key, **{f"ghn_{side}": known or score(hyper.init(fresh()), images).accuracy})
        if not table.has(key, f"sgd_{side}"):
            model, start = quicken(seeded(fresh, index)), time.process_time()
            descend(model, train, Schedule(epochs=1), seed=index)
            spent = time.process_time() - start
            table.note(key, **{f"sgd_{side}": score(model, images).accuracy, "sgd_seconds": spent})


def report(data: dict[str, Any]) -> None:
    """The table in words."""
    for split, ways in data["summary"].items():
        for way, found in ways.items():
            if way != "paper":
                print(f"{split:10s}{way:12s}{Summary(**found)}")
        print(f"{split:10s}paper       GHN-2 {ways['paper'][0]}%, one epoch of SGD {ways['paper'][1]}%")
    seconds = [row["sgd_seconds"] for row in data["networks"].values() if "sgd_seconds" in row]
    if seconds:
        print(f"an epoch of SGD: {statistics.median(seconds):.0f} CPU seconds in the median")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR", help="CIFAR-10 (see `ghn data --help`)")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--checkpoint", default="ghn2-cifar10")
    parser.add_argument("--splits", nargs="+", default=list(PAPER), choices=PAPER)
    parser.add_argument("--count", type=int, default=100, help="networks of each split")
    parser.add_argument("--images", type=int, default=500, help="test images of each network")
    parser.add_argument("--sustained", action="store_true", help="score with ghn.sustain_variance, too")
    parser.add_argument("--sgd", type=int, default=0, help="networks of each split that are trained for an epoch")
    parser.add_argument("--sgd-macs", type=float, default=math.inf, help="millions; larger networks are not trained")
    parser.add_argument("--sgd-from", type=Path, metavar="FILE", help="take what was trained for an epoch from there")
    parser.add_argument("--side", type=int, default=16, help="pixels of the images in that comparison")
    args = parser.parse_args()
    torch.set_num_threads(1)
    hyper = ghn.load(args.checkpoint)
    settings = {"checkpoint": args.checkpoint, "images": args.images, "schedule": asdict(Schedule())}
    table = Table(args.out, settings)
    if args.sgd_from:
        table.take_trained(args.sgd_from)
    test = load("test", args.data, side=hyper.image_size)
    train = load("train", args.data)
    ways = [None, sustaining(train.resized(hyper.image_size))] if args.sustained else [None]
    for split in args.splits:
        for sustained in ways:
            one_shot(table, hyper, test, split, args.count, args.images, sustained)
        print(split, table.data["summary"][split], file=sys.stderr, flush=True)
    if args.sgd:
        small, train = test.resized(args.side), train.resized(args.side)
        for split in args.splits:
            if split not in SINGLE:
                networks = affordable(split, args.sgd, args.sgd_macs, args.side)
                one_epoch(table, hyper, train, small, networks, split, args.images)
    report(table.data)


if __name__ == "__main__":
    main()
