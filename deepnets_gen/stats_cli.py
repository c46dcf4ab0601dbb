"""The commands `ghn corpus stats` and `ghn corpus show`."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghn.errors import DataError, GHNError

if TYPE_CHECKING:
    from deepnets_gen.corpus import Corpus
    from deepnets_gen.stats import Table

SAMPLE = 1000
SAMPLE_HELP = f"graphs to decode, evenly spread over the corpus; 0 takes all (default: {SAMPLE})"
AGAINST_HELP = (
    "compare with the networks of a DeepNets-1M meta file, or of a file {'splits': {SPLIT: records}}: "
    "their graphs are derived by the same rules, so that only the draws differ"
)
SEED = 0  # of the permutation tests


def add_stats(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `stats` to the commands about a corpus."""
    stats = subcommands.add_parser(
        "stats",
        help="a corpus in numbers",
        description="Nodes, parameters, depth, operations and more of a corpus, beside the published figures.",
        epilog="example: ghn corpus stats corpora/train --sample 2000 --against deepnets1m_eval_meta.json",
    )
    stats.add_argument("dir", type=Path, metavar="DIR", help="folder that `ghn generate` wrote")
    stats.add_argument("--json", action="store_true", help="print JSON")
    _add_sample(stats)
    stats.set_defaults(handler=run_stats)


def add_show(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `show` to the commands about a corpus."""
    show = subcommands.add_parser(
        "show",
        help="a corpus as a page: distributions and a gallery of graphs",
        description="Writes one HTML page that needs nothing else: what the corpus is, its distributions beside the "
        "published ones, and some of its graphs.",
        epilog="example: ghn corpus show corpora/train --out train.html",
    )
    show.add_argument("dir", type=Path, metavar="DIR", help="folder that `ghn generate` wrote")
    show.add_argument("--out", required=True, metavar="FILE", help="HTML file to write")
    _add_sample(show)
    show.set_defaults(handler=run_show)


def run_stats(args: argparse.Namespace) -> int:
    """Prints the numbers. Returns the exit code; a user's mistake is a GHNError."""
    import numpy as np

    from deepnets_gen.compare import against, compare
    from deepnets_gen.corpus import Corpus
    from deepnets_gen.published import PUBLISHED
    from deepnets_gen.stats import text

    corpus = Corpus(args.dir)
    split = corpus.manifest.split
    records = _records(args.against, split)
    ours = corpus_table(corpus, args.sample)
    published = against(ours, PUBLISHED[split]) if split in PUBLISHED else None
    found = compare(ours, records_table(records), np.random.default_rng(SEED)) if records else None
    if args.json:
        out: dict[str, Any] = {"split": split, **ours.summary()}
        out |= {"published": asdict(published)} if published else {}
        out |= {"against": found.to_dict()} if found else {}
        print(json.dumps(out, indent=1))
        return 0
    print(f"{args.dir}: split {split}")
    print(text(ours.summary()))
    print(f"\n{published}" if published else "\nno published figures of this split", end="\n")
    if found:
        print(f"\nagainst {args.against}, first this corpus, then that file\n{found}")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Writes the page. Returns the exit code; a user's mistake is a GHNError."""
    from deepnets_gen.corpus import Corpus
    from deepnets_gen.show import page
    from ghn.files import writable, write

    path = writable(args.out)
    assert path is not None, "--out is required"
    corpus = Corpus(args.dir)
    records = _records(args.against, corpus.manifest.split)
    ours = corpus_table(corpus, args.sample)
    write(path, page(corpus, ours, records_table(records) if records else None).encode())
    print(f"{path}: {len(corpus):,} graphs of split {corpus.manifest.split}")
    return 0


def corpus_table(corpus: "Corpus", sample: int) -> "Table":
    """The corpus in columns: nodes and parameters of all its graphs, the rest of a sample (0: of all).

    Raises GHNError where the corpus is empty.
    """
    from deepnets_gen.stats import spread_out, table

    if not len(corpus):
        raise GHNError(f"{corpus.path} holds no graphs yet; run the `ghn generate` that began it once more")
    chosen = spread_out(len(corpus), sample or len(corpus))
    sampled = table((corpus.genotype(i), corpus.graph(i)) for i in chosen)
    everything = {"nodes": corpus.nodes, "parameters": corpus.params}
    return replace(sampled, size=len(corpus), numbers={**sampled.numbers, **everything})


def records_table(records: list[Mapping[str, Any]]) -> "Table":
    """Networks given as records, in columns; their graphs are derived, whatever the records say of them."""
    from deepnets_gen import families
    from deepnets_gen.stats import table

    genotypes = [families.from_record(record) for record in records]
    return table((genotype, families.graph(genotype)) for genotype in genotypes)


def read_records(path: Path, split: str) -> list[Mapping[str, Any]]:
    """The records of a split, or of the one that was drawn as it, from a meta file {SPLIT: {'nets': [...]}} or
    {'splits': {SPLIT: [...]}}. Raises DataError where there are none.
    """
    from deepnets_gen.published import SAME_SAMPLER

    try:
        data = json.loads(path.read_bytes())
        splits = data.get("splits", data)
        found = {name: entry if isinstance(entry, list) else entry["nets"] for name, entry in splits.items()}
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{path} has no records of networks ({type(error).__name__}: {error}); see --help") from error
    for name in (split, SAME_SAMPLER.get(split)):
        if found.get(name):
            return found[name]
    raise DataError(f"{path} has no records of split {split!r}; it has {', '.join(found) or 'none'}")


def _add_sample(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--against", type=Path, metavar="FILE", help=AGAINST_HELP)
    parser.add_argument("--sample", type=_count, default=SAMPLE, metavar="N", help=SAMPLE_HELP)


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def _records(path: Path | None, split: str) -> list[Mapping[str, Any]]:
    return read_records(path, split) if path else []
