"""Labelled images: all in memory, or in files that are decoded when they are asked for. Both have the same face."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from ghn.errors import DataError
from train.augment import AUGMENTATIONS, coloured, crop_boxes, cropped, mirrored, shifted
from train.strata import order_of, spread

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MARGIN = 224 / 256  # part of the picture that ImageNet's protocol evaluates on
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR10 = "CIFAR-10: batches 1-4 but for the last 200 images of each class train, those validate, batch 5 tests"


class ImageSet:
    """What training and scoring ask of labelled images. labels: (N,) int64. mean, std: per channel, of [0, 1].

    classes: a name per label. origin: which set it is and how it is divided, in words. augmentation: 'cifar' (shift,
    mirror), 'mirror' or 'imagenet' (random resized crop, mirror, colour jitter).
    """

    if TYPE_CHECKING:  # fields of the classes below; a property that exists would be taken for a field's default

        @property
        def labels(self) -> Tensor: ...
        @property
        def classes(self) -> tuple[str, ...]: ...
        @property
        def mean(self) -> tuple[float, ...]: ...
        @property
        def std(self) -> tuple[float, ...]: ...
        @property
        def origin(self) -> str: ...
        @property
        def augmentation(self) -> str: ...

    @property
    def side(self) -> int:
        """Height and width in pixels."""
        raise NotImplementedError

    def take(self, index: Tensor) -> Self:
        """The images at these places, in this order."""
        raise NotImplementedError

    def resized(self, side: int) -> Self:
        """The same images at (side, side)."""
        raise NotImplementedError

    def pixels_at(self, index: Tensor) -> Tensor:
        """(B, 3, side, side) bytes of the images at these places, as they are evaluated."""
        raise NotImplementedError

    def crops_at(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 3, side, side) bytes of a random crop of each, with ImageNet's distribution."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.labels)

    def normalised(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) bytes -> float32 with zero mean and unit variance per channel, in channels_last memory."""
        mean = torch.tensor(self.mean).view(3, 1, 1)
        std = torch.tensor(self.std).view(3, 1, 1)
        scaled = pixels.float().div_(255).sub_(mean).div_(std)
        return scaled.contiguous(memory_format=torch.channels_last)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images and labels in order, `size` at a time; the last batch may be smaller."""
        for index in torch.arange(len(self)).split(size):
            yield self.normalised(self.pixels_at(index)), self.labels[index]

    def augmented(self, how: str) -> Self:
        """The same images, changed in this way where they are drawn. Raises DataError where nothing is called so."""
        return replace(self, augmentation=how)  # ty: ignore[invalid-argument-type]

    def order(self) -> Tensor:
        """(N,) places in which neighbours are of one class and, where all pixels are in memory, look alike."""
        return order_of(self.labels)

    def draw(
        self, count: int, generator: torch.Generator, order: Tensor | None = None, batches: int = 1
    ) -> tuple[Tensor, Tensor]:
        """`count` images drawn without repetition, augmented and normalised, and their labels.

        order: drawn evenly along it (train/strata.py), in so many batches one after the other. None: any images.
        """
        if order is None:
            index = torch.randperm(len(self), generator=generator)[:count]
        else:
            index = spread(order, count, generator, batches)
        if self.augmentation == "imagenet":
            changed = coloured(self.crops_at(index, generator), generator)
        else:
            change = shifted if self.augmentation == "cifar" else mirrored
            changed = change(self.pixels_at(index), generator)
        return self.normalised(changed), self.labels[index]

    def _check(self) -> None:
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise DataError(f"labels reach {int(self.labels.max())}, but there are {len(self.classes)} classes")
        if self.augmentation not in AUGMENTATIONS:
            raise DataError(f"augmentation {self.augmentation!r} is none of {', '.join(AUGMENTATIONS)}")


@dataclass(frozen=True, eq=False)
class Images(ImageSet):
    """Labelled images in memory, CIFAR-10's where nothing else is said. pixels: (N, 3, H, W) uint8, RGB."""

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...] = CLASSES
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    origin: str = CIFAR10
    augmentation: str = "cifar"

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4 or self.pixels.shape[1] != 3:
            raise DataError(f"images must be uint8 (N, 3, H, W), got {self.pixels.dtype} {tuple(self.pixels.shape)}")
        if self.labels.shape != self.pixels.shape[:1]:
            raise DataError(f"{len(self.pixels)} images but {len(self.labels)} labels")
        self._check()

    @property
    def side(self) -> int:
        return self.pixels.shape[-1]

    def order(self) -> Tensor:
        return order_of(self.labels, self.pixels)

    def take(self, index: Tensor) -> Self:
        return replace(self, pixels=self.pixels[index], labels=self.labels[index])

    def resized(self, side: int) -> Self:
        """The same images at (side, side) by area averaging, rounded back to bytes; itself where nothing changes."""
        if side == self.side:
            return self
        if side > self.side:
            raise DataError(f"the images are {self.side} pixels wide and cannot be shown at {side}; ask for less")
        parts = [F.interpolate(p.float(), size=(side, side), mode="area") for p in self.pixels.split(2000)]
        return replace(self, pixels=torch.cat([p.round().to(torch.uint8) for p in parts]))

    def pixels_at(self, index: Tensor) -> Tensor:
        return self.pixels[index]

    def crops_at(self, index: Tensor, generator: torch.Generator) -> Tensor:
        pixels = self.pixels[index]
        sizes = torch.tensor(pixels.shape[2:]).expand(len(index), 2)
        return cropped(pixels, crop_boxes(sizes, generator))


class Shelf(Protocol):
    """Where pictures are. `open` gives one, undecoded if possible; `name` says which it is, for messages."""

    def __len__(self) -> int: ...

    def open(self, place: int) -> Image.Image: ...

    def name(self, place: int) -> str: ...


@dataclass(frozen=True, eq=False)
class Pictures(ImageSet):
    """Labelled images that are decoded when they are asked for, for sets that memory does not hold.

    places: (N,) int64, where each image is on the shelf. size: side in pixels; pictures are cut to their central
    square (for ImageNet's augmentation to MARGIN of it, as its protocol has it) and scaled to that.
    """

    shelf: Shelf
    places: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: str
    augmentation: str = "cifar"

    def __post_init__(self) -> None:
        self._check()

    @property
    def side(self) -> int:
        return self.size

    def take(self, index: Tensor) -> Self:
        return replace(self, places=self.places[index], labels=self.labels[index])

    def resized(self, side: int) -> Self:
        return replace(self, size=side)

    def pixels_at(self, index: Tensor) -> Tensor:
        part = MARGIN if self.augmentation == "imagenet" else 1.0
        return self._decoded(index, lambda picture, _: square(picture, self.size, part))

    def crops_at(self, index: Tensor, generator: torch.Generator) -> Tensor:
        sizes = [self.shelf.open(place).size[::-1] for place in self.places[index].tolist()]
        boxes = crop_boxes(torch.tensor(sizes), generator).tolist()

        def crop(picture: Image.Image, number: int) -> np.ndarray:
            y, x, h, w = boxes[number]
            return scaled(picture.crop((x, y, x + w, y + h)), self.size)

        return self._decoded(index, crop)

    def in_memory(self) -> tuple[Images, list[str]]:
        """The same images, decoded once, without those that cannot be; and what is wrong with these, one line each."""
        pixels = np.empty((len(self), 3, self.size, self.size), dtype=np.uint8)
        kept, broken = np.zeros(len(self), dtype=bool), []
        for number, image in enumerate(self._tried()):
            if isinstance(image, str):
                broken.append(image)
            else:
                pixels[number], kept[number] = image, True
        held = torch.from_numpy(pixels if kept.all() else pixels[kept])
        labels = self.labels[torch.from_numpy(kept)]
        return Images(held, labels, self.classes, self.mean, self.std, self.origin, self.augmentation), broken

    def broken(self) -> list[str]:
        """What is wrong with each picture that cannot be decoded, a line each."""
        return [image for image in self._tried() if isinstance(image, str)]

    def _tried(self) -> Iterator[np.ndarray | str]:
        """Every image in order as (3, side, side) bytes, or what is wrong with it."""

        def decode(place: int) -> np.ndarray | str:
            try:
                return square(self.shelf.open(place), self.size)
            except Exception as error:  # PIL raises a dozen types on damaged files
                return f"{self.shelf.name(place)} ({_reason(error)})"

        with _threads() as threads:
            for part in self.places.split(1024):  # so that Ctrl-C waits for one part, not for all
                yield from threads.map(decode, part.tolist())

    def _decoded(self, index: Tensor, view: Callable[[Image.Image, int], np.ndarray]) -> Tensor:
        def decode(number: int, place: int) -> np.ndarray:
            try:
                return view(self.shelf.open(place), number)
            except Exception as error:
                raise DataError(
                    f"{self.shelf.name(place)} cannot be read ({_reason(error)}); mend or remove it. "
                    "`ghn data --check` finds all such files"
                ) from error

        with _threads() as threads:
            places = self.places[index].tolist()
            return torch.from_numpy(np.stack(list(threads.map(decode, range(len(places)), places))))


def square(picture: Image.Image, side: int, part: float = 1.0) -> np.ndarray:
    """(3, side, side) bytes: the central square, `part` of the shorter side wide, scaled with antialiasing."""
    picture.draft("RGB", (2 * side, 2 * side))  # a JPEG is decoded at a smaller size where that is enough
    width, height = picture.size
    edge = min(width, height) * part
    left, top = (width - edge) / 2, (height - edge) / 2
    return scaled(picture, side, (left, top, left + edge, top + edge))


def scaled(picture: Image.Image, side: int, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """(3, side, side) bytes: the picture, or its box (left, top, right, bottom), in RGB. DataError on 16 bits."""
    if picture.mode.startswith(("I", "F")):
        raise DataError(f"its pixels are of type {picture.mode}, not bytes")
    if "transparency" in picture.info:
        picture = picture.convert("RGBA")
    small = picture.convert("RGB").resize((side, side), Image.Resampling.BILINEAR, box=box)
    return np.asarray(small).transpose(2, 0, 1)


def own_side(shelf: Shelf, places: Sequence[int], sample: int = 100) -> int:
    """The median of the shorter sides, over pictures at `sample` of these places, evenly chosen."""
    step = max(1, len(places) // sample)
    sides = []
    for place in places[::step]:
        try:
            sides.append(min(shelf.open(place).size))
        except Exception:  # broken pictures are dealt with where they are decoded
            continue
    if not sides:
        raise DataError(f"none of the pictures can be read, for example {shelf.name(places[0])}; check the files")
    return int(np.median(sides))


def _reason(error: Exception) -> str:
    """The error in one short line, without the address that PIL's messages carry."""
    text = " ".join(str(error).split())
    return "not a picture" if isinstance(error, UnidentifiedImageError) else text[:80] or type(error).__name__


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))
