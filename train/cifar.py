"""CIFAR-10 in any of its forms, in fixed train / validation / test parts, and the packaged sample.

The protocol: batches 1-4 without 2,000 images train, those 2,000 (the last 200 of each class) validate, batch 5 tests.
The official test set plays no part: whoever has only the training batches can repeat every number.
"""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ghn.errors import DataError
from ghn.unpickle import read_plain_pickle
from train.images import CLASSES, Images

SPLITS = {"train": (1, 2, 3, 4), "val": (1, 2, 3, 4), "test": (5,)}  # split -> batches it is taken from
HELD_OUT_PER_CLASS = 200
PER_BATCH = 10_000
SAMPLE = Path(__file__).with_name("data_files") / "cifar10_test_sample.webp"
GRID = (25, 40)  # rows, columns of the picture that holds 1,000 images
SUBFOLDERS = ("", "cifar10", "cifar-10-batches-bin", "cifar-10-batches-py")
AGAIN = "copy it again, or see `ghn data --help` for the forms that are read"

Batch = tuple[np.ndarray, np.ndarray]  # (N, 3, 32, 32) uint8, (N,) int64


@dataclass(frozen=True)
class Cifar10:
    """CIFAR-10's training batches in a folder. form: a key of FORMS."""

    folder: Path
    form: str

    def __str__(self) -> str:
        return f"CIFAR-10 ({FORMS[self.form][0].format('1..5')}) in {self.folder}"

    def load(self, split: str, augmentation: str) -> Images:
        """The train (38,000), val (2,000) or test (10,000) images. Raises DataError."""
        pattern, read = FORMS[self.form]
        batches = [_checked(self.folder / pattern.format(number), read) for number in SPLITS[split]]
        pixels, labels = (torch.from_numpy(np.concatenate(x)) for x in zip(*batches, strict=True))
        whole = Images(pixels, labels, augmentation=augmentation)
        if split == "test":
            return whole
        held_out = _held_out(labels)
        return whole.take(torch.nonzero(held_out if split == "val" else ~held_out).flatten())


def find_cifar10(folder: Path) -> Cifar10 | None:
    """The batches in this folder or in a sub-folder of a customary name; None where there are none."""
    for name in SUBFOLDERS:
        for form, (pattern, _) in FORMS.items():
            if (folder / name / pattern.format(1)).is_file():
                return Cifar10(folder / name, form)
    return None


def load_sample() -> Images:
    """The packaged 1,000 test images: the first 100 of each class in batch 5, in the order of the batch."""
    card = json.loads(SAMPLE.with_suffix(".json").read_text())
    pixels = decode_grid(SAMPLE.read_bytes(), str(SAMPLE))
    if hashlib.sha256(pixels.tobytes()).hexdigest() != card["sha256"]:
        raise DataError(
            f"the packaged sample {SAMPLE.name} is damaged: its checksum differs; install the package again"
        )
    whole = Images(torch.from_numpy(pixels), torch.tensor(card["labels"]))
    return replace(whole, classes=tuple(card["classes"]))


def decode_grid(picture: bytes, where: str) -> np.ndarray:
    """(1000, 3, 32, 32) uint8 from a picture of 25 rows of 40 images."""
    from PIL import Image

    try:
        grid = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
        cells = grid.reshape(GRID[0], 32, GRID[1], 32, 3)
    except (OSError, ValueError) as error:
        raise DataError(f"{where} is not a picture of {GRID[0]} x {GRID[1]} images of 32 pixels: {error}") from error
    return np.ascontiguousarray(cells.transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32))


def _held_out(labels: Tensor) -> Tensor:
    """(N,) bool, true at the last HELD_OUT_PER_CLASS images of each class."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(len(CLASSES)):
        mask[torch.nonzero(labels == label).flatten()[-HELD_OUT_PER_CLASS:]] = True
    return mask


def _checked(path: Path, read: Callable[[Path], Batch]) -> Batch:
    try:
        pixels, labels = read(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); {AGAIN}") from error
    if len(pixels) != PER_BATCH or len(labels) != PER_BATCH:
        raise DataError(f"{path} holds {len(pixels)} images and {len(labels)} labels, not {PER_BATCH} each; {AGAIN}")
    return pixels, labels


def _read_parquet(path: Path) -> Batch:
    """One batch as pictures of 1,000 images each."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"reading {path} needs pyarrow: install this project with its extra [train]") from error
    try:
        table = pq.read_table(path, columns=["labels", "webp"])
    except (KeyError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error}); {AGAIN}") from error
    pixels = np.concatenate([decode_grid(cell.as_py(), str(path)) for cell in table["webp"]])
    return pixels, np.frombuffer(b"".join(table["labels"].to_pylist()), dtype=np.uint8).astype(np.int64)


def _read_binary(path: Path) -> Batch:
    """One batch of the binary version: per image a label byte, then the 3 x 32 x 32 bytes."""
    raw = np.fromfile(path, dtype=np.uint8)
    if raw.size != PER_BATCH * 3073:
        raise DataError(f"{path} has {raw.size} bytes, not the {PER_BATCH * 3073} of {PER_BATCH} images; {AGAIN}")
    rows = raw.reshape(PER_BATCH, 3073)
    return np.ascontiguousarray(rows[:, 1:].reshape(-1, 3, 32, 32)), rows[:, 0].astype(np.int64)


def _read_python(path: Path) -> Batch:
    """One batch of the python version: a pickled dict with 'data' (N, 3072) bytes and a list of 'labels'."""
    batch = read_plain_pickle(path.read_bytes(), str(path))
    try:
        fields = {k.decode() if isinstance(k, bytes) else k: v for k, v in batch.items()}
        pixels, labels = np.asarray(fields["data"]), np.asarray(fields["labels"])
        if pixels.dtype != np.uint8 or labels.dtype.kind not in "iu":
            raise TypeError(f"data of type {pixels.dtype}, labels of type {labels.dtype}")
        return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32)), labels.astype(np.int64)
    except (AttributeError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} holds no batch of CIFAR-10 ({type(error).__name__}: {error}); {AGAIN}") from error


FORMS: dict[str, tuple[str, Callable[[Path], Batch]]] = {
    "parquet": ("batch_{}.parquet", _read_parquet),
    "binary": ("data_batch_{}.bin", _read_binary),
    "python": ("data_batch_{}", _read_python),
}
