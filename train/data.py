"""CIFAR-10 as arrays, in fixed train / validation / test parts, with augmentation that a passed generator decides.

The protocol: batches 1-4 without 2,000 images train, those 2,000 (the last 200 of each class) validate, batch 5 tests.
The official test set plays no part: whoever has only the training batches can repeat every number.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ghn.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
SPLITS = {"train": (1, 2, 3, 4), "val": (1, 2, 3, 4), "test": (5,)}  # split -> batches it is taken from
HELD_OUT_PER_CLASS = 200
PER_BATCH = 10_000
CIFAR10 = "CIFAR-10: batches 1-4 but for the last 200 images of each class train, those validate, batch 5 tests"
ENV = "GHN_DATA"
SAMPLE = Path(__file__).with_name("data_files") / "cifar10_test_sample.webp"
GRID = (25, 40)  # rows, columns of the picture that holds 1,000 images

HOW_TO = (
    "Give a folder with --data or in the environment variable GHN_DATA. It holds either batch_1.parquet .. "
    "batch_5.parquet or data_batch_1.bin .. data_batch_5.bin (CIFAR-10's binary version); see `ghn data --help`."
)


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images in memory.

    pixels: (N, 3, H, W) uint8, RGB. labels: (N,) int64. classes: a name per label. mean, std: per channel, of [0, 1].
    origin: which set it is and how it is divided, in words.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...] = CLASSES
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    origin: str = CIFAR10

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4 or self.pixels.shape[1] != 3:
            raise DataError(f"images must be uint8 (N, 3, H, W), got {self.pixels.dtype} {tuple(self.pixels.shape)}")
        if self.labels.shape != self.pixels.shape[:1]:
            raise DataError(f"{len(self.pixels)} images but {len(self.labels)} labels")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise DataError(f"labels reach {int(self.labels.max())}, but there are {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def side(self) -> int:
        return self.pixels.shape[-1]

    def take(self, index: Tensor) -> "Images":
        """The images at these places, in this order."""
        return replace(self, pixels=self.pixels[index], labels=self.labels[index])

    def resized(self, side: int) -> "Images":
        """The same images at (side, side) by area averaging, rounded back to bytes; itself where nothing changes."""
        if side == self.side:
            return self
        if side > self.side:
            raise DataError(f"the images are {self.side} pixels wide and cannot be shown at {side}; ask for less")
        parts = [F.interpolate(p.float(), size=(side, side), mode="area") for p in self.pixels.split(2000)]
        return replace(self, pixels=torch.cat([p.round().to(torch.uint8) for p in parts]))

    def normalised(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) bytes -> float32 with zero mean and unit variance per channel, in channels_last memory."""
        mean = torch.tensor(self.mean).view(3, 1, 1)
        std = torch.tensor(self.std).view(3, 1, 1)
        scaled = pixels.float().div_(255).sub_(mean).div_(std)
        return scaled.contiguous(memory_format=torch.channels_last)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images and labels in order, `size` at a time; the last batch may be smaller."""
        for pixels, labels in zip(self.pixels.split(size), self.labels.split(size), strict=True):
            yield self.normalised(pixels), labels

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` images drawn without repetition, augmented and normalised, and their labels."""
        index = torch.randperm(len(self), generator=generator)[:count]
        return self.normalised(augment(self.pixels[index], generator)), self.labels[index]


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W) bytes, each shifted by up to H // 8 pixels (zeros come in) and mirrored with probability 1/2.

    At 32 pixels this is the customary random crop with padding 4.
    """
    count, _, height, width = pixels.shape
    pad = height // 8
    padded = F.pad(pixels, (pad, pad, pad, pad))
    top, left = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand((count, 1), generator=generator) < 0.5
    rows = top + torch.arange(height)
    columns = left + torch.where(mirrored, torch.arange(width - 1, -1, -1), torch.arange(width))
    image = torch.arange(count).view(-1, 1, 1)
    picked = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def find(root: str | Path | None = None) -> Path:
    """The folder of the full set: `root`, else $GHN_DATA. DataError says what to do where neither names one."""
    given = root or os.environ.get(ENV)
    if not given:
        raise DataError(f"the full CIFAR-10 set is needed and no folder was named. {HOW_TO}")
    folder = Path(given).expanduser()
    for candidate in (folder, folder / "cifar10", folder / "cifar-10-batches-bin"):
        if (candidate / "batch_1.parquet").is_file() or (candidate / "data_batch_1.bin").is_file():
            return candidate
    raise DataError(f"no CIFAR-10 batches in {folder}. {HOW_TO}")


def load(split: str, root: str | Path | None = None) -> Images:
    """The train (38,000), val (2,000) or test (10,000) images of the full set. Raises DataError."""
    if split not in SPLITS:
        raise DataError(f"no split {split!r}; known are {', '.join(SPLITS)}")
    folder = find(root)
    read = _read_parquet if (folder / "batch_1.parquet").is_file() else _read_binary
    pixels, labels = zip(*(read(folder, number) for number in SPLITS[split]), strict=True)
    whole = Images(torch.from_numpy(np.concatenate(pixels)), torch.from_numpy(np.concatenate(labels)))
    if split == "test":
        return whole
    held_out = _held_out(whole.labels)
    return whole.take(torch.nonzero(held_out if split == "val" else ~held_out).flatten())


def load_sample() -> Images:
    """The packaged 1,000 test images: the first 100 of each class in batch 5, in the order of the batch."""
    card = json.loads(SAMPLE.with_suffix(".json").read_text())
    pixels = decode_grid(SAMPLE.read_bytes(), str(SAMPLE))
    if hashlib.sha256(pixels.tobytes()).hexdigest() != card["sha256"]:
        raise DataError(
            f"the packaged sample {SAMPLE.name} is damaged: its checksum differs; install the package again"
        )
    return Images(torch.from_numpy(pixels), torch.tensor(card["labels"]), tuple(card["classes"]))


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


def _read_parquet(folder: Path, number: int) -> tuple[np.ndarray, np.ndarray]:
    path = folder / f"batch_{number}.parquet"
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"reading {path} needs pyarrow: install this project with its extra [train]") from error
    try:
        table = pq.read_table(path, columns=["labels", "webp"])
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error}). {HOW_TO}") from error
    pixels = np.concatenate([decode_grid(cell.as_py(), str(path)) for cell in table["webp"]])
    labels = np.frombuffer(b"".join(table["labels"].to_pylist()), dtype=np.uint8)
    if len(pixels) != PER_BATCH or len(labels) != PER_BATCH:
        raise DataError(f"{path} holds {len(pixels)} images and {len(labels)} labels, not {PER_BATCH} each")
    return pixels, labels.astype(np.int64)


def _read_binary(folder: Path, number: int) -> tuple[np.ndarray, np.ndarray]:
    """One batch of CIFAR-10's binary version: per image a label byte, then the 3 x 32 x 32 bytes."""
    path = folder / f"data_batch_{number}.bin"
    try:
        raw = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). {HOW_TO}") from error
    if raw.size != PER_BATCH * 3073:
        raise DataError(f"{path} has {raw.size} bytes, not the {PER_BATCH * 3073} of {PER_BATCH} images; copy it again")
    rows = raw.reshape(PER_BATCH, 3073)
    return np.ascontiguousarray(rows[:, 1:].reshape(-1, 3, 32, 32)), rows[:, 0].astype(np.int64)
