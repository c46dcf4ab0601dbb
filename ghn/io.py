"""Checkpoints: our own folder (safetensors + JSON), and the peers' files, read without unpickling code.

A checkpoint folder holds `model.safetensors`, `config.json` (format, GHN config, image size, classes, sha256 of
the tensors, card) and, for people, `README.md`. While it is being replaced, and after a crash in that moment,
`model.next.safetensors` stands beside them: the tensors are those of the file with the checksum in the config.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from ghn.errors import CheckpointError
from ghn.files import write_atomic
from ghn.hyper import Hypernet
from ghn.model import GHN, GHNConfig

FORMAT = 1
PPUDA_KINDS = {"gatedgnn": "gated", "mlp": "mlp"}  # their name of the propagation -> ours
TENSORS, CONFIG = "model.safetensors", "config.json"
NEXT = "model.next.safetensors"
ENV = "GHN_CHECKPOINTS"
# What building and filling a GHN raises on a config or tensors that do not fit.
_UNFIT = (SafetensorError, RuntimeError, AttributeError, KeyError, IndexError, TypeError, ValueError, ArithmeticError)


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
    """The trained GHN of this name (see `checkpoints`), in this folder, or in this ppuda `.pt` file.

    Raises CheckpointError: nothing there, damaged, or of another version.
    """
    path = Path(name)
    if path.is_file() and path.suffix in (".pt", ".pth"):
        model = load_ppuda(path)
        classes = tuple(f"class {i}" for i in range(model.config.num_classes))
        return Hypernet(model, {"name": path.stem, "format": "ppuda"}, 32 if len(classes) < 1000 else 224, classes)
    return _load_folder(find(name))


def find(name: str | Path) -> Path:
    """The folder of the checkpoint of this name, or this folder. Raises CheckpointError where there is none."""
    if Path(name).is_dir():
        return Path(name)
    known = checkpoints()
    if str(name) not in known:
        places = ", ".join(sorted(known)) or "none"
        raise CheckpointError(f"no checkpoint {str(name)!r}: neither a folder, a .pt file, nor one of: {places}")
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
    tensors = save_tensors({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()})
    config = {
        "format": FORMAT,
        "ghn": model.config.to_dict(),
        "image_size": image_size,
        "classes": list(classes),
        "sha256": hashlib.sha256(tensors).hexdigest(),
        "card": dict(card),
    }
    write_atomic(folder / NEXT, tensors)
    write_atomic(folder / CONFIG, _json(config))  # from here on the new one holds
    os.replace(folder / NEXT, folder / TENSORS)


def _json(config: Mapping[str, Any]) -> bytes:
    return (json.dumps(config, indent=1) + "\n").encode()


def _load_folder(folder: Path) -> Hypernet:
    config = read_config(folder / CONFIG)
    content = _read_tensors(folder, config["sha256"])
    try:
        with torch.device("meta"):  # no initialisation to pay for, and the caller's random generator stays as it is
            model = GHN(GHNConfig.from_dict(config["ghn"]))
        model.load_state_dict(load_tensors(content), assign=True)
        return Hypernet(model, config["card"], int(config["image_size"]), tuple(config["classes"]))
    except _UNFIT as error:
        raise CheckpointError(
            f"{folder} does not hold the GHN that its {CONFIG} describes: {_reason(error)}"
        ) from error


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


def load_ppuda(path: str | Path) -> GHN:
    """The GHN-1, GHN-2 or MLP in a checkpoint of facebookresearch/ppuda (`torch.save` of state_dict and config).

    Raises CheckpointError where the file is missing, holds code, or is another kind of model.
    """
    path = Path(path)
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
        config, state = data["config"], data["state_dict"]
    except Exception as error:  # torch.load raises a dozen types on damaged files
        raise CheckpointError(f"{path} is not a ppuda checkpoint: {_reason(error)}") from error
    if not isinstance(config, dict) or not isinstance(state, dict):
        raise CheckpointError(f"{path} is not a ppuda checkpoint: its config and state_dict are no dicts")
    if config.get("hypernet") not in PPUDA_KINDS or config.get("decoder") != "conv":
        raise CheckpointError(
            f"{path} holds a {config.get('hypernet')!r} GHN with decoder {config.get('decoder')!r}; "
            f"{' or '.join(map(repr, PPUDA_KINDS))} with 'conv' (GHN-1, GHN-2, MLP) can be read"
        )
    try:
        model = GHN(_ppuda_config(config))
        model.load_state_dict(state)
    except _UNFIT as error:
        raise CheckpointError(f"{path} does not hold the GHN that its config describes: {_reason(error)}") from error
    return model.eval()


def _ppuda_config(config: Mapping[str, Any]) -> GHNConfig:
    return GHNConfig(
        num_classes=config["num_classes"],
        hid=config["hid"],
        max_shape=tuple(config["max_shape"]),
        cutoff=50 if config["ve"] else 1,
        weight_norm=config["weight_norm"],
        layernorm=config["layernorm"],
        propagation=PPUDA_KINDS[config["hypernet"]],
    )


def _reason(error: Exception) -> str:
    """The error's message in one line, with its type where the message alone says little."""
    text = " ".join(str(error).split())[:200]
    return f"no {text}" if isinstance(error, KeyError) else text
