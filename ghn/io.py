"""Checkpoints: our own folder or file, and the peers' files, read without unpickling code.

A checkpoint folder holds `model.safetensors`, `config.json` (format, GHN config, image size, classes, sha256 of
the tensors, card) and, for people, `README.md`. While it is being replaced, and after a crash in that moment,
`model.next.safetensors` stands beside them: the tensors are those of the file with the checksum in the config.

A checkpoint file is one of safetensors whose metadata hold, under `ghn`, what a folder's `config.json` does; the
checksum there is of the tensors' numbers by name.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from safetensors.torch import save_file
from torch import Tensor

from ghn.errors import CheckpointError
from ghn.files import replacing, write_atomic
from ghn.hyper import Hypernet
from ghn.model import GHN, GHNConfig
from ghn.published import UNFIT, filled, load_published, reason

FORMAT = 1
TENSORS, CONFIG = "model.safetensors", "config.json"
NEXT = "model.next.safetensors"
ENV = "GHN_CHECKPOINTS"
HUB = "hf:"  # how the name of a checkpoint on the Hugging Face hub begins


def folders() -> list[Path]:
    """Where named checkpoints are looked for: $GHN_CHECKPOINTS, inside the installed package, in the checkout."""
    package = Path(__file__).resolve().parent
    named = [Path(p) for p in os.environ.get(ENV, "").split(os.pathsep) if p]
    return [*named, package / "_checkpoints", package.parent / "checkpoints"]


def checkpoints() -> dict[str, Path]:
    """Name -> folder of every checkpoint that `load` finds by name."""
    found: dict[str, Path] = {}
    for folder in folders():
        for config in sorted(folder.glob(f"*/{CONFIG}")):
            found.setdefault(config.parent.name, config.parent)
    return found


def load(name: str | Path) -> Hypernet:
    """The trained GHN of this name (see `checkpoints`), in this folder or file, or on the hub ('hf:owner/name').

    Files are ours (`.safetensors`) or the peers' (`ghn.published`). Raises CheckpointError: nothing there, damaged, or
    of another version.
    """
    if str(name).startswith(HUB):
        from ghn.adapters.hub import fetch

        name = fetch(str(name).removeprefix(HUB))
    path = Path(name)
    if not path.is_file():
        return _load_folder(find(name))
    if path.suffix == ".safetensors":
        return _load_file(path)
    model = load_published(path)
    classes = tuple(f"class {i}" for i in range(model.config.num_classes))
    return Hypernet(model, {"name": path.stem, "format": "published"}, 32 if len(classes) < 1000 else 224, classes)


def find(name: str | Path) -> Path:
    """The folder of the checkpoint of this name, or this folder. Raises CheckpointError where there is none."""
    if Path(name).is_dir():
        return Path(name)
    known = checkpoints()
    if str(name) not in known:
        places = ", ".join(sorted(known)) or "none"
        raise CheckpointError(f"no checkpoint {str(name)!r}: neither a folder, a file, nor one of: {places}")
    return known[str(name)]


def add_metrics(name: str | Path, metrics: Mapping[str, Any]) -> None:
    """Puts these figures on the checkpoint's card, beside those already there. Raises CheckpointError."""
    path = find(name) / CONFIG
    config = read_config(path)
    config["card"]["metrics"] = {**config["card"].get("metrics", {}), **metrics}
    write_atomic(path, _json(config))


def save(
    folder: str | Path,
    model: GHN,
    *,
    image_size: int,
    classes: Sequence[str],
    card: Mapping[str, Any],
) -> None:
    """Writes a checkpoint folder, or replaces the one there; a crash at any moment leaves the old or the new one."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = save_tensors(_plain(model))
    config = _record(model, image_size, classes, card, hashlib.sha256(tensors).hexdigest())
    write_atomic(folder / NEXT, tensors)
    write_atomic(folder / CONFIG, _json(config))  # from here on the new one holds
    os.replace(folder / NEXT, folder / TENSORS)


def convert(old: str | Path, new: str | Path) -> Hypernet:
    """The GHN of any name or file that `load` reads, written to one safetensors file. Raises CheckpointError."""
    hyper = load(old)
    state = _plain(hyper.model)
    record = _record(hyper.model, hyper.image_size, hyper.classes, hyper.card, _fingerprint(state))
    with replacing(Path(new)) as file:
        save_file(state, file, metadata={"ghn": json.dumps(record)})
    return hyper


def _plain(model: GHN) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}


def _record(
    model: GHN, image_size: int, classes: Sequence[str], card: Mapping[str, Any], sha256: str
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "ghn": model.config.to_dict(),
        "image_size": image_size,
        "classes": list(classes),
        "sha256": sha256,
        "card": dict(card),
    }


def _fingerprint(state: Mapping[str, Tensor]) -> str:
    """A checksum of the tensors' numbers, by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _json(config: Mapping[str, Any]) -> bytes:
    return (json.dumps(config, indent=1) + "\n").encode()


def _load_folder(folder: Path) -> Hypernet:
    config = read_config(folder / CONFIG)
    content = _read_tensors(folder, config["sha256"])
    return _built(config, lambda: load_tensors(content), str(folder))


def _load_file(path: Path) -> Hypernet:
    try:
        with safe_open(path, "pt") as file:
            record = json.loads((file.metadata() or {}).get("ghn", "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}; fetch it again") from error
    config = _checked(record, path)
    if _fingerprint(state) != config["sha256"]:
        raise CheckpointError(f"{path} is damaged: its checksum is not the one in its metadata; fetch it again")
    return _built(config, lambda: state, str(path))


def _built(config: Mapping[str, Any], tensors: Callable[[], dict[str, Tensor]], where: str) -> Hypernet:
    try:
        model = filled(GHNConfig.from_dict(config["ghn"]), tensors(), where)
        return Hypernet(model, config["card"], int(config["image_size"]), tuple(config["classes"]))
    except (SafetensorError, *UNFIT) as error:
        raise CheckpointError(f"{where} does not hold the GHN that its config describes: {reason(error)}") from error


def _read_tensors(folder: Path, sha256: str) -> bytes:
    """The tensors file with this checksum."""
    content = b""
    for path in (folder / NEXT, folder / TENSORS):
        if path.name == NEXT and not path.exists():
            continue
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() == sha256:
            return content
    raise CheckpointError(
        f"{folder / TENSORS} ({len(content):,} bytes) is damaged or cut short: its checksum is not the one in "
        f"{CONFIG}; fetch the checkpoint again"
    )


def read_config(path: Path) -> dict[str, Any]:
    """The record in a checkpoint's config.json. Raises CheckpointError: missing, damaged, or of another version."""
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; a checkpoint folder needs it") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    return _checked(config, path)


def _checked(config: Any, path: Path) -> dict[str, Any]:
    """The record, where it is one that this version reads."""
    version = config.get("format") if isinstance(config, dict) else None
    if version != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {version!r}; this version reads {FORMAT}. "
            "Install the version that wrote it, or fetch the checkpoint again"
        )
    missing = {"ghn", "image_size", "classes", "sha256", "card"} - config.keys()
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(sorted(missing))}")
    return config
