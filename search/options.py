"""What the commands of search share: arguments, and what is made of them. Heavy imports wait inside."""

import argparse
import json
import sys
from collections.abc import Collection, Mapping
from itertools import islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from ghn.cli import DEFAULT, positive

if TYPE_CHECKING:
    from eval.evaluator import Arch, Evaluator, Result
    from search.evaluators import Resources
    from search.space import SearchSpace

SPACES = ("nasbench201", "macro", "mnasnet", "darts", "deepnets")  # told without importing them
LOWER = ("loss",)  # metrics of which less is better
EVALUATORS = """\
An EVALUATOR is one of
  tabular:METRIC      a column of the space's tables (--tables or $GHN_TABLES); test columns only with --oracle
  predicted[:STEPS]   accuracy, loss, margin and lead with the weights that the GHN predicts, untrained or after STEPS
  naswot, synflow, snip, grad_norm, jacov, params, flops
                      zero-cost scores of the untrained network
  trained:EPOCHS      accuracy and loss after EPOCHS of SGD
  latency             latency_ms on this machine, one thread
  learned:SOURCE[:COUNT[:FEATURES]]
                      rank_score of a ranker that learns from labels. SOURCE: a column of the tables, of which COUNT
                      random architectures are read (100), or a file .json, .jsonl or .parquet, all of it: rows with
                      'score' (larger is better), 'measured_on' (train, val or test) and either 'genes' or the choice of
                      each variable by name. FEATURES, with commas between: genes, ghn (the GHN's embedding), predicted,
                      or zero-cost scores (default genes,params)
  blend:E,E,...       blend: the mean of where an architecture stands by each of these, among 200 random ones; no labels
                      but those of a `learned`, which comes last
  NAME.METRIC[:...]   one metric of these, as predicted.lead or blend:predicted.lead,params
or several joined by '+', as tabular:cifar10_valid_12+params. Images are those of the validation part of --data (or
$GHN_DATA, see `ghn data --help`); no score ever sees test images."""


def add_common(p: argparse.ArgumentParser) -> None:
    p.add_argument("--space", choices=SPACES, required=True, help="the architectures")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    p.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default 0)")
    p.add_argument("--tables", metavar="DIR", help="folder of the benchmark tables (default: $GHN_TABLES)")
    p.add_argument("--data", metavar="SET", help="image set (default: $GHN_DATA)")
    p.add_argument("--checkpoint", default=DEFAULT, metavar="GHN", help=f"of `predicted` (default {DEFAULT})")
    p.add_argument(
        "--images", type=int, default=256, metavar="N", help="that a score sees, evenly by class (default 256)"
    )
    p.add_argument(
        "--proxy",
        nargs="+",
        default=[],
        metavar="KEY=N",
        help="predicted and zero-cost scores are of smaller networks, as cells=1 (nasbench201, darts)",
    )
    p.add_argument("--image-size", type=positive, metavar="S", help="side in pixels (default: theirs)")


def whole(text: str) -> int:
    """The whole number from 0 on that an argument gives."""
    return 0 if text == "0" else positive(text)


def resources_of(args: argparse.Namespace) -> "Resources":
    """What evaluators are made from."""
    import torch

    from search.evaluators import Resources
    from search.spaces import make_space

    torch.set_num_threads(1)  # so that workers, of one thread each, find the same to the bit
    resources = Resources(
        make_space(args.space),
        args.tables,
        args.data,
        args.checkpoint,
        args.images,
        args.image_size,
        folder=args.out / "training",
        proxy=proxy_of(args.proxy),
        seed=args.seed,
    )
    _ = resources.small  # so that a proxy that there is not is told at once
    return resources


def proxy_of(pairs: list[str]) -> dict[str, int]:
    """The settings of a space that KEY=N say. Raises SearchError."""
    from search.errors import SearchError

    found = {key: value for key, _, value in (pair.partition("=") for pair in pairs)}
    if wrong := next((pair for pair in pairs if not pair.partition("=")[2].isdecimal()), None):
        raise SearchError(f"--proxy {wrong}: give KEY=N, as cells=1")
    return {key: int(value) for key, value in found.items()}


def scored(evaluator: "Evaluator", archs: "list[Arch]", seed: int, what: str) -> "list[Result]":
    from tqdm import tqdm

    bar = tqdm(archs, unit="network", desc=what, file=sys.stderr, disable=None, leave=False)
    return [evaluator.evaluate([arch], seed)[0] for arch in bar]


def drawn(
    space: "SearchSpace",
    known: Collection[tuple[int, ...]],
    count: int,
    seed: int,
    told: Collection[str] = (),
) -> "list[Arch]":
    """Random architectures among those whose truth is known, each at most once. told: keys, which are left out."""
    order = Random(f"rank {seed}").sample(sorted(known), len(known))
    return list(islice((arch for arch in map(space.arch, order) if arch.key not in told), count))


def traits_of(space: "SearchSpace", archs: "list[Arch]") -> dict[str, list[float]]:
    rows = [space.traits(arch) for arch in archs]
    return {name: [row[name] for row in rows] for name in rows[0]}


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    from ghn.files import write

    write(path, (json.dumps(record, indent=1) + "\n").encode())
