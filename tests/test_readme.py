"""Every block of the README runs."""

import re
import shlex
from pathlib import Path

import pytest
from reference import SHARED

from ghn.cli import main

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
FULL_SET = SHARED / "data" / "cifar10"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def commands(name: str) -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith(name)]


def test_nothing_is_left_unrun() -> None:
    languages = set(re.findall(r"^```(\w+)", TEXT, re.MULTILINE))
    assert languages <= {"bash", "python", "text"}
    assert all(line.startswith(("ghn ", "python bootstrap.py ")) for line in commands("") if line)


def test_setting_up_is_what_ci_does() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    for command in commands("python bootstrap.py "):
        assert command.replace("python ", "python3 ", 1) in ci


def test_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if FULL_SET.is_dir():
        monkeypatch.setenv("GHN_DATA", str(FULL_SET))
    for command in commands("ghn "):
        if command.startswith(("ghn train", "ghn finetune")) and not FULL_SET.is_dir():
            continue  # says itself that it needs the full set
        assert main(shlex.split(command)[1:]) == 0, command
    made = {"resnet50.svg", "weights.safetensors", "corpora", "corpus.html", "deepnets1m"}
    assert made <= {path.name for path in tmp_path.iterdir()}
