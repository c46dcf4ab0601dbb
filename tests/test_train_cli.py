"""The commands `ghn train` and `ghn data`, as the `ghn` command calls them."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import ghn
from ghn.errors import CheckpointError, DataError, GHNError
from train import data, runs
from train.checkpoint import latest, load
from train.cli import NAMES, RECIPES, register
from train.config import RecipeError
from train.data import ImageSet, load_sample
from train.log import read_rows


def call(*words: str) -> int:
    parser = argparse.ArgumentParser("ghn")
    register(parser.add_subparsers(required=True))
    args = parser.parse_args(words)
    return args.handler(args)


@pytest.fixture
def sample_as_full_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(split: str, root: object = None, **how: object) -> ImageSet:
        return load_sample().take(torch.arange(900) if split == "train" else torch.arange(900, 1000))

    monkeypatch.setattr(runs, "load", load)


SMALL = ["--set", "stages.0.steps=2", "--set", "corpus=1", "--set", "stages.1.max_macs=2000000"]


@pytest.mark.usefixtures("sample_as_full_set")
def test_train_then_resume_with_more_steps(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    out = tmp_path / "run"
    common = ["train", "smoke", "--out", str(out)]
    try:
        assert call(*common, *SMALL) == 0
        with pytest.raises(CheckpointError, match="already holds a run"):
            call(*common)
        assert call(*common, "--resume", "--set", "stages.1.steps=2") == 0
        with pytest.raises(RecipeError, match="of recipe 'smoke'"):
            call("train", "ghn2_cifar10", "--out", str(out), "--resume")
        assert call("train", "smoke", "--out", str(tmp_path / "b"), "--init", str(out), *SMALL) == 0
        shipped = ["train", "smoke", "--out", str(tmp_path / "c"), "--init", "ghn2-cifar10", "--set", "lr=0", *SMALL]
        assert call(*shipped) == 0
        with pytest.raises(CheckpointError, match="nowhere"):
            call("train", "smoke", "--out", str(tmp_path / "d"), "--init", "nowhere")
        with pytest.raises(CheckpointError, match="do not fit"):
            call("train", "smoke", "--out", str(tmp_path / "e"), "--init", str(out), "--set", "ghn.hid=8")
    finally:
        torch.set_num_threads(threads)
    kept, given = (ghn.load(name).model.state_dict() for name in (tmp_path / "c" / "ghn", "ghn2-cifar10"))
    assert all(torch.equal(kept[name], value) for name, value in given.items()), "nothing is learned at a rate of 0"
    assert load(latest(out / "checkpoints")).state["counts"]["step"] == 4
    assert [row["step"] for row in read_rows(out / "log.csv")] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["nope"], RecipeError, "no recipe 'nope'"),
        (["smoke", "--set", "speed=9"], RecipeError, "no field 'speed'"),
        (["smoke", "--threads", "0"], GHNError, "at least 1"),
        (["smoke", "--resume", "--init", "x"], GHNError, "one of them"),
        (["smoke", "--at", "best"], GHNError, "give --resume"),
        (["smoke", "--set", "ghn.hidden=8"], RecipeError, "does not describe a GHN.*hidden"),
        (["smoke", "--resume"], CheckpointError, "nothing to resume"),
        (["smoke", "--data", "nowhere"], DataError, "no images in nowhere"),
    ],
)
def test_mistakes(
    words: list[str], error: type[GHNError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        call("train", *words)
    assert not list(tmp_path.rglob("*.*")), "nothing half-written"


def test_data_without_the_full_set(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(data.ENV, raising=False)
    assert call("data") == 0
    out = capsys.readouterr().out
    assert "1000 test images" in out
    assert "GHN_DATA" in out
    with pytest.raises(DataError):
        call("data", "--data", "nowhere")


def test_classes_and_image_size_come_from_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a folder of pictures to the score of its GHN: three classes, twenty pixels, nothing of CIFAR-10."""
    from ghn.cli import main

    flowers, out = tmp_path / "flowers", tmp_path / "run"
    for i in range(90):
        path = flowers / ("daisy", "rose", "tulip")[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 23), (80 * (i % 3), i, 0)).save(path)
    own = ["--set", "stages.0.image_size=null", "--set", "stages.1.image_size=16", "--set", "val_images=5"]
    common = ["train", "smoke", "--out", str(out)]
    threads = torch.get_num_threads()
    try:
        assert call(*common, "--data", str(flowers), *own, *SMALL) == 0
        (flowers / "tulip").rename(flowers / "violet")
        with pytest.raises(DataError, match=r"began with are of 3 classes \(daisy, rose, tulip"):
            call(*common, "--data", str(flowers), "--resume")
    finally:
        torch.set_num_threads(threads)
    (flowers / "violet").rename(flowers / "tulip")
    hyper = ghn.load(out / "ghn")
    assert hyper.classes == ("daisy", "rose", "tulip")
    assert (hyper.image_size, hyper.model.config.num_classes) == (16, 3)
    assert hyper.card["data"] == "image folder flowers: parts of 8 : 1 : 1 by hash of the path"
    assert json.loads((out / "recipe.json").read_text())["stages"][0]["image_size"] == 20
    score = ["evaluate", "--split", "test", "--count", "1", "--checkpoint", str(out / "ghn"), "--json"]
    assert main([*score, "--data", str(flowers)]) == 0
    assert 0 <= json.loads(capsys.readouterr().out.splitlines()[-1])["summary"]["mean"] <= 1
    assert main(score) == 2
    assert "of 10 classes (airplane, automobile, bird, ...), the GHN was trained for 3" in capsys.readouterr().err


def test_names_in_the_help_are_those_there_are() -> None:
    from train import checkpoint, recipes

    assert set(RECIPES) == set(recipes.RECIPES)
    assert NAMES == checkpoint.NAMES


def test_help_is_instant() -> None:
    code = "import sys, train.cli; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
