"""The images that a score used for search may see: never those that test."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from eval.evaluator import TEST
from ghn.errors import DataError
from train.data import ImageSet, load

PARTS = ("train", "val")


@dataclass(frozen=True, eq=False)
class SearchImages:
    """Images with the part of their set that they are. Raises DataError for 'test', which evaluators do not take."""

    images: ImageSet
    part: str

    def __post_init__(self) -> None:
        if self.part == TEST:
            raise DataError("these are test images, which no search may see; give those of 'val' or 'train'")
        if self.part not in PARTS:
            raise DataError(f"images for search are of {' or '.join(PARTS)}, not {self.part!r}")

    @classmethod
    def load(
        cls, where: str | Path | None, part: str = "val", count: int | None = None, side: int | None = None
    ) -> Self:
        """Images of this part of the set at `where`, as `train.data.load` takes it; `count` of them, evenly by class.

        Raises DataError, also where no full set is named: the packaged sample is of test images.
        """
        if part == TEST:
            raise DataError("a search sees no test images; ask for 'val' or 'train'")
        images = load(part, where, side=side)
        images = balanced(images, count) if count else images
        return cls(images.resized(side) if side else images, part)

    @property
    def content(self) -> list[Any]:
        """What tells these images from others, without reading them all; ready for JSON."""
        images = self.images
        some = images.pixels_at(torch.arange(min(8, len(images)))).long().sum((1, 2, 3)).tolist()
        return [self.part, len(images), images.side, images.labels.sum().item(), some]


def balanced(images: ImageSet, count: int) -> ImageSet:
    """The first images of each class, classes taking turns, `count` in all. Raises DataError where there are fewer."""
    places = [torch.nonzero(images.labels == c).flatten() for c in range(len(images.classes))]
    turns = -(-count // len(places))
    short = min(range(len(places)), key=lambda c: len(places[c]))
    if len(places[short]) < turns:
        raise DataError(
            f"{count} images, evenly by class, need {turns} of {images.classes[short]}; there are {len(places[short])}"
        )
    order = torch.stack([p[:turns] for p in places], dim=1).flatten()
    return images.take(order[:count])
