"""Pictures: decoding, augmentation and datasets, against PIL, torchvision and slow oracles."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ghn._compat import import_torchvision
from ghn.errors import DataError
from train.augment import AREAS, RATIOS, crop_boxes, cropped, jittered
from train.data import find, load, of_dataset
from train.datasets import as_picture
from train.images import Images, own_side, scaled, square

torchvision = import_torchvision()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), generator=generator(), dtype=torch.uint8)


def smooth(height: int, width: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([y % 256, x % 256, (x + y) % 256], -1).astype(np.uint8))


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), height=st.integers(1, 600), width=st.integers(1, 600))
def test_crops_lie_inside_with_the_published_areas_and_ratios(seed: int, height: int, width: int) -> None:
    boxes = crop_boxes(torch.tensor([[height, width]]).expand(20, 2), generator(seed))
    top, left, h, w = boxes.double().unbind(1)
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    slack = 1  # of rounding
    assert ((w + slack) / (h - slack).clamp(min=0.1) >= RATIOS[0]).all()
    if RATIOS[0] <= width / height <= RATIOS[1]:
        assert ((h + slack) * (w + slack) >= AREAS[0] * height * width).all()


def test_crops_are_distributed_as_torchvisions() -> None:
    """Means of area, log ratio and position over many draws, theirs and ours."""
    transform = torchvision.transforms.RandomResizedCrop
    picture = Image.new("RGB", (300, 200))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = torch.tensor([transform.get_params(picture, AREAS, RATIOS) for _ in range(4000)]).double()
    ours = crop_boxes(torch.tensor([[200, 300]]).expand(4000, 2), generator()).double()
    for a, b in zip(features(theirs).T, features(ours).T, strict=True):
        error = (a.var() / len(a) + b.var() / len(b)).sqrt()
        assert (a.mean() - b.mean()).abs() < 4 * error
        assert torch.isclose(a.std(), b.std(), rtol=0.08)


def features(boxes: torch.Tensor) -> torch.Tensor:
    top, left, h, w = boxes.unbind(1)
    return torch.stack([h * w, (w / h).log(), top, left], 1)


def test_cropped_is_the_box_brought_back() -> None:
    pixels = noise(3, 24, 24)
    whole = torch.tensor([[0, 0, 24, 24]] * 3)
    assert torch.equal(cropped(pixels, whole), pixels)
    boxes = torch.tensor([[2, 3, 10, 20], [0, 0, 24, 12], [23, 23, 1, 1]])
    for image, (y, x, h, w), found in zip(pixels, boxes.tolist(), cropped(pixels, boxes), strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        expected = scaled(picture.crop((x, y, x + w, y + h)), 24)
        assert np.abs(found.numpy().astype(int) - expected).max() <= 1


@settings(max_examples=40)
@given(st.tuples(*[st.floats(0.6, 1.4)] * 3), st.floats(-0.2, 0.2), st.integers(0, 2**16))
def test_colours_change_as_torchvisions_do(factors: tuple[float, float, float], hue: float, seed: int) -> None:
    tv = torchvision.transforms.functional
    pixels = torch.randint(0, 256, (1, 3, 5, 6), generator=generator(seed), dtype=torch.uint8)
    expected = pixels.float() / 255
    for change, factor in zip((tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation), factors, strict=True):
        expected = change(expected, factor)
    expected = tv.adjust_hue(expected, hue) * 255
    found = jittered(pixels, *(torch.tensor([f]) for f in factors), torch.tensor([hue]))
    assert (found.float() - expected).abs().max() < 1.5


def test_no_jitter_changes_nothing() -> None:
    pixels, one = noise(4, 8, 8), torch.ones(4)
    assert torch.equal(jittered(pixels, one, one, one, torch.zeros(4)), pixels)


def test_imagenets_augmentation_depends_on_the_generator_alone() -> None:
    images = Images(noise(20, 16, 16), torch.arange(20) % 10, augmentation="imagenet")
    first, again, other = (images.draw(8, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (8, 3, 16, 16)


def test_unknown_augmentation_is_refused() -> None:
    with pytest.raises(DataError, match="none of cifar, mirror, imagenet"):
        Images(noise(2, 8, 8), torch.arange(2), augmentation="none")


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (50, 50)])
@pytest.mark.parametrize("side", [10, 40, 64])
def test_square_is_the_scaled_centre(size: tuple[int, int], side: int) -> None:
    picture = smooth(*size)
    edge = min(size)
    left, top = (size[1] - edge) // 2, (size[0] - edge) // 2
    expected = picture.crop((left, top, left + edge, top + edge)).resize((side, side), Image.Resampling.BILINEAR)
    difference = square(picture, side).astype(int) - np.asarray(expected).transpose(2, 0, 1)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_every_8_bit_mode_becomes_rgb(mode: str) -> None:
    picture = smooth(20, 20).convert(mode)
    assert square(picture, 20).shape == (3, 20, 20)
    assert np.array_equal(square(picture, 20).transpose(1, 2, 0), np.asarray(picture.convert("RGB")))


def test_16_bit_pictures_are_refused_not_clipped() -> None:
    with pytest.raises(DataError, match="I;16"):
        square(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), 8)


class Listed:
    """A dataset of tensors or pictures, as torch's own tutorials make them."""

    def __init__(self, items: list, labels: list) -> None:
        self.items, self.labels_ = items, labels

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple:
        return self.items[index], self.labels_[index]


@pytest.mark.parametrize("kind", ["picture", "bytes", "floats", "array"])
def test_any_dataset_of_pictures_or_tensors(kind: str) -> None:
    pixels = noise(12, 9, 9)
    as_kind = {
        "picture": lambda x: Image.fromarray(x.permute(1, 2, 0).numpy()),
        "bytes": lambda x: x,
        "floats": lambda x: x.float() / 255,
        "array": lambda x: x.numpy(),
    }[kind]
    images = of_dataset(Listed([as_kind(x) for x in pixels], [i % 3 for i in range(12)]))
    assert images.side == 9
    assert images.classes == ("class 0", "class 1", "class 2")
    back = images.places.argsort()
    assert torch.equal(images.pixels_at(back), pixels)
    assert images.labels[back].tolist() == [i % 3 for i in range(12)]
    held, broken = images.in_memory()
    assert torch.equal(held.pixels, images.pixels_at(torch.arange(12)))
    assert broken == []


def test_grey_tensors_become_three_channels() -> None:
    grey = noise(1, 5, 7)[0, 0]
    for item in (grey, grey[None]):
        assert np.array_equal(np.asarray(as_picture(item)), np.stack([grey.numpy()] * 3, -1))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (torch.zeros(4, 5, 5), "shape"),
        (torch.zeros(3, 5, 5) - 1, "without normalisation"),
        (torch.zeros(3, 5, 5, dtype=torch.int64), "int64"),
        (torch.full((3, 5, 5), torch.nan), "outside"),
    ],
)
def test_other_tensors_are_refused(item: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_picture(item)


@pytest.mark.parametrize("labels", [[0.5, 1], [[0], [1]], [[0], [1, 2]], [-1, 0], ["a", "b"], [None, {}]])
def test_other_labels_are_refused(labels: list) -> None:
    with pytest.raises(DataError, match="whole number"):
        of_dataset(Listed(list(noise(2, 4, 4)), labels))


def test_parts_of_a_dataset_are_disjoint_and_whole() -> None:
    dataset = Listed(list(noise(300, 4, 4)), [0, 1] * 150)
    parts = {split: set(of_dataset(dataset, split).places.tolist()) for split in ("train", "val", "test")}
    assert set.union(*parts.values()) == set(range(300))
    assert sum(map(len, parts.values())) == 300
    assert 15 <= len(parts["val"]) <= 50
    two = {split: set(of_dataset(dataset, split, test=False).places.tolist()) for split in ("train", "val")}
    assert set.union(*two.values()) == set(range(300))
    assert not two["train"] & two["val"]


def test_torchvisions_datasets_by_name(tmp_path: Path) -> None:
    folders = {"train": 6, "test": 3}
    for split, count in folders.items():
        for i in range(count):
            (tmp_path / "country211" / split / f"land {i % 3}").mkdir(parents=True, exist_ok=True)
            smooth(10, 12).save(tmp_path / "country211" / split / f"land {i % 3}" / f"{i}.png")
    where = f"torchvision:Country211:{tmp_path}"
    test = load("test", where)
    assert (len(test), test.side, test.classes) == (3, 10, ("land 0", "land 1", "land 2"))
    assert "Country211" in test.origin
    fake = find("torchvision:FakeData").load("test", None, "cifar")  # ty: ignore
    assert 50 < len(fake) < 150
    assert (fake.side, len(fake.classes)) == (224, 10)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CIFAR1O", "did you mean CIFAR1"),
        ("CIFAR100", "fetch it first"),
        ("CocoDetection", "cannot be opened"),
    ],
)
def test_torchvisions_troubles_are_told(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load("train", f"torchvision:{name}:{tmp_path}")


def test_own_side_is_the_median_of_shorter_sides() -> None:
    class Sizes:
        def __len__(self) -> int:
            return 5

        def open(self, place: int) -> Image.Image:
            if place == 2:
                return Image.open(io.BytesIO(b"no picture"))
            return Image.new("RGB", (10 * place + 1, 50))

        def name(self, place: int) -> str:
            return f"picture {place}"

    assert own_side(Sizes(), range(5)) == (11 + 31) // 2
    with pytest.raises(DataError, match="picture 2"):
        own_side(Sizes(), [2])
