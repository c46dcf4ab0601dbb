"""Checkpoints of a run: one folder each, complete or absent, whatever moment the process is killed at.

A folder holds safetensors files (`model`, `average`, `optimiser`) and `state.json` with everything else and the
files' checksums. It is written under a temporary name, flushed to the disk and renamed; the pointer files follow last:
`latest`, `best` (validation accuracy), `steady` (before the learning rate falls). Nothing is pickled.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ghn.errors import CheckpointError
from ghn.files import write_atomic

FORMAT = 1
LATEST, BEST, STEADY = NAMES = ("latest", "best", "steady")
_TEMPORARY = ".writing-"


@dataclass(frozen=True)
class Checkpoint:
    """step: steps done. tensors: per file name, name -> tensor. state: JSON-ready data."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save(root: Path, checkpoint: Checkpoint, keep: int, names: Sequence[str] = (LATEST,)) -> Path:
    """The folder written for this checkpoint, which `names` stand for from now on.

    Of the others the last `keep` up to this step stay, and those that a name stands for.
    """
    root.mkdir(parents=True, exist_ok=True)
    for stale in root.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(stale)
    target = root / f"step-{checkpoint.step:08d}"
    writing = root / f"{_TEMPORARY}{target.name}"
    writing.mkdir()
    for name, tensors in checkpoint.tensors.items():
        save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, writing / f"{name}.safetensors")
    sums = {path.name: _sha256(path) for path in sorted(writing.iterdir())}
    header = {"format": FORMAT, "step": checkpoint.step, "sha256": sums, "state": checkpoint.state}
    (writing / "state.json").write_text(json.dumps(header, indent=1))
    for path in (*writing.iterdir(), writing):
        _flush(path)
    if target.exists():  # left by a run that was killed before it could point to it
        shutil.rmtree(target)
    writing.rename(target)
    _flush(root)
    for name in names:
        write_atomic(root / name, target.name.encode())
    _flush(root)
    named = {named_folder(root, path.name) for path in root.iterdir() if path.name in NAMES}
    last = [path for path in sorted(root.glob("step-*")) if path <= target][-keep:]
    for other in root.glob("step-*"):  # later ones are of a run that this one went back behind
        if other not in named and other not in last:
            shutil.rmtree(other)
    return target


def latest(root: Path) -> Path:
    """The folder of the newest complete checkpoint. Raises CheckpointError where there is none."""
    return named_folder(root, LATEST)


def named_folder(root: Path, name: str) -> Path:
    """The folder of the checkpoint that this name stands for. Raises CheckpointError where there is none."""
    pointer = root / name
    if not pointer.is_file():
        raise CheckpointError(
            f"{root} has no checkpoint named {name!r}: nothing to resume; start the run without --resume"
        )
    return root / pointer.read_text().strip()


def load(folder: Path) -> Checkpoint:
    """What `save` wrote there, checked against its checksums. Raises CheckpointError."""
    try:
        header = json.loads((folder / "state.json").read_text())
        if header["format"] != FORMAT:
            raise CheckpointError(f"{folder} has format {header['format']}, this version reads {FORMAT}")
        for name, expected in header["sha256"].items():
            if _sha256(folder / name) != expected:
                raise CheckpointError(f"{folder / name} is damaged (checksum differs); take another checkpoint")
        tensors = {Path(name).stem: load_file(folder / name) for name in header["sha256"]}
        return Checkpoint(header["step"], tensors, header["state"])
    except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is not a complete checkpoint ({type(error).__name__}: {error})") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
