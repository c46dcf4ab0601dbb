"""Checkpoints: whole or absent whatever moment the process ends at; damage is named."""

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ghn.errors import CheckpointError
from train import checkpoint
from train.checkpoint import BEST, LATEST, STEADY, Checkpoint, latest, load, named_folder, save


def example(step: int) -> Checkpoint:
    return Checkpoint(step, {"model": {"w": torch.full((3, 2), step / 3)}, "empty": {}}, {"note": "ä", "step": step})


def same(a: Checkpoint, b: Checkpoint) -> bool:
    values = [(k, n, v) for k, part in a.tensors.items() for n, v in part.items()]
    return a.step == b.step and a.state == b.state and all(torch.equal(v, b.tensors[k][n]) for k, n, v in values)


def test_round_trip_and_the_last_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3, 30):
        save(tmp_path, example(step), keep=2)
        assert same(load(latest(tmp_path)), example(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000003", "step-00000030"]


def test_same_step_again_replaces(tmp_path: Path) -> None:
    save(tmp_path, example(5), keep=1)
    save(tmp_path, example(5), keep=1)
    assert same(load(latest(tmp_path)), example(5))


@settings(max_examples=40)
@given(improves=st.lists(st.booleans(), min_size=1, max_size=12), keep=st.integers(1, 3))
def test_the_last_and_the_best_stay(improves: list[bool], keep: int) -> None:
    with TemporaryDirectory() as name:
        root, best = Path(name), None
        for step, better in enumerate(improves, 1):
            save(root, example(step), keep, (LATEST, BEST) if better else (LATEST,))
            best = step if better else best
            assert same(load(latest(root)), example(step))
        expected = {*range(1, len(improves) + 1)[-keep:], *([best] if best else [])}
        assert {load(folder).step for folder in root.glob("step-*")} == expected
        if best:
            assert same(load(named_folder(root, BEST)), example(best))
        else:
            with pytest.raises(CheckpointError, match="no checkpoint named 'best'"):
                named_folder(root, BEST)


def test_going_back_leaves_what_came_after(tmp_path: Path) -> None:
    for step, names in [(1, [LATEST]), (2, [LATEST, STEADY]), (3, [LATEST]), (4, [LATEST, BEST])]:
        save(tmp_path, example(step), 2, names)
    save(tmp_path, example(3), 2)  # a run that went on from the steady one
    assert {load(folder).step for folder in tmp_path.glob("step-*")} == {2, 3, 4}
    save(tmp_path, example(5), 2, (LATEST, BEST))
    assert {load(folder).step for folder in tmp_path.glob("step-*")} == {2, 4, 5}


class Killed(BaseException):
    """Stands for the end of the process."""


KILLED_AT = ["save_file", "_sha256", "_flush", "rename", "write_atomic", "rmtree"]


@pytest.mark.parametrize("moment", KILLED_AT)
@pytest.mark.parametrize("after", [0, 1])
def test_killed_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, after: int) -> None:
    save(tmp_path, example(1), keep=1)
    calls = []

    def kill(*args: object, **kwargs: object) -> None:
        calls.append(args)
        if len(calls) > after:
            raise Killed
        original(*args, **kwargs)

    owner = {"rename": Path, "rmtree": shutil}.get(moment, checkpoint)
    with monkeypatch.context() as patch:
        original = getattr(owner, moment)
        patch.setattr(owner, moment, kill)
        try:
            save(tmp_path, example(2), keep=1)
            done = True
        except Killed:
            done = False
    found = load(latest(tmp_path))
    assert same(found, example(2)) if done else same(found, example(1)) or same(found, example(2))
    save(tmp_path, example(3), keep=1)
    assert same(load(latest(tmp_path)), example(3))
    assert not list(tmp_path.glob(".writing*"))


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume"):
        latest(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_damage_is_named(tmp_path: Path, name: str, damage: str) -> None:
    folder = save(tmp_path, example(4), keep=1)
    path = folder / name
    content = path.read_bytes()
    if damage == "gone":
        os.remove(path)
    else:
        path.write_bytes(content[:-9] if damage == "cut" else b"\xff" + content[1:])
    with pytest.raises(CheckpointError, match="step-00000004"):
        load(folder)


def test_other_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path, example(4), keep=1)
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    with pytest.raises(CheckpointError, match="format 1, this version reads 2"):
        load(folder)
