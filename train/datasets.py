"""torchvision's datasets, and any other that gives (picture or tensor, label), as labelled images."""

import difflib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ghn._compat import import_torchvision
from ghn.errors import DataError
from train.folder import hashed_part, place_of
from train.images import IMAGENET_MEAN, IMAGENET_STD, MEAN, STD, Pictures, own_side

PREFIX = "torchvision:"
_SPLITS = {"train": ("train",), "val": ("train",), "test": ("test", "val")}  # split -> names tried in this order


@dataclass(frozen=True, eq=False)
class Items:
    """The pictures of a dataset whose items are (PIL picture or tensor, label)."""

    dataset: Any
    title: str

    def __len__(self) -> int:
        return len(self.dataset)

    def open(self, place: int) -> Image.Image:
        item = self.dataset[place][0]
        return item if isinstance(item, Image.Image) else as_picture(torch.as_tensor(item))

    def name(self, place: int) -> str:
        return f"item {place} of {self.title}"


@dataclass(frozen=True)
class FromTorchvision:
    """A dataset of torchvision that has been fetched before: nothing is downloaded here.

    Source of the division: the dataset's own train and test parts, a tenth of train (by hash of the number) validates;
    datasets without parts are divided 8 : 1 : 1 by hash.
    """

    name: str
    root: Path

    def __str__(self) -> str:
        return f"torchvision's {self.name} in {self.root}"

    def load(self, split: str, side: int | None, augmentation: str) -> Pictures:
        """The images of 'train', 'val' or 'test'. Raises DataError: unknown, not there, or of another kind."""
        dataset, divided = self._open(split)
        title = f"torchvision's {self.name}"
        parts = "its train part without a tenth trains, that tenth validates, its test part tests"
        origin = f"{title}: {parts if divided else 'parts of 8 : 1 : 1'} by hash of the number"
        part = None if divided and split == "test" else split
        statistics = (MEAN, STD) if self.name == "CIFAR10" else (IMAGENET_MEAN, IMAGENET_STD)
        return of_dataset(
            dataset, part, side, title=title, origin=origin, statistics=statistics, test=not divided, how=augmentation
        )

    def _open(self, split: str) -> tuple[Any, bool]:
        """The dataset, and whether it has train and test parts."""
        kind = self._kind()
        options = inspect.signature(kind.__init__).parameters
        where = {"root": self.root} if "root" in options else {}
        if "train" in options:
            return self._made(kind, [{**where, "train": split != "test"}]), True
        if "split" in options:
            return self._made(kind, [{**where, "split": name} for name in _SPLITS[split]]), True
        return self._made(kind, [where]), False

    def _kind(self) -> Any:
        try:
            import_torchvision()
            from importlib import import_module

            datasets = import_module("torchvision.datasets")
        except ImportError as error:
            raise DataError(f"{PREFIX}{self.name} needs torchvision: install this project's extra [models]") from error
        if self.name not in datasets.__all__:
            near = difflib.get_close_matches(self.name, datasets.__all__, 3, 0.4)
            raise DataError(f"torchvision has no dataset {self.name!r}; did you mean {' or '.join(near) or 'another'}?")
        return getattr(datasets, self.name)

    def _made(self, kind: Any, candidates: Sequence[dict[str, Any]]) -> Any:
        reason: Exception | None = None
        for options in candidates:
            try:
                return kind(**options)
            except (ValueError, RuntimeError, OSError, TypeError, ImportError) as error:
                reason = reason or error
        raise DataError(
            f"{self} cannot be opened ({' '.join(str(reason).split())[:200]}); fetch it first with torchvision itself: "
            f"torchvision.datasets.{self.name}({str(self.root)!r}, download=True)"
        ) from reason


def find_torchvision(text: str) -> FromTorchvision:
    """'torchvision:NAME' or 'torchvision:NAME:FOLDER' as a source."""
    name, _, root = text.removeprefix(PREFIX).partition(":")
    return FromTorchvision(name, Path(root or ".").expanduser())


def of_dataset(
    dataset: Any,
    split: str | None = None,
    side: int | None = None,
    *,
    title: str = "a dataset",
    origin: str = "a dataset",
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = (IMAGENET_MEAN, IMAGENET_STD),
    test: bool = True,
    how: str = "cifar",
) -> Pictures:
    """Any dataset of (picture or tensor, label) as images: all, or the part that the hash of an item's number gives.

    side: pixels (None: their own). statistics: mean and deviation per channel. test: whether a tenth is kept for
    testing. how: the augmentation. Items come in hashed order, so that every batch is mixed. Raises DataError.
    """
    labels = _labels(dataset, title)
    places = [i for i in range(len(labels)) if split in (None, hashed_part(str(i), test=test))]
    places.sort(key=lambda i: (place_of(f"order {i}"), i))
    if not places:
        raise DataError(f"{title} has no items to {split} with")
    shelf, index = Items(dataset, title), torch.tensor(places)
    named = [str(c) for c in getattr(dataset, "classes", None) or ()]
    count = max(len(named), int(labels.max()) + 1)
    classes = tuple(named) if len(named) == count else tuple(f"class {i}" for i in range(count))
    return Pictures(shelf, index, labels[index], classes, side or own_side(shelf, places), *statistics, origin, how)


def as_picture(item: Tensor) -> Image.Image:
    """(C, H, W) or (H, W), bytes or floats in [0, 1], one or three channels -> an RGB picture. Raises DataError."""
    if item.ndim == 2:
        item = item[None]
    if item.ndim != 3 or item.shape[0] not in (1, 3):
        raise DataError(f"an image of shape {tuple(item.shape)}, not (1 or 3, height, width)")
    if item.is_floating_point():
        if not 0 <= float(item.min()) <= float(item.max()) <= 1:
            raise DataError("an image of floats outside [0, 1]; give it without normalisation")
        item = (item * 255).round()
    elif item.dtype != torch.uint8:
        raise DataError(f"an image of type {item.dtype}, not bytes or floats")
    bytes_ = item.to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).contiguous()
    return Image.fromarray(bytes_.numpy())


def _labels(dataset: Any, title: str) -> Tensor:
    """(N,) int64: the dataset's list of targets where it has one, else every item's label."""
    for name in ("targets", "labels", "_labels"):
        found = getattr(dataset, name, None)
        if found is not None and len(found) == len(dataset):
            break
    else:
        found = [dataset[i][1] for i in range(len(dataset))]
    try:
        labels = np.asarray(found)
    except ValueError as error:
        raise DataError(f"{title} has labels of different shapes; training needs a whole number for each") from error
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise DataError(f"{title} has labels like {found[0]!r}; training needs a whole number from 0 for each image")
    return torch.from_numpy(labels.astype(np.int64))
