"""What the tests of corpora share: folders compared, and processes that write a corpus."""

import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COUNT, SHARD = 150, 40


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def command(folder: Path, count: int = COUNT, workers: int = 1, before: str = "pass") -> list[str]:
    """A process that writes a corpus as `ghn generate` does. before: Python to run first."""
    words = ["generate", "--split", "train", "--count", count, "--out", folder, "--workers", workers]
    words += ["--shard-size", SHARD]
    code = f"import sys; {before}; from ghn.cli import main; sys.exit(main({[str(w) for w in words]}))"
    return [sys.executable, "-W", "error", "-c", code]


@contextmanager
def started(*args: Any, **options: Any) -> Generator[subprocess.Popen[str], None, None]:
    """The process of `command`, in a group of its own as a terminal gives it; it ends with the block."""
    with subprocess.Popen(
        command(*args, **options), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    """Returns when the condition holds; an AssertionError if it does not in time."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.005)


def children(process: int) -> list[int]:
    """The processes that this one started, none if it has ended. Linux only."""
    try:
        return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def alive(process: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def finished(folder: Path) -> int:
    """Shards in a folder."""
    return len(list(folder.glob("graphs-*")))
