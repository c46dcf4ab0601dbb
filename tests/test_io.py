"""Checkpoints: what is saved is loaded to the bit, and whatever is wrong with one is said, never run."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file, save_file
from safetensors.torch import save as save_tensors

import ghn
from ghn.errors import CheckpointError, GHNError
from ghn.files import write_atomic
from ghn.io import CONFIG, ENV, NEXT, TENSORS, add_metrics
from ghn.model import GHN, GHNConfig

CONFIGS = [
    GHNConfig(num_classes=5, hid=8, max_shape=(8, 8, 3, 3)),
    GHNConfig(num_classes=3, hid=16, max_shape=(8, 16, 5, 5), cutoff=1, weight_norm=False, layernorm=False),
    GHNConfig(num_classes=5, hid=8, max_shape=(8, 8, 3, 3), propagation="graphormer", decoder="lowrank", heads=2),
]
CARD = {"name": "täst", "steps": 3, "metrics": {"top1": 0.125}}


def make(config: GHNConfig = CONFIGS[0], seed: int = 0) -> GHN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GHN(config)


def write(folder: Path, model: GHN) -> Path:
    classes = [f"c{i}" for i in range(model.config.num_classes)]
    ghn.save(folder, model, image_size=16, classes=classes, card=CARD)
    return folder


def same(a: GHN, b: GHN) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "saved", make())


@pytest.mark.parametrize("config", CONFIGS)
def test_round_trip_is_exact(tmp_path: Path, config: GHNConfig) -> None:
    model = make(config)
    hyper = ghn.load(write(tmp_path / "a" / "b", model))
    assert hyper.model.config == config
    assert same(hyper.model, model)
    assert not hyper.model.training
    assert (hyper.card, hyper.image_size, len(hyper.classes)) == (CARD, 16, config.num_classes)
    again = write(tmp_path / "again", hyper.model)
    for name in (TENSORS, CONFIG):
        assert (again / name).read_bytes() == (tmp_path / "a" / "b" / name).read_bytes()


def test_saving_leaves_only_its_files(folder: Path) -> None:
    write(folder, make(seed=1))
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, TENSORS]


def test_found_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ENV, f"{tmp_path / 'nowhere'}{os.pathsep}{folder.parent}")
    assert ghn.checkpoints()["saved"] == folder
    assert same(ghn.load("saved").model, make())
    with pytest.raises(CheckpointError, match=r"no checkpoint 'savd'.*saved"):
        ghn.load("savd")


def edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        change(config)
        (folder / CONFIG).write_text(json.dumps(config))

    return damage


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / TENSORS).read_bytes())
    content[-5] ^= 1
    (folder / TENSORS).write_bytes(content)


def other_architecture(folder: Path) -> None:
    write(folder.parent / "other", make(CONFIGS[1]))
    theirs = json.loads((folder.parent / "other" / CONFIG).read_text())
    edit(lambda config: config.update(ghn=theirs["ghn"]))(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / TENSORS).unlink(), rf"{TENSORS} cannot be read: No such file"),
        (lambda f: (f / CONFIG).unlink(), rf"{CONFIG} cannot be read: No such file"),
        (lambda f: (f / TENSORS).write_bytes((f / TENSORS).read_bytes()[:-100]), "damaged or cut short"),
        (lambda f: (f / TENSORS).write_bytes(b""), r"\(0 bytes\) is damaged"),
        (flip_a_bit, "checksum"),
        (lambda f: (f / CONFIG).write_text("{not json"), "is not JSON"),
        (lambda f: (f / CONFIG).write_bytes(b"\xff\xfe\x00"), "is not JSON"),
        (lambda f: (f / CONFIG).write_text("[1]"), "format None"),
        (edit(lambda c: c.update(format=99)), "format 99; this version reads 1"),
        (edit(lambda c: c.pop("card")), "lacks card"),
        (edit(lambda c: c["ghn"].update(depth=3)), "depth"),
        (edit(lambda c: c["ghn"].pop("max_shape")), "max_shape"),
        (edit(lambda c: c["ghn"].update(hid="wide")), "does not hold the GHN"),
        (edit(lambda c: c["ghn"].update(hid=-4)), "does not hold the GHN"),
        (edit(lambda c: c["ghn"].update(max_shape=[8])), "does not hold the GHN"),
        (edit(lambda c: c.update(ghn=None)), "does not hold the GHN"),
        (edit(lambda c: c.update(image_size="large")), "large"),
        (edit(lambda c: c.update(card=[1])), "does not hold the GHN"),
        (other_architecture, "does not hold the GHN that its config describes"),
    ],
)
def test_damage_is_said_in_one_line(folder: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        ghn.load(folder)
    assert isinstance(caught.value, GHNError)
    assert "\n" not in str(caught.value)


def test_tensors_that_are_none_are_refused_though_their_checksum_holds(folder: Path) -> None:
    content = b"no tensors at all"
    (folder / TENSORS).write_bytes(content)
    edit(lambda c: c.update(sha256=hashlib.sha256(content).hexdigest()))(folder)
    with pytest.raises(CheckpointError, match="does not hold the GHN"):
        ghn.load(folder)


@pytest.mark.parametrize(("crash_at", "survivor"), [(1, 0), (2, 0), (3, 1)])
def test_a_crash_while_saving_leaves_a_whole_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int, survivor: int
) -> None:
    real, calls = os.replace, []

    def replace(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == crash_at:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            write(folder, make(seed=1))
    assert same(ghn.load(folder).model, make(seed=survivor))
    assert {p.name for p in folder.iterdir()} <= {CONFIG, TENSORS, NEXT}
    write(folder, make(seed=2))  # and the next save mends it
    assert same(ghn.load(folder).model, make(seed=2))
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, TENSORS]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def edited(path: Path, change: Callable[[dict], object]) -> None:
    """Changes the record in a checkpoint file's metadata."""
    tensors, record = load_file(path), metadata(path)
    change(record)
    save_file(tensors, path, metadata={"ghn": json.dumps(record)})


def metadata(path: Path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["ghn"])


@pytest.mark.parametrize("config", CONFIGS)
def test_a_converted_checkpoint_is_the_same_in_one_file(tmp_path: Path, config: GHNConfig) -> None:
    old, new = write(tmp_path / "old", make(config)), tmp_path / "new.safetensors"
    converted, hyper = ghn.convert(old, new), ghn.load(new)
    assert same(hyper.model, make(config))
    assert same(converted.model, hyper.model)
    assert hyper.model.config == config
    assert (hyper.card, hyper.image_size, len(hyper.classes)) == (CARD, 16, config.num_classes)
    ghn.convert(new, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == new.read_bytes()


def scribbled(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (scribbled, "damaged: its checksum"),
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "cannot be read"),
        (lambda p: p.write_bytes(b""), "cannot be read"),
        (lambda p: save_file(load_file(p), p), "format None"),
        (lambda p: save_file(load_file(p), p, metadata={"ghn": "{"}), "cannot be read"),
        (lambda p: edited(p, lambda r: r.pop("card")), "lacks card"),
        (lambda p: edited(p, lambda r: r["ghn"].update(hid=16)), r"embed.weight has shape \[15, 8\], not \[15, 16\]"),
    ],
)
def test_a_damaged_checkpoint_file_is_refused(folder: Path, damage: Callable[[Path], Any], message: str) -> None:
    path = folder.parent / "new.safetensors"
    ghn.convert(folder, path)
    damage(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        ghn.load(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_are_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        ghn.load(tmp_path / "x.pt")


def test_tensors_are_plain_safetensors(folder: Path) -> None:
    tensors = load_tensors((folder / TENSORS).read_bytes())
    assert tensors.keys() == make().state_dict().keys()
    assert save_tensors(tensors) == (folder / TENSORS).read_bytes()


def test_metrics_join_the_card_and_leave_the_rest(folder: Path) -> None:
    before = (folder / TENSORS).read_bytes()
    add_metrics(folder, {"ResNet-50": "31%"})
    assert ghn.load(folder).card == {**CARD, "metrics": {**CARD["metrics"], "ResNet-50": "31%"}}
    assert (folder / TENSORS).read_bytes() == before
