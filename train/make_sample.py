"""Writes the packaged sample of test images anew from the full set: `python -m train.make_sample [FOLDER]`.

Origin of every byte: CIFAR-10 (Krizhevsky, 2009), training batch 5, the first 100 images of each class in their order.
"""

import hashlib
import io
import json
import sys

import torch
from torch import Tensor

from train.cifar import GRID, SAMPLE
from train.data import ImageSet, load

PER_CLASS = 100
ORIGIN = "CIFAR-10 (Krizhevsky, 2009), training batch 5: the first 100 images of each class, in the order of the batch"


def choose(test: ImageSet) -> ImageSet:
    """The first PER_CLASS images of each class, in the order of `test`, so that every batch stays mixed."""
    first = [torch.nonzero(test.labels == label).flatten()[:PER_CLASS] for label in range(len(test.classes))]
    return test.take(torch.cat(first).sort().values)


def encode(pixels: Tensor) -> bytes:
    """A lossless picture of GRID rows and columns that `decode_grid` reads."""
    from PIL import Image

    cells = pixels.numpy().reshape(*GRID, 3, 32, 32).transpose(0, 3, 1, 4, 2)
    buffer = io.BytesIO()
    Image.fromarray(cells.reshape(GRID[0] * 32, GRID[1] * 32, 3)).save(
        buffer, "WEBP", lossless=True, quality=100, method=6
    )
    return buffer.getvalue()


def main(folder: str | None) -> None:
    images = choose(load("test", folder))
    pixels = images.pixels_at(torch.arange(len(images)))
    SAMPLE.parent.mkdir(exist_ok=True)
    SAMPLE.write_bytes(encode(pixels))
    card = {
        "origin": ORIGIN,
        "layout": "lossless RGB, 25 rows x 40 columns of 32 x 32 images, row by row",
        "sha256": hashlib.sha256(pixels.numpy().tobytes()).hexdigest(),
        "classes": list(images.classes),
        "labels": images.labels.tolist(),
    }
    SAMPLE.with_suffix(".json").write_text(json.dumps(card) + "\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
