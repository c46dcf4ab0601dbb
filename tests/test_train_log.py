"""The log: rows read back, cut off where a run resumes, robust to exploding and missing values."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
    assert "nets/s=4.0" in shown, "two networks in half a second"
    assert "<00:00" in shown, "time left"
    assert "step/s" in shown or "s/step" in shown


def test_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="curves need matplotlib")
    log = CSVLog(tmp_path / "log.csv", 0)
    for step in range(5):
        log.write(row(step, networks=step % 2, val_accuracy=0.2 if step == 3 else None))  # ty: ignore
    log.close()
    assert draw_curves(tmp_path / "log.csv", "a run <of mine>")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "curves.html").read_text()
    assert page.count("<svg") == 1
    assert "a run &lt;of mine&gt;" in page
    body = page[page.index("<tbody>") :]
    assert body.count("<tr>") == 2, "the step that was validated, and the last"
    assert "<tr><td>3</td>" in body
    assert "<td>0.2</td></tr>" in body
    assert "<tr><td>4</td>" in body


def test_curves_of_a_run_without_steps(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="curves need matplotlib")
    CSVLog(tmp_path / "log.csv", 0).close()
    assert draw_curves(tmp_path / "log.csv", "nothing")
    assert "<svg" in (tmp_path / "curves.html").read_text()


OFFLINE = """
import sys
from pathlib import Path
from train.log import Row, WandbLog

folder = Path(sys.argv[1])
for start in (0, 3):  # a run and its resumption
    log = WandbLog(folder, "smoke", {"lr": 0.5, "stages": [{"steps": 3}]})
    for step in range(start, start + 3):
        log.write(Row(step, 0, 2.5 - step, 0.1, 1e-3, 1.0, 2, 0, 0, 0.5, 0.25 if step == 4 else None))
    log.close()
"""


def test_wandb_offline_for_real(tmp_path: Path) -> None:
    """Nobody is logged in: everything stays in the folder, and what is there is what was logged."""
    pytest.importorskip("wandb", reason="wandb is not installed")
    hidden = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "PYTHONPATH": str(Path(__file__).parents[1])}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | hidden
    command = [sys.executable, "-c", OFFLINE, str(tmp_path)]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert child.returncode == 0, child.stderr
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert len({path.name for path in files}) == 1, "the same id"
    content = b"".join(path.read_bytes() for path in files)
    assert all(column.encode() in content for column in COLUMNS)
    assert b"smoke" in content


@pytest.mark.parametrize(
    ("logged_in", "setting", "mode", "resume"),
    [
        (False, None, "offline", None),
        (True, None, "online", "allow"),
        (True, "offline", None, None),
        (False, "disabled", None, None),
    ],
)
def test_wandb_is_online_only_for_those_logged_in(
    logged_in: bool,
    setting: str | None,
    mode: str | None,
    resume: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[dict[str, Any]] = []
    fake = SimpleNamespace(login=lambda **how: logged_in, init=lambda **how: given.append(how), Error=RuntimeError)
    monkeypatch.setitem(sys.modules, "wandb", fake)  # ty: ignore
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if setting:
        monkeypatch.setenv("WANDB_MODE", setting)
    for _ in range(2):
        WandbLog(tmp_path, "x", {})
    assert [how["mode"] for how in given] == [mode] * 2
    assert [how["resume"] for how in given] == [resume] * 2
    assert given[0]["id"] == given[1]["id"]

    def fails(**how: object) -> None:
        raise RuntimeError("no way through")

    fake.init = fails
    with pytest.raises(GHNError, match=r"no way through.*WANDB_MODE=offline"):
        WandbLog(tmp_path, "x", {})


def test_missing_wandb_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(GHNError, match="needs the package wandb"):
        WandbLog(tmp_path, "x", {})
