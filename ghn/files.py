"""Files that appear whole or not at all, and folders that one process writes to at a time."""

import argparse
import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

from ghn.errors import GHNError


def writable(file: str | None) -> Path | None:
    """The path, refused before any work is done where nothing can be written there. Raises GHNError."""
    if file is None:
        return None
    path = Path(file)
    if path.is_dir():
        raise GHNError(f"cannot write {path}: it is a folder; give a file name")
    if not path.parent.is_dir():
        raise GHNError(f"cannot write {path}: there is no folder {path.parent}; create it first")
    if not os.access(path.parent, os.W_OK):
        raise GHNError(f"cannot write {path}: no permission in {path.parent}; choose another folder")
    return path


def write(path: Path, content: bytes) -> None:
    """`write_atomic` for a path that the user named: what goes wrong is a GHNError."""
    try:
        write_atomic(path, content)
    except OSError as error:
        raise GHNError(f"cannot write {path}: {error.strerror or error}; choose another place") from error


def write_atomic(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old content or the new, never a part."""
    with _beside(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def replacing(path: Path) -> Generator[Path, None, None]:
    """A new file beside `path`, for writers that want a path; it becomes `path` when the block ends without an error.

    For what is too large to hold in memory. Raises GHNError where the disk does not take it; `path` is then as before.
    """
    try:
        with _beside(path) as temporary:
            yield temporary
    except OSError as error:
        raise GHNError(f"cannot write {path}: {error.strerror or error}; choose another place") from error


@contextlib.contextmanager
def _beside(path: Path) -> Generator[Path, None, None]:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)  # gone after an error; Ctrl-C may come when it has its new name already


@contextlib.contextmanager
def sole(folder: Path) -> Generator[None, None, None]:
    """Makes the folder, and keeps other processes from writing to it until the block ends.

    The lock is on the folder itself and goes with the process, however that ends. A folder that stays empty is removed.
    On Windows, which has no such locks, others are not kept out.
    Raises GHNError where another process is writing there, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = None if sys.platform == "win32" else os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise GHNError(f"cannot make the folder {folder}: {error.strerror}; choose another place") from error
    try:
        if handle is not None:
            _lock(handle, folder)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()
    finally:
        if handle is not None:
            os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    import fcntl  # not there on Windows, where everything else of this file is

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        message = f"another process is writing to {folder}; wait for it, or choose another folder"
        raise GHNError(message) from error


def in_sole_folder(handler: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """The handler of a command, with its folder --out to itself while it runs (`sole`)."""

    @functools.wraps(handler)
    def alone(args: argparse.Namespace) -> int:
        with sole(args.out):
            return handler(args)

    return alone
