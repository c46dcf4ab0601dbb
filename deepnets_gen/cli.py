"""The commands `ghn generate` and `ghn corpus ...`."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepnets_gen.convert_cli import add_convert
from deepnets_gen.stats_cli import add_show, add_stats
from ghn.cli import positive

if TYPE_CHECKING:
    from deepnets_gen.manifest import Funnel, Manifest

Subparsers = Any  # argparse has no public name for what add_subparsers returns
SAMPLE = 5
# Of `splits.SPLITS`, told without importing it: --help comes at once.
NAMES = (
    *("train", "val", "test", "wide", "deep", "dense", "bnfree", "search", "predefined"),
    *("vit", "gpt", "mobile", "nasbench201", "cells201_train", "cells201_val", "cells201_test"),
)

ABOUT = """\
Draws random architectures of a split into the folder DIR, without building any network: the first N distinct ones of
the split's endless stream. The same call gives the same bytes whatever the number of processes; stopped, even by
kill -9, it goes on where it was; a larger --count extends the corpus."""


def register(commands: Subparsers) -> None:
    """Adds the commands of this package to the `ghn` command."""
    add_generate(commands)
    corpus = commands.add_parser(
        "corpus",
        help="look into a corpus of architectures",
        description="What to do with a corpus that `ghn generate` wrote.",
        epilog="example: ghn corpus verify corpora/train",
    )
    subcommands = corpus.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in CORPUS:
        add(subcommands)


def add_generate(commands: Subparsers) -> None:
    """Adds `ghn generate`."""
    p = commands.add_parser(
        "generate",
        help="make a corpus of architectures",
        description=ABOUT,
        epilog="example: ghn generate --split train --count 1000000 --out corpora/train",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--split", required=True, metavar="SPLIT", help=", ".join(NAMES))
    p.add_argument("--count", required=True, type=positive, metavar="N", help="distinct architectures")
    p.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the corpus")
    p.add_argument("--workers", type=positive, metavar="N", help="processes (default: one per core)")
    p.add_argument("--seed-offset", type=int, default=0, metavar="N", help="another stream of the split (default: 0)")
    p.add_argument("--shard-size", type=positive, default=10_000, metavar="N", help="graphs a file (default: 10,000)")
    p.set_defaults(handler=run_generate)


def add_verify(subcommands: Subparsers) -> None:
    """Adds `ghn corpus verify`."""
    p = subcommands.add_parser(
        "verify",
        help="check every byte and every graph",
        description="Checks sizes, checksums, order and the funnel of a corpus, that no architecture comes twice, and "
        "that each record still gives the graph it was stored with. The exit code is 1 where something is wrong.",
        epilog="example: ghn corpus verify corpora/train --graphs 10000",
    )
    p.add_argument("dir", type=Path, metavar="DIR", help="folder of the corpus")
    p.add_argument("--graphs", type=positive, metavar="N", help="graphs to rebuild, evenly spread (default: all)")
    p.set_defaults(handler=run_verify)


def add_sample(subcommands: Subparsers) -> None:
    """Adds `ghn corpus sample`."""
    p = subcommands.add_parser(
        "sample",
        help="some architectures, as JSON lines",
        description="Prints random architectures of a corpus, one JSON object a line: place, identity, nodes, "
        "parameters, genotype.",
        epilog="example: ghn corpus sample corpora/train --count 3 --seed 1",
    )
    p.add_argument("dir", type=Path, metavar="DIR", help="folder of the corpus")
    p.add_argument("--count", type=positive, default=SAMPLE, metavar="N", help=f"how many (default: {SAMPLE})")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="another choice (default: 0)")
    p.add_argument("--graph", action="store_true", help="with the whole graph")
    p.set_defaults(handler=run_sample)


# What `ghn corpus` can do: functions that add a subcommand and set its `handler`.
CORPUS: tuple[Callable[[Subparsers], None], ...] = (
    add_verify,
    add_sample,
    add_stats,
    add_show,
    add_convert,
)


def run_generate(args: argparse.Namespace) -> int:
    """Writes the corpus and tells the funnel. The exit code; a user's mistake is a GHNError."""
    from deepnets_gen.write import kept, write_corpus

    try:
        with _Bar(args.count) as bar:
            manifest = write_corpus(
                args.split,
                args.count,
                args.out,
                workers=args.workers,
                shard_size=args.shard_size,
                seed_offset=args.seed_offset,
                progress=bar.funnel,
            )
    except KeyboardInterrupt:
        print(f"ghn: interrupted: {kept(args.out)}", file=sys.stderr)
        return 130
    print(_told(args.out, manifest))
    return 0


def _told(folder: Path, manifest: "Manifest") -> str:
    lines = [f"{folder}: {manifest.stored:,} graphs of split {manifest.split!r}, {manifest.bytes / 1e6:.1f} MB"]
    if manifest.exhausted and manifest.stored < manifest.count:
        lines[0] += f" (the split has no more; {manifest.count:,} asked for)"
    return "\n".join([*lines, str(manifest.funnel)])


def run_verify(args: argparse.Namespace) -> int:
    """Prints the verdict; the exit code is 1 where the corpus is damaged."""
    from deepnets_gen.manifest import Manifest
    from deepnets_gen.verify import verify

    stored = Manifest.read(args.dir).stored
    with _Bar(min(args.graphs or stored, stored)) as bar:
        verdict = verify(args.dir, args.graphs, bar)
    print(f"{args.dir}: {verdict}")
    return 0 if verdict.ok else 1


def run_sample(args: argparse.Namespace) -> int:
    """Prints architectures in the order of the corpus. The exit code."""
    from random import Random

    from deepnets_gen.corpus import Corpus

    corpus = Corpus(args.dir)
    for i in sorted(Random(args.seed).sample(range(len(corpus)), min(args.count, len(corpus)))):
        about = {"index": i, "key": corpus.key(i), "nodes": int(corpus.nodes[i]), "params": int(corpus.params[i])}
        graph = {"graph": corpus[i].to_dict()} if args.graph else {}
        print(json.dumps(about | {"genotype": corpus.record(i)} | graph))
    return 0


class _Bar:
    """A progress bar on a terminal, nothing elsewhere. Called with how far the work is.

    The first call says what an earlier run had left, which does not count for the rate.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.bar: Any = None

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, done: int, note: str = "") -> None:
        if self.bar is None:
            from tqdm import tqdm

            style = {"unit": " graphs", "dynamic_ncols": True, "disable": None, "leave": False}
            self.bar = tqdm(total=self.total, initial=done, **style)
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(done - self.bar.n)

    def funnel(self, funnel: "Funnel") -> None:
        """The same, with the share of graphs that are new."""
        share = f"{100 * funnel.unique / funnel.in_part:.1f}% unique" if funnel.in_part else ""
        self(funnel.unique, share)
