"""CIFAR-10: the protocol, reading every form, area averaging and augmentation against slow oracles."""

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pickles import python2_batch
from PIL import Image

from ghn.errors import DataError
from train import cifar, data
from train.augment import mirrored, shifted
from train.cifar import Cifar10
from train.data import Images, find, load, load_sample
from train.make_sample import choose

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
FULL = SHARED / "data" / "cifar10"
needs_full = pytest.mark.skipif(not FULL.is_dir(), reason="the full CIFAR-10 set is not beside the checkout")


def images(count: int = 20, side: int = 32) -> Images:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    return Images(torch.from_numpy(pixels), torch.arange(count) % 10)


def test_sample_is_balanced_and_mixed() -> None:
    sample = load_sample()
    assert sample.pixels.shape == (1000, 3, 32, 32)
    assert sample.labels.bincount().tolist() == [100] * 10
    assert all(len(part.unique()) >= 8 for part in sample.labels.split(64)[:-1])
    assert cifar.SAMPLE.stat().st_size < 2_000_000


@needs_full
def test_sample_is_what_its_origin_says() -> None:
    sample, chosen = load_sample(), choose(load("test", FULL))
    assert torch.equal(sample.pixels, chosen.pixels)
    assert torch.equal(sample.labels, chosen.labels)


@needs_full
def test_validation_images_of_the_full_set() -> None:
    val = load("val", FULL)
    assert val.labels.bincount().tolist() == [200] * 10
    assert np.allclose(val.pixels.float().mean((0, 2, 3)) / 255, data.MEAN, atol=0.02)


def test_held_out_images_are_the_last_of_each_class() -> None:
    labels = torch.randint(0, 10, (5000,), generator=torch.Generator().manual_seed(0))
    mask = cifar._held_out(labels)
    for label in range(10):
        places = torch.nonzero(labels == label).flatten()
        assert torch.nonzero(mask & (labels == label)).flatten().tolist() == places[-200:].tolist()


@pytest.fixture
def batches_of_20(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "PER_BATCH", 20)
    monkeypatch.setattr(cifar, "HELD_OUT_PER_CLASS", 1)


def write_binary(path: Path, given: Images) -> None:
    rows = np.concatenate([given.labels.numpy()[:, None], given.pixels.numpy().reshape(len(given), -1)], axis=1)
    rows.astype(np.uint8).tofile(path.with_suffix(".bin"))


def write_python(path: Path, given: Images) -> None:
    path.write_bytes(python2_batch(given.pixels.numpy(), given.labels.tolist()))


def write_again(path: Path, given: Images) -> None:
    """As somebody with Python 3 would write the batch."""
    path.write_bytes(
        pickle.dumps({"data": given.pixels.numpy().reshape(len(given), -1), "labels": given.labels.tolist()}, 4)
    )


@pytest.mark.usefixtures("batches_of_20")
@pytest.mark.parametrize("write", [write_binary, write_python, write_again])
def test_every_form_reads_the_same(tmp_path: Path, write: Callable[[Path, Images], None]) -> None:
    given = images()
    folder = tmp_path / "cifar-10-batches-py"  # the parent may be named, too
    folder.mkdir()
    for number in range(1, 6):
        write(folder / f"data_batch_{number}", given)
    for where in (tmp_path, folder):
        read = load("test", where)
        assert torch.equal(read.pixels, given.pixels)  # ty: ignore
        assert torch.equal(read.labels, given.labels)
    assert len(load("val", tmp_path)) == 10
    assert len(load("train", tmp_path)) == 70
    last = max(folder.iterdir())
    last.write_bytes(last.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"data_batch_5.*copy it again"):
        load("test", tmp_path)


@pytest.mark.usefixtures("batches_of_20")
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"labels": [1]}, "'data'"),
        ([1, 2], "AttributeError"),
        ({"data": np.zeros((20, 3072)), "labels": [1] * 20}, "float64"),
        ({"data": np.zeros((20, 3072), np.uint8), "labels": ["a"] * 20}, "labels of type"),
        ({"data": np.zeros((20, 3071), np.uint8), "labels": [1] * 20}, "reshape"),
        ({"data": np.zeros((20, 3072), np.uint8), "labels": [1] * 19}, "20 images and 19 labels"),
        ({"data": np.zeros((20, 3072), np.uint8), "labels": [10] * 20}, "labels reach 10"),
    ],
)
def test_other_pickles_are_no_batches(tmp_path: Path, batch: object, message: str) -> None:
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}").write_bytes(pickle.dumps(batch, 4))
    with pytest.raises(DataError, match=message):
        load("test", tmp_path)


def test_missing_set_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(data.ENV, raising=False)
    with pytest.raises(DataError, match="GHN_DATA"):
        find()
    monkeypatch.setenv(data.ENV, str(tmp_path))
    with pytest.raises(DataError, match="no images in"):
        find()
    (tmp_path / "batch_1.parquet").write_bytes(b"not parquet")
    assert find() == Cifar10(tmp_path, "parquet")
    with pytest.raises(DataError, match="cannot be read"):
        load("train")
    with pytest.raises(DataError, match="no split 'all'"):
        load("all")


def test_damaged_sample_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "sample.webp"
    Image.new("RGB", (1280, 800)).save(picture, "PNG")
    picture.with_suffix(".json").write_text(cifar.SAMPLE.with_suffix(".json").read_text())
    monkeypatch.setattr(cifar, "SAMPLE", picture)
    with pytest.raises(DataError, match="checksum"):
        load_sample()
    picture.write_bytes(b"RIFF")
    with pytest.raises(DataError, match="not a picture"):
        load_sample()


@pytest.mark.parametrize("side", [16, 24, 8])
def test_resized_is_the_area_average(side: int) -> None:
    small = images(3).resized(side).pixels
    ratio = 32 / side
    coverage = np.zeros((side, 32))  # adaptive pooling: every pixel that a cell touches counts fully
    for i in range(side):
        coverage[i, int(np.floor(i * ratio)) : int(np.ceil((i + 1) * ratio))] = 1
    coverage /= coverage.sum(1, keepdims=True)
    expected = np.einsum("ih,nchw,jw->ncij", coverage, images(3).pixels.numpy().astype(float), coverage)
    assert np.abs(small.numpy() - expected).max() <= 0.5 + 1e-3


def test_resizing_up_is_refused() -> None:
    with pytest.raises(DataError, match="cannot be shown at 64"):
        images(2).resized(64)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), side=st.sampled_from([16, 24, 32]))
def test_augmented_images_are_shifted_or_mirrored_originals(seed: int, side: int) -> None:
    given_images = images(4, side).pixels
    pad = side // 8
    changed = shifted(given_images, torch.Generator().manual_seed(seed))
    for before, after in zip(given_images, changed, strict=True):
        padded = torch.nn.functional.pad(before, (pad, pad, pad, pad))
        crops = [padded[:, y : y + side, x : x + side] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
        assert any(torch.equal(after, crop) or torch.equal(after, crop.flip(-1)) for crop in crops)


def test_augmentation_reaches_every_shift_and_both_mirrorings() -> None:
    corner = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    corner[:, :, 8, 5] = 255
    many = shifted(corner.expand(3000, -1, -1, -1), torch.Generator().manual_seed(0))
    places = {tuple(x.tolist()) for x in torch.nonzero(many[:, 0])[:, 1:]}
    assert places == {(8 + y, column + x) for column in (5, 10) for y in range(-2, 3) for x in range(-2, 3)}


def test_mirrored_images_are_originals_or_their_mirror_images_about_as_often() -> None:
    given_images = images(400).pixels
    changed = mirrored(given_images, torch.Generator().manual_seed(0))
    kept = (changed == given_images).flatten(1).all(1)
    assert torch.equal(changed[~kept], given_images[~kept].flip(3))
    assert 150 < int(kept.sum()) < 250


@pytest.mark.parametrize("augmentation", ["cifar", "mirror"])
def test_only_a_shift_changes_what_is_in_a_training_image(augmentation: str) -> None:
    pool = replace(images(20), augmentation=augmentation)
    drawn, _ = pool.draw(20, torch.Generator().manual_seed(0))
    means = [x.mean(dim=(1, 2, 3)).sort().values for x in (drawn, pool.normalised(pool.pixels))]
    assert torch.allclose(*means, atol=1e-5) == (augmentation == "mirror")


def test_draw_depends_on_the_generator_alone() -> None:
    pool = images(20)
    first = pool.draw(8, torch.Generator().manual_seed(3))
    torch.manual_seed(11)
    again = pool.draw(8, torch.Generator().manual_seed(3))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert first[0].is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(first[0], pool.draw(8, torch.Generator().manual_seed(4))[0])


def test_normalised_has_zero_mean_and_unit_variance() -> None:
    sample = load_sample()
    batch = torch.cat([x for x, _ in sample.batches(300)])
    assert batch.mean((0, 2, 3)).abs().max() < 0.05
    assert (batch.std((0, 2, 3)) - 1).abs().max() < 0.05


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.long)),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.long)),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.long)),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 10])),
    ],
)
def test_inconsistent_images_are_refused(pixels: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(DataError):
        Images(pixels, labels)


def test_card_of_the_sample_names_its_origin() -> None:
    card = json.loads(cifar.SAMPLE.with_suffix(".json").read_text())
    assert "batch 5" in card["origin"]
    assert os.sep not in card["origin"]
