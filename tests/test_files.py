"""Folders that one process writes to at a time: the lock itself, and the commands that take it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ghn.cli import main
from ghn.errors import GHNError
from ghn.files import sole

HOLD = "import sys, time; from pathlib import Path; from ghn.files import sole\n"
HOLD += "with sole(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"


def test_a_folder_is_free_again_when_its_process_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(GHNError, match=rf"another process is writing to {folder}"), sole(folder):
            pass
        assert folder.is_dir()  # it is the other's, empty or not
        os.kill(holder.pid, signal.SIGKILL)
    finally:
        holder.kill()
        holder.communicate()
    with sole(folder):
        (folder / "kept").touch()
    assert (folder / "kept").exists()


def test_a_folder_is_left_as_it_was_found(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), sole(tmp_path / "new"):
        raise BlockingIOError("of the block itself")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(GHNError, match=r"cannot make the folder .*file: File exists"), sole(tmp_path / "file"):
        pass


@pytest.mark.parametrize(
    "words",
    [
        ["train", "smoke"],
        ["search", "--space", "nasbench201", "--strategy", "random", "--evaluator", "params", "--budget", "3"],
        ["rank", "--space", "nasbench201", "--evaluators", "params", "--truth", "cifar10_test_200"],
        ["finetune", "deepnets/test/0", "--inits", "own"],
        ["generate", "--split", "gpt", "--count", "3"],
    ],
    ids=lambda words: words[0],
)
def test_commands_keep_out_of_a_folder_in_use(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sole(tmp_path):
        assert main([*words, "--out", str(tmp_path)]) == 2
        assert f"another process is writing to {tmp_path}" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())
