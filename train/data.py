"""Labelled images to train and score on, found by where they are: `load` gives one part of a set."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from ghn.errors import DataError
from train.cifar import SPLITS, Cifar10, find_cifar10, load_sample
from train.datasets import PREFIX, FromTorchvision, find_torchvision, of_dataset
from train.folder import Folder, find_folder
from train.images import CIFAR10, CLASSES, MEAN, STD, Images, ImageSet, Pictures

__all__ = ["CIFAR10", "CLASSES", "MEAN", "STD", "ImageSet", "Images", "find", "load", "load_sample", "of_dataset"]

ENV, MEMORY = "GHN_DATA", "GHN_DATA_MEMORY"
BUDGET = 4.0  # GiB of decoded images per part
NAMED = 5  # broken files that a message names

Source = Cifar10 | Folder | FromTorchvision


def find(where: str | Path | None = None) -> Source:
    """The set at `where`, else at $GHN_DATA. DataError says what to do where neither names one."""
    given = where or os.environ.get(ENV)
    how = f"Give one with --data or in the environment variable {ENV}; `ghn data --help` lists what is read."
    if not given:
        raise DataError(f"a full image set is needed and none was named. {how}")
    if str(given).startswith(PREFIX):
        return find_torchvision(str(given))
    folder = Path(given).expanduser()
    found = find_cifar10(folder) or find_folder(folder)
    if found is None:
        raise DataError(f"no images in {folder}: neither CIFAR-10's batches nor sub-folders of pictures. {how}")
    return found


def load(
    split: str,
    where: str | Path | None = None,
    *,
    side: int | None = None,
    augmentation: str = "cifar",
    report: Callable[[str], None] = lambda message: print(message, file=sys.stderr, flush=True),
) -> ImageSet:
    """The train, val or test images of the set at `where` (as `find` takes it), with its own classes.

    side: largest size at which they will be shown; pictures are decoded at it, CIFAR-10 has 32 pixels. None: theirs.
    What fits into $GHN_DATA_MEMORY GiB (default 4) is decoded once, and files that cannot be are left out, named and
    counted to `report`; larger sets are decoded as they are used, and such a file is then an error. ImageNet's
    augmentation cuts from the files and always does so. Raises DataError.
    """
    images = _part(find(where), split, side, augmentation)
    small = len(images) * 3 * images.side**2 <= _budget()
    return (
        in_memory(images, report) if isinstance(images, Pictures) and small and augmentation != "imagenet" else images
    )


def describe(source: Source, *, check: bool = False) -> Iterator[str]:
    """Lines that say how many images and classes each part has, and with `check` which files cannot be read."""
    for split in SPLITS:
        images = _part(source, split, None, "cifar")
        shown = ", ".join(images.classes[:NAMED]) + (", ..." if len(images.classes) > NAMED else "")
        classes = f"{len(images.classes)} classes ({shown})"
        yield f"{split}: {len(images):,} images of {images.side} pixels, {classes}"
        if check and isinstance(images, Pictures):
            broken = images.broken()
            yield from broken
            yield f"{split}: {len(broken):,} of {len(images):,} cannot be read"


def _part(source: Source, split: str, side: int | None, augmentation: str) -> ImageSet:
    if split not in SPLITS:
        raise DataError(f"no split {split!r}; known are {', '.join(SPLITS)}")
    if isinstance(source, Cifar10):
        return source.load(split, augmentation)
    return source.load(split, side, augmentation)


def in_memory(pictures: Pictures, report: Callable[[str], None]) -> Images:
    """The pictures decoded; those that cannot be are left out and the first ones named. Raises DataError if all are."""
    images, broken = pictures.in_memory()
    if broken:
        more = ", ..." if len(broken) > NAMED else ""
        names = ", ".join(broken[:NAMED])
        report(f"{len(broken)} of {len(pictures)} pictures cannot be read and are left out: {names}{more}")
    if not len(images):
        raise DataError(f"none of the {len(pictures)} pictures can be read, for example {broken[0]}; check the files")
    return images


def _budget() -> float:
    """Bytes of $GHN_DATA_MEMORY."""
    text = os.environ.get(MEMORY, "")
    try:
        return float(text or BUDGET) * 2**30
    except ValueError as error:
        raise DataError(f"{MEMORY} is {text!r}, not a number of GiB") from error
