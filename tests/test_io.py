"""Checkpoints: what is saved is loaded to the bit, and whatever is wrong with one is said, never run."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import REFERENCE, graph, needs_reference, stats
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

import ghn
from ghn.errors import CheckpointError, GHNError
from ghn.files import write_atomic
from ghn.io import CONFIG, ENV, NEXT, TENSORS, add_metrics, load_ppuda
from ghn.model import GHN, GHNConfig

CONFIGS = [
    GHNConfig(num_classes=5, hid=8, max_shape=(8, 8, 3, 3)),
    GHNConfig(num_classes=3, hid=16, max_shape=(8, 16, 5, 5), cutoff=1, weight_norm=False, layernorm=False),
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
        (other_architecture, "does not hold the GHN that its config.json describes"),
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


class Malicious:
    """Pickled as a command that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_pt_file_does_not_run(tmp_path: Path) -> None:
    proof, file = tmp_path / "executed", tmp_path / "bad.pt"
    torch.save({"config": {}, "state_dict": Malicious(proof)}, file)
    with pytest.raises(CheckpointError, match="is not a ppuda checkpoint"):
        ghn.load(file)
    assert not proof.exists()


def ppuda(model: GHN) -> dict[str, Any]:
    config = model.config
    return {
        "state_dict": model.state_dict(),
        "config": {
            "hypernet": "gatedgnn",
            "decoder": "conv",
            "num_classes": config.num_classes,
            "hid": config.hid,
            "max_shape": config.max_shape,
            "ve": config.cutoff > 1,
            "weight_norm": config.weight_norm,
            "layernorm": config.layernorm,
        },
    }


@pytest.mark.parametrize("config", CONFIGS)
def test_ppuda_files_load(tmp_path: Path, config: GHNConfig) -> None:
    model = make(config)
    torch.save(ppuda(model), tmp_path / "theirs.pt")
    hyper = ghn.load(tmp_path / "theirs.pt")
    assert hyper.model.config == config
    assert same(hyper.model, model)
    assert (hyper.image_size, len(hyper.classes)) == (32, config.num_classes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("config"), "not a ppuda checkpoint"),
        (lambda d: d.update(config=3), "not a ppuda checkpoint"),
        (lambda d: d["config"].update(hypernet="graphormer"), "'graphormer' GHN"),
        (lambda d: d["config"].pop("hid"), "hid"),
        (lambda d: d["config"].update(hid=16), "does not hold the GHN"),
        (lambda d: d["config"].update(max_shape=8), "does not hold the GHN"),
        (lambda d: d["state_dict"].pop("embed.weight"), "embed.weight"),
    ],
)
def test_damaged_ppuda_files_are_refused(tmp_path: Path, change: Callable[[dict], Any], message: str) -> None:
    data = ppuda(make())
    change(data)
    torch.save(data, tmp_path / "theirs.pt")
    with pytest.raises(CheckpointError, match=message):
        ghn.load(tmp_path / "theirs.pt")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"plain text"])
def test_files_that_are_no_pt_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a ppuda checkpoint"):
        load_ppuda(tmp_path / "x.pt")


def test_files_that_are_missing_are_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a ppuda checkpoint.*No such file"):
        load_ppuda(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        ghn.load(tmp_path / "x.pt")


@needs_reference
def test_a_published_file_predicts_its_own_numbers() -> None:
    hyper = ghn.load(REFERENCE / "ghn2_cifar10.pt")
    weights, _ = hyper.predict(graph=graph("ghn2_cifar10", "d1"))
    total = torch.stack([w.double().norm() for w in weights.values()]).norm().item()
    assert total == pytest.approx(stats("ghn2_cifar10", "d1")["total_norm"], rel=1e-5)


def test_tensors_are_plain_safetensors(folder: Path) -> None:
    tensors = load_tensors((folder / TENSORS).read_bytes())
    assert tensors.keys() == make().state_dict().keys()
    assert save_tensors(tensors) == (folder / TENSORS).read_bytes()


def test_metrics_join_the_card_and_leave_the_rest(folder: Path) -> None:
    before = (folder / TENSORS).read_bytes()
    add_metrics(folder, {"ResNet-50": "31%"})
    assert ghn.load(folder).card == {**CARD, "metrics": {**CARD["metrics"], "ResNet-50": "31%"}}
    assert (folder / TENSORS).read_bytes() == before
