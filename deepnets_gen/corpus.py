"""Corpus: the architectures in a folder that `ghn generate` wrote, as a lazy sequence of graphs."""

import operator
import os
from collections import OrderedDict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deepnets_gen import families
from deepnets_gen.manifest import CorpusError, Manifest, ShardEntry
from deepnets_gen.shards import Shard
from ghn.graph import ArchGraph
from ghn.sketch import Arrays

REMEDY = "restore it from a copy, or generate the corpus anew"
_OPEN = 256  # shards kept mapped; each takes a file descriptor


class Corpus:
    """The graphs of a corpus, finished or not: `corpus[i]` for i in 0 .. len(corpus) - 1, or -1 for the last.

    num_classes, image_size: of the networks whose graphs are given out. Only what is asked for is read; a pickled
    corpus is its path, so that worker processes open the files themselves.

    Raises CorpusError where the manifest is absent or of another version, or a shard is missing or truncated.
    """

    def __init__(self, path: str | os.PathLike[str], num_classes: int = 10, image_size: int = 32) -> None:
        self.path = Path(path)
        self.num_classes = num_classes
        self.image_size = image_size
        self.manifest = Manifest.read(self.path)
        for entry in self.manifest.shards:
            check_size(self.path, entry)
        self._length = self.manifest.stored
        self._shards: OrderedDict[int, Shard] = OrderedDict()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> ArchGraph:
        return self.graph(i)

    def __getstate__(self) -> dict[str, Any]:
        private = ("_shards", "nodes", "params")
        return {name: value for name, value in self.__dict__.items() if name not in private}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _shards=OrderedDict())

    def graph(self, i: int) -> ArchGraph:
        """Graph i. Raises IndexError where there is none, CorpusError where its record is damaged."""
        return families.graph(self.genotype(i), self.num_classes, self.image_size)

    def arrays(self, i: int) -> Arrays:
        """Types, edges, shapes and distances of graph i: what a network on graphs reads, without names and slots."""
        return families.sketch(self.genotype(i), self.num_classes, self.image_size).arrays()

    def genotype(self, i: int) -> Any:
        """The genotype of graph i, of its family's type."""
        return families.from_record(self.record(i))

    def record(self, i: int) -> dict[str, Any]:
        """The genotype of graph i as JSON-ready data."""
        shard, row = self._place(i)
        return shard.record(row)

    def key(self, i: int) -> str:
        """Identity of graph i for 10 classes and 32 pixels: 32 hexadecimal digits."""
        shard, row = self._place(i)
        return shard.keys[row].tobytes().hex()

    def keys(self) -> Iterator[str]:
        """The identities of all graphs, in order."""
        for shard in self.shards():
            yield from (row.tobytes().hex() for row in shard.keys)

    @cached_property
    def nodes(self) -> np.ndarray:
        """(n,) int64: nodes of every graph, without decoding any."""
        return self._column("nodes")

    @cached_property
    def params(self) -> np.ndarray:
        """(n,) int64: parameters of every graph for 10 classes and 32 pixels, without decoding any."""
        return self._column("params")

    def shards(self) -> Iterator[Shard]:
        """The shards, in order."""
        return (self._shard(k) for k in range(len(self.manifest.shards)))

    def _column(self, name: str) -> np.ndarray:
        parts = [getattr(shard, name).astype(np.int64) for shard in self.shards()]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def _place(self, i: int) -> tuple[Shard, int]:
        i = operator.index(i)
        if not -self._length <= i < self._length:
            raise IndexError(f"graph {i} of a corpus of {self._length}: {self.path}")
        number, row = divmod(i % self._length, self.manifest.shard_size)
        return self._shard(number), row

    def _shard(self, number: int) -> Shard:
        shard = self._shards.get(number)
        if shard is None:
            shard = open_shard(self.path, self.manifest.shards[number])
            self._shards[number] = shard
            if len(self._shards) > _OPEN:
                self._shards.popitem(last=False)
        return shard


def check_size(folder: Path, entry: ShardEntry) -> None:
    """Raises CorpusError where the shard's file is missing or not as long as it was written."""
    path = folder / entry.file
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CorpusError(f"shard {path} cannot be read: {error.strerror}; {REMEDY}") from error
    if size != entry.bytes:
        what = "truncated" if size < entry.bytes else "too long"
        raise CorpusError(f"shard {path} is {what}: {size} of {entry.bytes} bytes; {REMEDY}")


def open_shard(folder: Path, entry: ShardEntry) -> Shard:
    """The shard of a manifest's entry. Raises CorpusError where it is none or holds another number of graphs."""
    shard = Shard.open(folder / entry.file)
    if len(shard) != entry.count:
        raise CorpusError(f"shard {shard.path} holds {len(shard)} graphs; the manifest says {entry.count}")
    return shard
