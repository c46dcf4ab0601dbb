"""Files that appear whole or not at all."""

import os
import tempfile
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
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
