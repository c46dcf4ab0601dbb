"""Writing a corpus: the same bytes whatever the processes, however often it was killed, in all its refusals too."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import count, pairwise
from pathlib import Path
from random import Random

import pytest
from corpora import COUNT, SHARD, alive, children, command, contents, finished, started, wait_for

from deepnets_gen import stream, write
from deepnets_gen.corpus import Corpus
from deepnets_gen.manifest import MANIFEST, CorpusError, Funnel, Manifest
from deepnets_gen.verify import verify
from deepnets_gen.write import write_corpus
from ghn.errors import GHNError
from ghn.files import sole

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus written in one go by one process."""
    folder = tmp_path_factory.mktemp("corpora") / "whole"
    write_corpus("train", COUNT, folder, workers=1, shard_size=SHARD)
    return folder


def test_it_holds_the_first_distinct_graphs_of_the_stream(whole: Path) -> None:
    manifest, corpus = Manifest.read(whole), Corpus(whole)
    assert [corpus.genotype(i) for i in range(COUNT)] == list(stream.generate("train", COUNT))
    assert manifest.complete
    assert not manifest.exhausted
    assert [entry.count for entry in manifest.shards] == [40, 40, 40, 30]
    assert verify(whole).ok


def test_funnel_counts_what_became_of_every_candidate(whole: Path) -> None:
    for entry in Manifest.read(whole).shards:
        block = stream.block("train", 0, entry.next)
        reasons = [block.fates.get(x, 0) for x in (stream.INVALID, stream.TOO_LARGE, stream.OTHER_PART)]
        assert entry.funnel == Funnel(
            sampled=entry.next,
            valid=entry.next - reasons[0],
            under_limit=entry.next - sum(reasons[:2]),
            in_part=len(block.drawn),
            unique=len({drawn.key for drawn in block.drawn}),
        )


def test_two_processes_write_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    write_corpus("train", COUNT, tmp_path, workers=2, shard_size=SHARD)
    assert contents(tmp_path) == contents(whole)


@pytest.mark.parametrize("first", [25, 40, 95])
def test_a_longer_corpus_extends_a_shorter_one(whole: Path, tmp_path: Path, first: int) -> None:
    write_corpus("train", first, tmp_path, workers=1, shard_size=SHARD)
    assert len(Corpus(tmp_path)) == first
    write_corpus("train", COUNT, tmp_path, workers=1, shard_size=SHARD)
    assert contents(tmp_path) == contents(whole)


def test_a_finished_corpus_is_not_computed_again(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(stream, "block", refuse)
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    assert write_corpus("train", COUNT, whole, shard_size=SHARD) == Manifest.read(whole)
    assert {path: path.stat().st_mtime_ns for path in whole.iterdir()} == before


def test_another_seed_offset_is_another_stream(whole: Path, tmp_path: Path) -> None:
    write_corpus("train", 60, tmp_path, workers=1, seed_offset=1)
    assert not set(Corpus(tmp_path).keys()) & set(Corpus(whole).keys())


def test_duplicates_are_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream in which most candidates come twice, and some once more a little later."""
    real = cache(stream.block)

    def stutter(split: str, first: int, stop: int, seed_offset: int = 0) -> stream.Block:
        places = [i // 2 - (4 if i % 8 == 1 and i > 8 else 0) for i in range(first, stop)]
        blocks = [real(split, place, place + 1, seed_offset) for place in places]
        fates = sum((Counter(block.fates) for block in blocks), Counter())
        drawn = [replace(d, index=i) for i, block in enumerate(blocks, first) for d in block.drawn]
        return stream.Block(first, stop, tuple(drawn), dict(fates))

    monkeypatch.setattr(stream, "block", stutter)
    manifest = write_corpus("train", 50, tmp_path, workers=1, shard_size=20)
    drawn = stutter("train", 0, manifest.next).drawn
    assert list(Corpus(tmp_path).keys()) == list(dict.fromkeys(d.key for d in drawn))
    assert manifest.funnel.in_part == len(drawn) > manifest.funnel.unique == 50
    assert verify(tmp_path).ok


def test_a_finite_split_is_exhausted(tmp_path: Path) -> None:
    manifest = write_corpus("predefined", 5, tmp_path, workers=1)
    assert manifest.exhausted
    assert manifest.complete
    assert manifest.funnel == Funnel(2, 2, 2, 2, 2)
    before = contents(tmp_path)
    assert write_corpus("predefined", 5, tmp_path) == manifest
    assert contents(tmp_path) == before
    assert len(Corpus(tmp_path)) == 2
    assert write_corpus("predefined", 9, tmp_path, workers=1) == replace(manifest, count=9)
    assert verify(tmp_path).ok


class Killed(BaseException):
    """Ends a run at once, as kill -9 does."""


@pytest.mark.parametrize("after", [False, True])
def test_every_point_of_a_crash_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    """Crash before, or after, the n-th write, for every n, in a new corpus and in one that is extended."""
    monkeypatch.setattr(write, "BLOCK", 4)
    write_corpus("gpt", 10, tmp_path / "whole", workers=1, shard_size=4)
    wanted = contents(tmp_path / "whole")
    for short in (None, 6):
        for n in count():
            folder = tmp_path / f"{short}-{n}"
            if short:
                write_corpus("gpt", short, folder, workers=1, shard_size=4)
            with monkeypatch.context() as patch:
                crash_at(patch, n, after)
                try:
                    write_corpus("gpt", 10, folder, workers=1, shard_size=4)
                    break
                except Killed:
                    pass
            if (folder / MANIFEST).exists():
                assert verify(folder).ok
            write_corpus("gpt", 10, folder, workers=1, shard_size=4)
            assert contents(folder) == wanted
        assert n >= 5


def crash_at(patch: pytest.MonkeyPatch, n: int, after: bool) -> None:
    from deepnets_gen import manifest
    from ghn.files import write_atomic

    calls = count()

    def crashing(path: Path, content: bytes) -> None:
        crashes = next(calls) == n
        if crashes and not after:
            (path.parent / f".{path.name}.abc").write_bytes(content[: len(content) // 2])
            raise Killed
        write_atomic(path, content)
        if crashes:
            raise Killed

    patch.setattr(manifest, "write_atomic", crashing)
    patch.setattr(write, "write_atomic", crashing)


@linux
def test_kill_9_at_any_moment_then_resume(whole: Path, tmp_path: Path) -> None:
    """Real processes, one or two workers at a time; the workers end with their parent."""
    folder = tmp_path / "killed"
    for workers in (2, 1, 2):
        with started(folder, workers=workers) as process:
            kill_after_next_shard(process, folder)
        if (folder / MANIFEST).exists():
            assert verify(folder).ok
    assert subprocess.run(command(folder, workers=2), check=False, capture_output=True).returncode == 0
    assert contents(folder) == contents(whole)


def kill_after_next_shard(process: subprocess.Popen[str], folder: Path) -> None:
    """Kills some random time after the process has written a shard, or anything at all."""
    enough = finished(folder)
    wait_for(lambda: process.poll() is not None or finished(folder) > enough)
    time.sleep(Random().expovariate(20))
    workers = children(process.pid)
    process.kill()
    wait_for(lambda: not any(map(alive, workers)))


@linux
@pytest.mark.parametrize("shards", [0, 2])
def test_ctrl_c_is_tidy(tmp_path: Path, shards: int) -> None:
    """While the workers start, and when they are at work."""
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a background job may ignore it
    with started(tmp_path, count=100_000, workers=2, before=heard) as process:
        wait_for(lambda: children(process.pid) and finished(tmp_path) >= shards)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 130, told
    assert re.fullmatch(r"ghn: interrupted: [\d,]+ of 100,000 graphs are kept in \d+ shards; .*\n", told)


@linux
def test_a_worker_that_dies_is_reported(tmp_path: Path) -> None:
    with started(tmp_path, count=100_000, workers=2) as process:
        wait_for(lambda: finished(tmp_path))
        os.kill(max(children(process.pid)), signal.SIGKILL)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "terminated abruptly" in told
    assert "are kept in" in told


def test_a_full_disk_loses_nothing(whole: Path, tmp_path: Path) -> None:
    write_corpus("train", 80, tmp_path, workers=1, shard_size=SHARD)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))"
    told = subprocess.run(command(tmp_path, before=limit), check=False, capture_output=True, text=True)
    assert told.returncode == 2
    assert "File too large" in told.stderr
    assert "80 of 150 graphs are kept in 2 shards; the same command goes on" in told.stderr
    assert verify(tmp_path).ok
    write_corpus("train", COUNT, tmp_path, workers=1, shard_size=SHARD)
    assert contents(tmp_path) == contents(whole)


def test_a_second_writer_is_kept_out(tmp_path: Path) -> None:
    with sole(tmp_path / "busy"), pytest.raises(GHNError, match="another process is writing"):
        write_corpus("gpt", 3, tmp_path / "busy", workers=1)
    assert not (tmp_path / "busy").exists()  # nothing was written
    assert write_corpus("gpt", 3, tmp_path / "busy", workers=1).complete


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "val"}, "split 'train', not 'val'"),
        ({"shard_size": 41}, "shard_size 40, not 41"),
        ({"seed_offset": 2}, "seed_offset 0, not 2"),
        ({"count": 149}, "150 graphs, more than the 149 asked for"),
        ({"split": "tran"}, "no split 'tran'; there are train"),
        ({"count": 0}, "count is 0; it must be at least 1"),
        ({"workers": -1}, "workers is -1"),
        ({"shard_size": 0}, "shard_size is 0"),
        ({"seed_offset": -1}, "seed_offset is -1"),
    ],
)
def test_other_parameters_are_refused(whole: Path, change: dict, message: str) -> None:
    before = contents(whole)
    arguments = {"split": "train", "count": COUNT, "workers": 1, "shard_size": SHARD} | change
    with pytest.raises(CorpusError, match=message):
        write_corpus(out=whole, **arguments)
    assert contents(whole) == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(CorpusError, match=r"holds thesis\.tex and no manifest\.json"):
        write_corpus("train", 10, tmp_path, workers=1)
    with pytest.raises(GHNError, match=r"Not a directory|File exists"):
        write_corpus("train", 10, tmp_path / "thesis.tex", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


def test_shards_of_another_generator_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus("gpt", 10, tmp_path, workers=1)
    monkeypatch.setattr(write, "dictionary", lambda split: b"other")
    with pytest.raises(CorpusError, match="is from another generator"):
        write_corpus("gpt", 20, tmp_path, workers=1)
    edit(tmp_path / "manifest.json", lambda text: text.replace('"generator": 2', '"generator": 1'))
    with pytest.raises(CorpusError, match="generator 1, not 2"):
        write_corpus("gpt", 20, tmp_path, workers=1)


def test_a_missing_shard_stops_a_resume(tmp_path: Path) -> None:
    write_corpus("gpt", 10, tmp_path, workers=1)
    next(tmp_path.glob("graphs-*")).unlink()
    with pytest.raises(CorpusError, match="cannot be read: No such file"):
        write_corpus("gpt", 20, tmp_path, workers=1)


def test_progress_tells_the_funnel(tmp_path: Path) -> None:
    seen: list[Funnel] = []
    manifest = write_corpus("gpt", 90, tmp_path, workers=1, progress=seen.append)
    assert seen[0] == Funnel()
    assert seen[-1] == manifest.funnel
    assert all(a.unique <= b.unique for a, b in pairwise(seen))


def test_no_torch_is_imported() -> None:
    code = "import sys, deepnets_gen.cli, deepnets_gen.write, deepnets_gen.verify; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_interrupt_after_the_last_step_of_a_write_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def interrupted(*args: str | Path) -> None:
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_corpus("gpt", 3, tmp_path, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]
