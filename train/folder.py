"""A folder of pictures as labelled images: one sub-folder per class, in given parts or in parts of its own.

Where the folder has train/, val/ and test/, these are the parts. What is missing is split off by a hash of each file's
path, so that a file's part depends on its name alone, on any machine and whatever files come or go beside it:
train/ and val/: a tenth of train/ validates and val/ tests, the protocol of ImageNet, whose val/ nobody may choose by;
train/ and test/: a tenth of train/ validates; neither: four fifths train, a tenth validates, a tenth tests.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from ghn.errors import DataError
from train.images import IMAGENET_MEAN, IMAGENET_STD, Pictures, own_side

PARTS = ("train", "val", "test")
SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"))
CLASS_FOLDERS = "an image folder has a sub-folder of pictures per class, in train/ and val/ or by itself"


def place_of(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def hashed_part(name: str, *, test: bool) -> str:
    """The part that a name belongs to: a tenth 'val', with `test` another tenth 'test', the rest 'train'."""
    place = place_of(name)
    if test and place >= 0.9:
        return "test"
    return "val" if place >= (0.8 if test else 0.9) else "train"


@dataclass(frozen=True)
class Files:
    """Picture files under a folder, decoded one by one."""

    root: Path
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, place: int) -> Image.Image:
        return Image.open(io.BytesIO((self.root / self.paths[place]).read_bytes()))

    def name(self, place: int) -> str:
        return str(self.root / self.paths[place])


@dataclass(frozen=True)
class Folder:
    """An image folder."""

    root: Path

    def __str__(self) -> str:
        return f"image folder {self.root} ({self.division})"

    @property
    def division(self) -> str:
        """How it is divided, in words."""
        return {
            ("train", "val", "test"): "train/, val/ and test/ as they are",
            ("train", "val"): "train/ without a tenth (by hash of the path) trains, that tenth validates, val/ tests",
            ("train", "test"): "train/ without a tenth (by hash of the path) trains, that tenth validates, test/ tests",
            ("train",): "train/ in parts of 8 : 1 : 1 by hash of the path",
        }.get(self._given, "parts of 8 : 1 : 1 by hash of the path")

    def load(self, split: str, side: int | None, augmentation: str) -> Pictures:
        """The pictures of 'train', 'val' or 'test', shuffled by hash, shown at `side` pixels (None: their own).

        Raises DataError where there are none, or classes that the training part does not have.
        """
        top = self.root / "train" if self._given else self.root
        classes = tuple(sorted(p.name for p in top.iterdir() if p.is_dir() and any(_pictures(p))))
        if len(classes) < 2:
            raise DataError(f"{top} has {len(classes)} sub-folders with pictures, not two or more; {CLASS_FOLDERS}")
        folder, names = self._names(split)
        unknown = sorted({name.split("/")[0] for name in names} - set(classes))
        if unknown:
            raise DataError(f"{folder} has classes that {top} lacks: {', '.join(unknown[:5])}; give both the same")
        if not names:
            raise DataError(f"{self.root} has no pictures to {split} with; {CLASS_FOLDERS}")
        shelf, places = Files(folder, tuple(names)), torch.arange(len(names))
        labels = torch.tensor([classes.index(name.split("/")[0]) for name in names])
        size = side or own_side(shelf, range(len(names)))
        origin = f"image folder {self.root.name}: {self.division}"
        return Pictures(shelf, places, labels, classes, size, IMAGENET_MEAN, IMAGENET_STD, origin, augmentation)

    @property
    def _given(self) -> tuple[str, ...]:
        """The parts that are there; none where the classes stand in the folder itself."""
        found = tuple(part for part in PARTS if (self.root / part).is_dir())
        return found if "train" in found else ()

    def _names(self, split: str) -> tuple[Path, list[str]]:
        """The folder of classes that this part is in, and its files as 'class/.../name', in hashed order."""
        given = self._given
        whole = {("train", "val", "test"): split, ("train", "val"): "val", ("train", "test"): "test"}.get(given)
        if whole and (len(given) == 3 or split == "test"):
            folder, part = self.root / whole, None
        else:
            folder, part = self.root / "train" if given else self.root, split
        names = (path.relative_to(folder).as_posix() for path in _pictures(folder))
        test = len(given) < 2
        kept = [name for name in names if "/" in name and part in (None, hashed_part(name, test=test))]
        return folder, sorted(kept, key=lambda name: (place_of(f"order {name}"), name))


def find_folder(root: Path) -> Folder | None:
    """The image folder at this place; None where its sub-folders hold no pictures."""
    inside = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")] if root.is_dir() else []
    return Folder(root) if any(any(_pictures(p)) for p in inside) else None


def _pictures(folder: Path) -> Iterator[Path]:
    """Picture files below, hidden ones left out."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path
