"""Writing a corpus: candidates drawn by several processes, merged in order, cut into shards.

What is on disk is a function of (split, seed_offset, shard_size, count): not of the number of processes, nor of how
often the work was stopped. Only whole shards are kept; the manifest names them and where to go on.
"""

import itertools
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from hashlib import blake2b
from multiprocessing import get_context, parent_process
from pathlib import Path
from signal import SIG_BLOCK, SIG_SETMASK, SIGINT, pthread_sigmask, signal
from types import FrameType

import ghn
from deepnets_gen import families, stream
from deepnets_gen.corpus import check_size, open_shard
from deepnets_gen.manifest import MANIFEST, CorpusError, Funnel, Manifest, ShardEntry, shard_name
from deepnets_gen.shards import KEY_BYTES, Encoder, Row, make_dictionary, to_bytes
from deepnets_gen.splits import SPLITS
from ghn.files import sole, write_atomic

BLOCK = stream.HELD  # candidates that a process draws at a time
AHEAD = 4  # blocks under way per process
TYPICAL, LOOKED_AT = 32, 1024  # genotypes in the dictionary of a split at most, of how many candidates
Task = tuple[str, int, int, bytes]  # split, seed offset, first candidate, dictionary
_OURS = re.compile(r"graphs-\d+-\d+\.safetensors|\.(graphs-\d+-\d+\.safetensors|manifest\.json)\..+")


def write_corpus(
    split: str,
    count: int,
    out: str | os.PathLike[str],
    *,
    workers: int | None = None,
    shard_size: int = 10_000,
    seed_offset: int = 0,
    progress: Callable[[Funnel], None] = lambda funnel: None,
) -> Manifest:
    """The manifest of the folder `out`, which then holds the first `count` distinct graphs of the split's stream.

    Stopped at any moment, even by kill -9, the same call goes on and ends with the same bytes; a larger count extends
    a corpus; a split with fewer graphs gives them all and is marked `exhausted`. workers: processes, by default one
    per core; as they are spawned, a script must guard its call by `if __name__ == "__main__"`. seed_offset: another
    stream of the same split. progress: called with the funnel as it grows.

    Raises CorpusError where `out` holds something else or cannot be written, GHNError where it is being written to;
    what is finished stays.
    """
    workers = workers or os.cpu_count() or 1
    _check_arguments(split, count, workers, shard_size, seed_offset)
    folder = Path(out)
    wanted = Manifest(split, seed_offset, count, shard_size, version=ghn.__version__)
    with _explained(folder), sole(folder):
        manifest = _begin(folder, wanted)
        return manifest if manifest.complete else _Writer(folder, manifest, progress).run(workers)


def _check_arguments(split: str, count: int, workers: int, shard_size: int, seed_offset: int) -> None:
    if split not in SPLITS:
        raise CorpusError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    for name, value, least in (
        ("count", count, 1),
        ("workers", workers, 1),
        ("shard_size", shard_size, 1),
        ("seed_offset", seed_offset, 0),
    ):
        if value < least:
            raise CorpusError(f"{name} is {value}; it must be at least {least}")


@contextmanager
def _explained(folder: Path) -> Generator[None, None, None]:
    """What stops generation, said with what is kept and how to go on."""
    try:
        yield
    except (OSError, BrokenProcessPool) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise CorpusError(f"generation in {folder} stopped: {reason}. {kept(folder)}") from error


def kept(folder: Path) -> str:
    """What a folder keeps of an unfinished corpus, in a sentence."""
    try:
        manifest = Manifest.read(folder)
    except CorpusError:
        return "Nothing was written yet; run the same command again"
    stored, shards = f"{manifest.stored:,} of {manifest.count:,} graphs", f"{len(manifest.shards)} shards"
    return f"{stored} are kept in {shards}; the same command goes on from there"


def _begin(folder: Path, wanted: Manifest) -> Manifest:
    """The manifest to go on with, on disk; leftovers of a killed run are gone."""
    if (folder / MANIFEST).exists():
        found = Manifest.read(folder)
        _check_same(folder, found, wanted)
        for entry in found.shards:
            check_size(folder, entry)
        if found.complete and found.count == wanted.count:
            return found
        wanted = replace(wanted, shards=found.shards)
    else:
        strange = [path.name for path in folder.iterdir() if not path.name.startswith(f".{MANIFEST}.")]
        if strange:
            raise CorpusError(f"{folder} holds {min(strange)} and no {MANIFEST}; choose an empty or a new folder")
    wanted.write(folder)
    _tidy(folder, wanted)
    return wanted


def _check_same(folder: Path, found: Manifest, wanted: Manifest) -> None:
    for name in ("split", "seed_offset", "shard_size", "generator"):
        was, now = getattr(found, name), getattr(wanted, name)
        if was != now:
            raise CorpusError(f"{folder} holds a corpus with {name} {was!r}, not {now!r}; choose another folder")
    if found.count > wanted.count:
        raise CorpusError(
            f"{folder} is a corpus of {found.count:,} graphs, more than the {wanted.count:,} asked for; "
            "choose another folder, or read the first ones of this"
        )


def _tidy(folder: Path, manifest: Manifest) -> None:
    named = {entry.file for entry in manifest.shards}
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in named:
            path.unlink()


class _Writer:
    """Graphs in the order of the stream -> shards. `rows`: those of the shard in the making."""

    def __init__(self, folder: Path, manifest: Manifest, progress: Callable[[Funnel], None]) -> None:
        self.folder = folder
        self.progress = progress
        self.dictionary = dictionary(manifest.split)
        self.seen: set[bytes] = set()
        self.rows: list[Row] = []
        self.funnel, self.next = manifest.funnel, manifest.next
        self.manifest = self._resumed(manifest)

    def _resumed(self, manifest: Manifest) -> Manifest:
        """The manifest of the full shards alone; the graphs of one that is not full are in the making again."""
        for entry in manifest.shards:
            shard = open_shard(self.folder, entry)
            if shard.dictionary != self.dictionary:
                raise CorpusError(f"{shard.path} is from another generator; choose another folder to begin anew")
            keys = shard.keys.tobytes()
            self.seen.update(keys[i : i + KEY_BYTES] for i in range(0, len(keys), KEY_BYTES))
            if entry.count < manifest.shard_size:
                self.rows = shard.rows()
                return replace(manifest, shards=manifest.shards[:-1])
        return manifest

    def run(self, workers: int) -> Manifest:
        """The finished corpus's manifest."""
        self.progress(self.funnel)
        starts = itertools.count(self.next, BLOCK)
        tasks = ((self.manifest.split, self.manifest.seed_offset, start, self.dictionary) for start in starts)
        with closing(_harvests(tasks, workers)) as harvests:
            for harvest in harvests:
                self._add(harvest)
                self.progress(self.funnel)
                if self.manifest.complete:
                    break
        return self.manifest

    def _add(self, harvest: "_Harvest") -> None:
        before, new = self.funnel, 0
        for row in harvest.rows:
            if row.key in self.seen:
                continue
            self.seen.add(row.key)
            self.rows.append(row)
            new += 1
            if len(self.rows) in (self.manifest.shard_size, self.manifest.count - self.manifest.stored):
                self._cut(row.index + 1, self._until(before, harvest.start, row.index + 1, new))
                if self.manifest.complete:
                    return
        self.funnel = before.after(harvest.fates, new)
        if harvest.fates.get(stream.EXHAUSTED):
            self.manifest = replace(self.manifest, exhausted=True)
            self._cut(harvest.start + harvest.fates[stream.SAMPLED], self.funnel)

    def _until(self, before: Funnel, start: int, stop: int, new: int) -> Funnel:
        """The funnel of the candidates before `stop` alone, which lies within a block: the first part of it again."""
        part = stream.block(self.manifest.split, start, stop, self.manifest.seed_offset)
        return before.after(part.fates, new)

    def _cut(self, following: int, funnel: Funnel) -> None:
        """Writes the shard in the making, then the manifest that names it."""
        self.funnel = funnel
        if self.rows:
            start, manifest = self.manifest.stored, self.manifest
            about = {
                "generator": manifest.generator,
                "split": manifest.split,
                "seed_offset": manifest.seed_offset,
                "start": start,
            }
            content = to_bytes(self.rows, self.dictionary, about)
            name = shard_name(start, start + len(self.rows))
            write_atomic(self.folder / name, content)
            checksum = blake2b(content, digest_size=16).hexdigest()
            self.manifest = manifest.with_shard(
                ShardEntry(name, len(self.rows), len(content), checksum, following, funnel)
            )
            self.rows = []
        self.manifest.write(self.folder)
        _tidy(self.folder, self.manifest)


@cache
def dictionary(split: str) -> bytes:
    """What the records of a split are encoded with: its first genotypes, the same for every seed_offset."""
    typical: list[Mapping] = []
    for start in range(0, LOOKED_AT, TYPICAL):
        block = stream.block(split, start, start + TYPICAL)
        typical += [families.to_record(drawn.genotype) for drawn in block.drawn]
        if len(typical) >= TYPICAL or block.fates.get(stream.EXHAUSTED):
            break
    return make_dictionary(typical[:TYPICAL])


@dataclass(frozen=True)
class _Harvest:
    """A block of candidates as a process hands it over: what was accepted, encoded, and the fates of all."""

    start: int
    fates: Mapping[str, int]
    rows: list[Row]


def _harvest(split: str, seed_offset: int, start: int, dictionary: bytes) -> _Harvest:
    block = stream.block(split, start, start + BLOCK, seed_offset)
    encode = _encoder(dictionary)
    rows = [
        Row(encode(families.to_record(d.genotype)), bytes.fromhex(d.key), d.nodes, d.num_params, d.index)
        for d in block.drawn
    ]
    return _Harvest(start, block.fates, rows)


@lru_cache(maxsize=1)
def _encoder(dictionary: bytes) -> Encoder:
    return Encoder(dictionary)


def _harvests(tasks: Iterator[Task], workers: int) -> Generator[_Harvest, None, None]:
    """The harvests of an endless row of tasks, in order, worked on by this process or by several others."""
    if workers == 1:
        yield from itertools.starmap(_harvest, tasks)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_follow_parent)

    def submit(task: Task) -> Future[_Harvest]:
        with _no_interrupt():
            return pool.submit(_harvest, *task)

    try:
        pending = deque(map(submit, itertools.islice(tasks, AHEAD * workers)))
        for task in tasks:
            yield pending.popleft().result()
            pending.append(submit(task))
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _no_interrupt() -> Generator[None, None, None]:
    """Ctrl-C waits until the block ends. Processes started in it never see one: it is their parent that stops them."""
    came: list[tuple[int, FrameType | None]] = []
    main = threading.current_thread() is threading.main_thread()
    # The mask is for the processes, which inherit it; here, another thread may take the signal all the same.
    handler = signal(SIGINT, lambda *args: came.append(args)) if main else None
    mask = pthread_sigmask(SIG_BLOCK, {SIGINT})
    try:
        yield
    finally:
        pthread_sigmask(SIG_SETMASK, mask)
        if main:
            signal(SIGINT, handler)
    if came and callable(handler):
        handler(*came[0])


def _follow_parent() -> None:
    """In a worker: end when the parent does, even by kill -9."""
    parent = parent_process()
    assert parent is not None, "only workers call this"

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
