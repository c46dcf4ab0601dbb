"""The commands `ghn train` and `ghn data`, as the `ghn` command calls them."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
    finally:
        torch.set_num_threads(threads)
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


def test_names_in_the_help_are_those_there_are() -> None:
    from train import checkpoint, recipes

    assert set(RECIPES) == set(recipes.RECIPES)
    assert NAMES == checkpoint.NAMES


def test_help_is_instant() -> None:
    code = "import sys, train.cli; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
