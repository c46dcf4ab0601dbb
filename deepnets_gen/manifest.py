"""Manifest: what a corpus on disk is, which shards are finished, and what became of every candidate until then."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from deepnets_gen.stream import GENERATOR, INVALID, OTHER_PART, SAMPLED, TOO_LARGE
from ghn.errors import GHNError
from ghn.files import write_atomic

FORMAT = 1  # of manifest and shards
MANIFEST = "manifest.json"
_REASONS = (INVALID, TOO_LARGE, OTHER_PART)  # why a candidate is left out, in the order of the funnel


class CorpusError(GHNError):
    """A corpus that is missing, damaged, of another version, or not the one asked for."""


@dataclass(frozen=True)
class Funnel:
    """Candidates that pass each stage, those of the stage before being the whole."""

    sampled: int = 0
    valid: int = 0
    under_limit: int = 0
    in_part: int = 0
    unique: int = 0

    def after(self, fates: Mapping[str, int], unique: int) -> Self:
        """The funnel when more candidates, with these fates in a `stream.Block`, gave `unique` new graphs."""
        counts = [fates[SAMPLED]]
        for reason in _REASONS:
            counts.append(counts[-1] - fates.get(reason, 0))
        stages = (self.sampled, self.valid, self.under_limit, self.in_part)
        return type(self)(*(a + b for a, b in zip(stages, counts, strict=True)), self.unique + unique)

    @property
    def adds_up(self) -> bool:
        """Whether no stage lets more through than reach it."""
        return self.sampled >= self.valid >= self.under_limit >= self.in_part >= self.unique >= 0

    def __str__(self) -> str:
        return (
            f"{self.sampled:,} sampled -> {self.valid:,} valid -> {self.under_limit:,} under the size limit -> "
            f"{self.in_part:,} in the split's part -> {self.unique:,} unique"
        )


@dataclass(frozen=True)
class ShardEntry:
    """A finished shard. next: the candidate after its last; funnel: of all candidates before that one."""

    file: str
    count: int
    bytes: int
    blake2b: str
    next: int
    funnel: Funnel


@dataclass(frozen=True)
class Manifest:
    """A corpus, finished or not. count: graphs asked for. exhausted: the split has no more than the shards hold."""

    split: str
    seed_offset: int
    count: int
    shard_size: int
    exhausted: bool = False
    shards: tuple[ShardEntry, ...] = ()
    format: int = FORMAT
    generator: int = GENERATOR
    version: str = ""

    @property
    def stored(self) -> int:
        """Graphs in the finished shards."""
        return sum(shard.count for shard in self.shards)

    @property
    def complete(self) -> bool:
        return self.exhausted or self.stored == self.count

    @property
    def next(self) -> int:
        """The candidate that generation goes on from."""
        return self.shards[-1].next if self.shards else 0

    @property
    def funnel(self) -> Funnel:
        return self.shards[-1].funnel if self.shards else Funnel()

    @property
    def bytes(self) -> int:
        """Size of all finished shards."""
        return sum(shard.bytes for shard in self.shards)

    def with_shard(self, shard: ShardEntry) -> Self:
        return replace(self, shards=(*self.shards, shard))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready data, with what follows from the fields as well."""
        return asdict(self) | {"next": self.next, "funnel": asdict(self.funnel)}

    def write(self, folder: Path) -> None:
        """Puts the manifest in its folder, whole or not at all."""
        write_atomic(folder / MANIFEST, (json.dumps(self.to_dict(), indent=1) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest of a corpus. Raises CorpusError where there is none that this version reads."""
        path = folder / MANIFEST
        try:
            data = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise CorpusError(f"{folder} is no corpus: there is no {MANIFEST}; `ghn generate` makes one") from error
        except (OSError, ValueError) as error:
            raise CorpusError(f"cannot read {path}: {error}; restore it from a copy") from error
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            raise CorpusError(f"{path} has format {found!r}; this version reads {FORMAT}: use the one that wrote it")
        try:
            manifest = cls._parsed(data)
            manifest._validate()
        except (KeyError, TypeError, ValueError) as error:
            raise CorpusError(f"{path} is damaged ({type(error).__name__} {error}); restore it from a copy") from error
        return manifest

    @classmethod
    def _parsed(cls, data: Mapping[str, Any]) -> Self:
        entries: list[dict[str, Any]] = [entry | {"funnel": Funnel(**entry["funnel"])} for entry in data["shards"]]
        known: dict[str, Any] = {name: data[name] for name in cls.__dataclass_fields__}
        known["shards"] = tuple(ShardEntry(**entry) for entry in entries)
        return cls(**known)

    def _validate(self) -> None:
        start = 0
        for shard in self.shards:
            full = shard.count == self.shard_size or shard is self.shards[-1]
            if shard.file != shard_name(start, start + shard.count) or shard.count < 1 or not full:
                raise ValueError(f"shard {shard.file!r} is not the one that begins with graph {start}")
            start += shard.count
        if not 0 <= start <= self.count or self.shard_size < 1:
            raise ValueError(f"{start} graphs in shards of {self.shard_size}, {self.count} asked for")


def shard_name(start: int, stop: int) -> str:
    """File name of the shard with the graphs start .. stop - 1."""
    return f"graphs-{start:08d}-{stop:08d}.safetensors"
