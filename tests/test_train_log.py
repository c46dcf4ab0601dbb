"""The log: rows read back, cut off where a run resumes, robust to exploding and missing values."""

import math
from pathlib import Path

import pytest

from ghn.errors import GHNError
from train.log import COLUMNS, CSVLog, Progress, Row, WandbLog, draw_curves, read_rows


def row(step: int, **changes: float) -> Row:
    fields = {"stage": 0, "loss": 2.5, "accuracy": 0.1, "lr": 1e-3, "grad_norm": 1.0, "networks": 2}
    return Row(**{"step": step, "skipped": 0, "skipped_steps": 0, "seconds": step * 0.5, **fields, **changes})  # ty: ignore


def write(path: Path, start: int, end: int) -> None:
    log = CSVLog(path, start)
    for step in range(start, end):
        log.write(row(step))
    log.close()


def test_resuming_cuts_off_what_comes_again(tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole.csv", tmp_path / "resumed.csv"
    write(whole, 0, 9)
    write(resumed, 0, 7)
    with resumed.open("a") as file:
        file.write("7,0,2.")
    write(resumed, 4, 9)
    assert resumed.read_bytes() == whole.read_bytes()
    write(resumed, 0, 2)  # a run that begins anew keeps nothing
    assert [r["step"] for r in read_rows(resumed)] == ["0", "1"]
    assert tuple(read_rows(whole)[0]) == COLUMNS


def test_progress_shows_the_median_and_outlives_empty_steps(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(0, 4)
    bar.write(row(0, networks=0, loss=math.nan, accuracy=math.nan))
    for step, loss in enumerate([2.0, 1e12, 2.25], start=1):
        bar.write(row(step, loss=loss, skipped=3, skipped_steps=1, val_accuracy=0.25))
    bar.close()
    shown = capsys.readouterr().err.split("\r")[-1]
    assert "4/4" in shown
    assert "loss=2.250" in shown
    assert "val=25.0%" in shown
    assert "3 nets, 1 steps" in shown


def test_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="curves need matplotlib")
    log = CSVLog(tmp_path / "log.csv", 0)
    for step in range(5):
        log.write(row(step, networks=step % 2, val_accuracy=0.2 if step == 3 else None))  # ty: ignore
    log.close()
    assert draw_curves(tmp_path / "log.csv", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_missing_wandb_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(GHNError, match="needs the package wandb"):
        WandbLog(tmp_path, "x", {})
