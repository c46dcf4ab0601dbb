"""Several processes: the same bits as one, whatever is not finite or idle; one killed ends the others with words."""

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghn.errors import GHNError
from train.checkpoint import Checkpoint, latest, load
from train.distributed import World, _reason, balanced, world
from train.log import read_rows

CHILD = """
import os, signal, sys, time
import torch
from ghn.cli import main
from train import loop, runs
from train.data import load_sample

def load(split, *args, **options):
    return load_sample().take(torch.arange(900) if split == "train" else torch.arange(900, 1000))

runs.load, runs.draw_curves = load, lambda *args: None
step, jobs = loop.Trainer._step, loop.Trainer._jobs

def stepped(trainer):
    if trainer.counts.step == 3 and os.environ.get("RANK") == "1":
        if "KILL" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        if "INTERRUPT" in os.environ:
            os.kill(os.getppid(), signal.SIGINT)  # torchrun, as Ctrl-C in a terminal does
            time.sleep(60)
    return step(trainer)

def drawn(trainer, *args):
    found = jobs(trainer, *args)
    if trainer.counts.step == 1 and 1 in found:
        found[1].images.fill_(float("nan"))
    return found

loop.Trainer._step, loop.Trainer._jobs = stepped, drawn
sys.exit(main(sys.argv[1:]))
"""
CHECK = """
import torch
from train.distributed import WorldError, world

torch.set_num_threads(1)
with world("cpu") as here:
    for parts in range(1, 6):
        for length in (1, 2, 7, 1000):
            draw = torch.Generator().manual_seed(parts * length)
            whole = torch.randn(parts, length, generator=draw) * 10 ** torch.randn(parts, 1, generator=draw)
            expected = whole[0].clone()
            for part in whole[1:]:
                expected += part
            total = here.ordered_sum(parts, length, [whole[p].clone() for p in here.mine(parts)])
            assert total.numpy().tobytes() == expected.numpy().tobytes(), (parts, length)
    table = torch.zeros(5, dtype=torch.float64)
    table[list(here.mine(5))] = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.7], dtype=torch.float64)[list(here.mine(5))]
    assert here.merged(table).tolist() == [0.1, 0.2, 0.3, 0.4, 0.7]
    assert here.from_first(lambda: {"rank": here.rank}) == {"rank": 0}
    here.agree("nothing", "the same")
    try:
        here.agree("the rank", str(here.rank))
        raise AssertionError("different values agreed on")
    except WorldError as error:
        assert "do not agree on the rank (process 0: 0; process 1: 1)" in str(error)
    def fail():
        raise WorldError("a mistake")
    try:
        here.from_first(fail)
        raise AssertionError("no error")
    except (WorldError, SystemExit) as stop:
        assert str(stop) == ("a mistake" if here.first else "2")
"""
STAGE = '{"steps":%d,"image_size":16,"images":4,"networks":%d,"channels":8,"max_nodes":60,"max_macs":1000000}'
NUMBERS = {
    "ghn": '{"hid":8,"max_shape":[16,16,5,5]}',
    "stages": f"[{STAGE % (3, 3)},{STAGE % (1, 1)}]",  # with one network one of two processes has nothing to do
    "corpus": "3",
    "node_budget": "70",
    "val_networks": "2",
    "val_images": "20",
    "val_every": "2",
    "save_every": "2",
    "keep": "9",
    "shared_images": "false",
}
TRAIN = ["train", "smoke", *(word for key, value in NUMBERS.items() for word in ("--set", f"{key}={value}"))]


def start(code: str, *words: str, processes: int = 1, **environment: str) -> subprocess.Popen[str]:
    """The code as a script in as many processes, by torchrun if there are several."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "--no-python"]
    command = [sys.executable, *([*launcher, sys.executable] if processes > 1 else []), "-c", code, *words]
    inherited = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    settings = {**inherited, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def ended(child: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what was said; a deadlock fails."""
    try:
        _, said = child.communicate(timeout=120)
    finally:
        child.kill()
    return child.returncode, said


def trained(out: Path, *words: str, processes: int = 1, code: str = CHILD) -> Checkpoint:
    status, said = ended(start(code, *TRAIN, "--out", str(out), *words, processes=processes))
    assert status == 0, said
    return load(latest(out / "checkpoints"))


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    assert found.step == expected.step
    for part, tensors in expected.tensors.items():
        assert found.tensors[part].keys() == tensors.keys()
        for name, value in tensors.items():
            assert found.tensors[part][name].numpy().tobytes() == value.numpy().tobytes(), f"{part} {name}"


def log(out: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(out / "log.csv")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process whose meta-batches are divided in two."""
    out = tmp_path_factory.mktemp("alone") / "run"
    trained(out, "--set", "parts=2")
    assert [row["networks"] for row in log(out)] == ["3", "2", "3", "1"]
    return out


def test_killed_in_the_middle_and_resumed_by_two_gives_the_bits_of_one(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, said = ended(start(CHILD, *TRAIN, "--out", str(out), processes=2, KILL="1"))
    assert code != 0
    assert re.search(r"ghn: error: process 0 of 2 (lost the others|was told to end).*--resume", said), said
    assert "ghn: error: process 1" not in said
    assert load(latest(out / "checkpoints")).step == 2

    assert_same(trained(out, "--resume", processes=2), load(latest(alone / "checkpoints")))
    assert log(out) == log(alone)
    assert (out / "ghn" / "model.safetensors").is_file()


def test_two_interrupted_and_resumed_by_one_give_the_bits_of_one(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    _, said = ended(start(CHILD, *TRAIN, "--out", str(out), processes=2, INTERRUPT="1"))
    assert "ghn: interrupted" in said
    assert "loop.py" not in said, said  # no traceback of ours

    assert_same(trained(out, "--resume"), load(latest(alone / "checkpoints")))
    assert log(out) == log(alone)


def test_what_processes_tell_each_other() -> None:
    code, said = ended(start(CHECK, processes=2))
    assert code == 0, said


def test_the_reason_is_told_without_its_place_in_the_sources() -> None:
    said = "[/a/b/pair.cc:537] Read error [127.0.0.1]:19: Connection reset by peer. This is typically caused by a bug."
    assert _reason(RuntimeError(said)) == "Read error [127.0.0.1]:19: Connection reset by peer"
    assert _reason(RuntimeError("Broken pipe\nmore")) == "Broken pipe"


def test_one_process_is_a_world_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with world("cpu") as here:
        assert (here.rank, here.size, here.first, list(here.mine(3))) == (0, 1, True, [0, 1, 2])
    for name in ("cuda:99", "gpu", "meta"):
        with pytest.raises(GHNError, match=f"no device '{name}'"), world(name):
            pass


@given(costs=st.lists(st.integers(1, 10**9), min_size=1, max_size=20), parts=st.integers(1, 9))
def test_balanced_parts(costs: list[int], parts: int) -> None:
    found = balanced(costs, parts)
    assert sorted(place for part in found for place in part) == list(range(len(costs)))
    assert len(found) == min(parts, len(costs))
    assert all(found)
    assert all(costs[a] >= costs[b] for part in found for a, b in pairwise(part))
    sums = [sum(costs[place] for place in part) for part in found]
    assert max(sums) <= sum(costs) / len(sums) + max(costs) * (1 - 1 / len(sums)) + 1e-3  # of any greedy division


def test_parts_belong_to_one_process_each() -> None:
    for size in (1, 2, 3):
        taken = [part for rank in range(size) for part in World(rank, size).mine(7)]
        assert sorted(taken) == list(range(7))
