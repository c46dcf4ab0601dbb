"""The command `ghn corpus convert`."""

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ghn.cli import positive
from ghn.errors import DataError, GHNError
from ghn.files import writable

ABOUT = """\
Writes architectures and their graphs in another format. SRC is a folder that `ghn generate` wrote or a meta file of
DeepNets-1M (deepnets1m_*_meta.json, of which all splits are taken); several are joined. OUT is, by format,
  official   a folder for DeepNets-1M's own deepnets1m_*.hdf5 and deepnets1m_*_meta.json, as its loaders read them
  parquet    a file of one row per graph, for pandas and others
  networkx   a file of JSON lines, each for networkx.node_link_graph(json.loads(line), edges="edges")
  graphml    a new folder of one file per graph
  dgl        a file for dgl.load_graphs
  pyg        a file for ghn.adapters.pyg.load_pyg, which gives a list of torch_geometric's Data"""
FORMATS = ("official", "parquet", "networkx", "graphml", "dgl", "pyg")


@dataclass(frozen=True)
class Source:
    """Genotypes of one split: the first `count` that `genotype` gives for 0, 1, ..."""

    split: str
    count: int
    genotype: Callable[[int], Any]


def add_convert(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `convert` to the commands about a corpus."""
    p = subcommands.add_parser(
        "convert",
        help="write graphs in other people's formats",
        description=ABOUT,
        epilog="example: ghn corpus convert corpora/val corpora/test data --to official",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("src", type=Path, nargs="+", metavar="SRC", help="corpus or meta file")
    p.add_argument("out", type=Path, metavar="OUT", help="file or folder to write")
    p.add_argument("--to", required=True, choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    p.add_argument("--count", type=positive, metavar="N", help="only the first N of each split")
    p.add_argument("--num-classes", type=positive, default=10, metavar="N", help="of the networks (default: 10)")
    p.add_argument("--image-size", type=positive, default=32, metavar="N", help="of the networks (default: 32)")
    p.set_defaults(handler=run_convert)


def run_convert(args: argparse.Namespace) -> int:
    """Writes, then says what. Returns the exit code; a user's mistake is a GHNError."""
    from tqdm import tqdm

    from deepnets_gen import export

    _check_out(args.out, args.to)
    sources = [part for path in args.src for part in _open(path, args.count)]
    with tqdm(total=sum(s.count for s in sources), unit=" graphs", disable=None, leave=False) as bar:
        if args.to == "official":
            count = _write_official(sources, args.out, bar.update)
        else:
            writers = {
                "parquet": export.write_parquet,
                "networkx": export.write_networkx,
                "graphml": export.write_graphml,
                "dgl": export.write_dgl,
                "pyg": export.write_pyg,
            }
            count = writers[args.to](_entries(sources, bar.update), args.out, args.num_classes, args.image_size)
    print(f"{args.out}: {count:,} graphs as {args.to}")
    return 0


def _write_official(sources: list[Source], folder: Path, seen: Callable[[], object]) -> int:
    """Number of networks written, each split to the files in which the published readers look for it."""
    from deepnets_gen.official import file_names, write_official

    count = 0
    ordered = sorted(sources, key=lambda source: (file_names(source.split), source.split))
    folder.mkdir(exist_ok=True)
    for (store, meta), group in groupby(ordered, key=lambda source: file_names(source.split)):
        count += write_official(_entries(group, seen), folder / store, folder / meta)
    return count


def _entries(sources: Iterable[Source], seen: Callable[[], object]) -> Iterator[tuple[str, Any]]:
    """(split, genotype) of all. seen: called after each."""
    for source in sources:
        for i in range(source.count):
            yield source.split, source.genotype(i)
            seen()


def _open(path: Path, count: int | None) -> list[Source]:
    """The splits found at a path, at most `count` of each. Raises DataError, or CorpusError for a bad corpus."""
    from deepnets_gen.corpus import Corpus
    from deepnets_gen.official import read_splits

    if path.is_dir():
        found: dict[str, Any] = {(corpus := Corpus(path)).manifest.split: corpus}
    elif path.suffix == ".json":
        found = read_splits(path)
    else:
        raise DataError(
            f"{path} is neither a corpus (a folder) nor a meta file of DeepNets-1M (deepnets1m_*_meta.json)"
        )
    return [Source(split, min(len(part), count or len(part)), part.genotype) for split, part in found.items()]


def _check_out(out: Path, to: str) -> None:
    """Raises GHNError where the format cannot be written to this path."""
    if to == "official" and out.is_dir():
        writable(str(out / "deepnets1m"))
    elif to == "graphml" and out.is_dir() and any(out.iterdir()):
        raise GHNError(f"{out} is not empty; give a new folder")
    elif to in ("official", "graphml") and out.is_file():
        raise GHNError(f"{out} is a file; give a folder")
    elif to != "graphml" or not out.is_dir():
        writable(str(out))
