"""Whether a corpus on disk is what its manifest says, down to every graph."""

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from deepnets_gen import families
from deepnets_gen.corpus import check_size, open_shard
from deepnets_gen.manifest import CorpusError, Funnel, Manifest, ShardEntry
from deepnets_gen.shards import Shard
from deepnets_gen.splits import Part, Split, named
from ghn.errors import GHNError
from ghn.identity import Identity, identities
from ghn.sketch import Sketch

TOGETHER = 64  # graphs identified at a time, which is faster than one by one


@dataclass(frozen=True)
class Verdict:
    """What `verify` found. graphs: how many were rebuilt from their record. problem: the first, with its place."""

    manifest: Manifest
    graphs: int
    problem: str | None = None

    @property
    def ok(self) -> bool:
        return self.problem is None

    def __str__(self) -> str:
        if self.problem:
            return f"damaged: {self.problem}"
        state = "complete" if self.manifest.complete else f"unfinished, {self.manifest.count:,} asked for"
        return (
            f"sound: {self.manifest.stored:,} graphs of split {self.manifest.split!r} in {len(self.manifest.shards)} "
            f"shards ({state}); {self.graphs:,} rebuilt from their records"
        )


def verify(path: str | Path, graphs: int | None = None, progress: Callable[[int], None] = lambda done: None) -> Verdict:
    """The first problem of a corpus, or none.

    Looked at: sizes and checksums of all shards, lengths and order of their columns, the funnel, that no identity
    comes twice; and for `graphs` records, evenly spread (None: all), whether they still give a graph of the stored
    identity, nodes and parameters that belongs to the split. progress: called with the number of graphs rebuilt.

    Raises CorpusError where there is no manifest to hold the corpus to.
    """
    folder = Path(path)
    manifest = Manifest.read(folder)
    done = 0
    try:
        split = named(manifest.split)
        chosen = _chosen(manifest.stored, graphs)
        seen: dict[bytes, str] = {}
        for entry, first, before in zip(manifest.shards, _starts(manifest), _before(manifest), strict=False):
            shard = _check_file(folder, entry)
            _check_columns(shard, entry, before)
            _check_unique(shard, seen)
            rows = (chosen[(chosen >= first) & (chosen < first + entry.count)] - first).tolist()
            for more in _check_graphs(shard, rows, split):
                done += more
                progress(done)
    except GHNError as error:
        return Verdict(manifest, done, str(error))
    return Verdict(manifest, done)


def _chosen(stored: int, graphs: int | None) -> np.ndarray:
    if graphs is None or graphs >= stored:
        return np.arange(stored)
    return np.linspace(0, stored - 1, graphs).round().astype(np.int64)


def _starts(manifest: Manifest) -> Iterator[int]:
    return itertools.accumulate((entry.count for entry in manifest.shards), initial=0)


def _before(manifest: Manifest) -> Generator[tuple[int, Funnel], None, None]:
    """For each shard, the candidate that it begins with and the funnel before it."""
    yield 0, Funnel()
    for entry in manifest.shards:
        yield entry.next, entry.funnel


def _check_file(folder: Path, entry: ShardEntry) -> Shard:
    check_size(folder, entry)
    if blake2b((folder / entry.file).read_bytes(), digest_size=16).hexdigest() == entry.blake2b:
        return open_shard(folder, entry)
    shard = open_shard(folder, entry)
    for _ in _check_graphs(shard, range(len(shard)), None):  # names the record, if the damage shows in one
        pass
    raise CorpusError(f"{folder / entry.file} is not the file that was written: its checksum differs")


def _check_columns(shard: Shard, entry: ShardEntry, before: tuple[int, Funnel]) -> None:
    offsets, index = shard.offsets.astype(np.int64), shard.index.astype(np.int64)
    start, funnel = before
    checks = (
        (shard.checksum() == shard.metadata.get("blake2b"), "its own checksum differs"),
        (offsets[0] == 0 and offsets[-1] == len(shard.records), "its offsets do not span its records"),
        (bool((np.diff(offsets) > 0).all()), "its offsets do not rise"),
        (bool((np.diff(index) > 0).all()), "its candidates are out of order"),
        (index[0] >= start and index[-1] < entry.next, "its candidates overlap with another shard's"),
        (entry.funnel.adds_up and entry.funnel.sampled == entry.next, "its funnel does not add up"),
        (entry.funnel.unique - funnel.unique == len(shard), "its funnel counts other graphs than it holds"),
    )
    for sound, problem in checks:
        if not sound:
            raise CorpusError(f"{shard.path}: {problem}")


def _check_unique(shard: Shard, seen: dict[bytes, str]) -> None:
    keys = shard.keys.tobytes()
    width = shard.keys.shape[1]
    for row in range(len(shard)):
        key = keys[row * width : (row + 1) * width]
        if key in seen:
            raise CorpusError(f"{shard.path}, record {row} is the same architecture as one in {seen[key]}")
        seen[key] = shard.path.name


def _check_graphs(shard: Shard, rows: Sequence[int], split: Split | None) -> Iterator[int]:
    """The sizes of the parts in which the records are looked at. Raises CorpusError for the first that does not give
    the graph it is stored with, or one of another split."""
    for i in range(0, len(rows), TOGETHER):
        part = rows[i : i + TOGETHER]
        sketches = [_sketch(shard, row) for row in part]
        for row, sketch, identity in zip(part, sketches, identities(sketches), strict=True):
            _check_graph(shard, row, sketch, identity, split)
        yield len(part)


def _check_graph(shard: Shard, row: int, sketch: Sketch, identity: Identity, split: Split | None) -> None:
    stored = (shard.keys[row].tobytes().hex(), int(shard.nodes[row]), int(shard.params[row]))
    found = (identity.key, len(sketch), sketch.num_params)
    for name, was, now in zip(("identity", "nodes", "parameters"), stored, found, strict=True):
        if was != now:
            raise CorpusError(f"{shard.path}, record {row} is stored with {name} {was}, its genotype gives {now}")
    part = Part.of(identity.topology)
    if split is not None and split.part not in (None, part):
        raise CorpusError(f"{shard.path}, record {row} is of part {part.name}; {split.name} holds others")


def _sketch(shard: Shard, row: int) -> Sketch:
    record = shard.record(row)
    try:
        return families.sketch(families.from_record(record))
    except GHNError as error:
        raise CorpusError(f"{shard.path}, record {row} is no network: {error}") from error
