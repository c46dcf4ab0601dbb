"""Weights to disk one tensor after the other: safetensors in shards, with the index that transformers reads.

safetensors' own writer wants all tensors of a file at once. The format is simple enough to be written as they come: the
header's length, the header as JSON (type, shape and place of each tensor), then the numbers, little-endian.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ghn.files import replacing, write
from ghn.graph import ParamSlot

INDEX = "model.safetensors.index.json"
SHARDS = "model-[0-9]*-of-[0-9]*.safetensors"
ITEM = 4  # bytes of a number
PIECE = 2**22  # numbers that are decoded at a time, so that small tensors share the work


def write_shards(
    folder: Path,
    slots: Sequence[ParamSlot],
    tensors: Iterator[tuple[str, Tensor]],
    shard_bytes: int,
    metadata: Mapping[str, str],
) -> None:
    """Files `model-00001-of-0000N.safetensors`, ..., with the slots' tensors, which come in their order.

    A shard holds up to shard_bytes, or a single larger tensor, and appears whole or not at all; the index comes last,
    so that a folder without one is not complete. Shards and index that are there already give way to these. Raises
    GHNError where the disk does not take it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in (folder / INDEX, *folder.glob(SHARDS)):
        old.unlink(missing_ok=True)
    shards = _shards(slots, shard_bytes)
    places = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with replacing(folder / name) as path, path.open("wb") as file:
            file.write(_header(shard, metadata))
            for slot, (fqn, tensor) in zip(shard, tensors, strict=False):
                assert fqn == slot.fqn
                file.write(_little_endian(tensor).data.cast("B"))
                del tensor  # before the next one is made
        places.update({slot.fqn: name for slot in shard})
    total = sum(ITEM * slot.numel for slot in slots)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    write(folder / INDEX, (json.dumps(index, indent=1) + "\n").encode())


def _little_endian(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.float().cpu().numpy().reshape(-1), dtype="<f4")


def _shards(slots: Sequence[ParamSlot], shard_bytes: int) -> list[list[ParamSlot]]:
    """The slots, in order, in runs of up to so many bytes."""
    shards: list[list[ParamSlot]] = []
    room = 0
    for slot in slots:
        if not shards or ITEM * slot.numel > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(slot)
        room -= ITEM * slot.numel
    return shards


def _header(shard: Sequence[ParamSlot], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata) | {"format": "pt"}}
    start = 0
    for slot in shard:
        end = start + ITEM * slot.numel
        entries[slot.fqn] = {"dtype": "F32", "shape": list(slot.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
