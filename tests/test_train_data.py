"""Images: the protocol, reading both layouts, area averaging and augmentation against slow oracles."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ghn.errors import DataError
from train import data
from train.data import Images, augment, find, load, load_sample
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
    assert data.SAMPLE.stat().st_size < 2_000_000


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
    mask = data._held_out(labels)
    for label in range(10):
        places = torch.nonzero(labels == label).flatten()
        assert torch.nonzero(mask & (labels == label)).flatten().tolist() == places[-200:].tolist()


def test_binary_layout_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "PER_BATCH", 20)
    monkeypatch.setattr(data, "HELD_OUT_PER_CLASS", 1)
    given = images()
    for number in range(1, 6):
        rows = np.concatenate([given.labels.numpy()[:, None], given.pixels.numpy().reshape(20, -1)], axis=1)
        rows.astype(np.uint8).tofile(tmp_path / f"data_batch_{number}.bin")
    read = load("test", tmp_path)
    assert torch.equal(read.pixels, given.pixels)
    assert torch.equal(read.labels, given.labels)
    assert len(load("val", tmp_path)) == 10
    assert len(load("train", tmp_path)) == 70
    (tmp_path / "data_batch_5.bin").write_bytes(b"short")
    with pytest.raises(DataError, match="has 5 bytes"):
        load("test", tmp_path)


def test_missing_set_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(data.ENV, raising=False)
    with pytest.raises(DataError, match="GHN_DATA"):
        find()
    monkeypatch.setenv(data.ENV, str(tmp_path))
    with pytest.raises(DataError, match="no CIFAR-10 batches in"):
        find()
    (tmp_path / "batch_1.parquet").write_bytes(b"not parquet")
    assert find() == tmp_path
    with pytest.raises(DataError, match="cannot be read"):
        load("train")
    with pytest.raises(DataError, match="no split 'all'"):
        load("all")


def test_damaged_sample_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "sample.webp"
    Image.new("RGB", (1280, 800)).save(picture, "PNG")
    picture.with_suffix(".json").write_text(data.SAMPLE.with_suffix(".json").read_text())
    monkeypatch.setattr(data, "SAMPLE", picture)
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


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), side=st.sampled_from([16, 24, 32]))
def test_augmented_images_are_shifted_or_mirrored_originals(seed: int, side: int) -> None:
    given_images = images(4, side).pixels
    pad = side // 8
    changed = augment(given_images, torch.Generator().manual_seed(seed))
    for before, after in zip(given_images, changed, strict=True):
        padded = torch.nn.functional.pad(before, (pad, pad, pad, pad))
        crops = [padded[:, y : y + side, x : x + side] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
        assert any(torch.equal(after, crop) or torch.equal(after, crop.flip(-1)) for crop in crops)


def test_augmentation_reaches_every_shift_and_both_mirrorings() -> None:
    corner = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    corner[:, :, 8, 5] = 255
    many = augment(corner.expand(3000, -1, -1, -1), torch.Generator().manual_seed(0))
    places = {tuple(x.tolist()) for x in torch.nonzero(many[:, 0])[:, 1:]}
    assert places == {(8 + y, column + x) for column in (5, 10) for y in range(-2, 3) for x in range(-2, 3)}


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
    card = json.loads(data.SAMPLE.with_suffix(".json").read_text())
    assert "batch 5" in card["origin"]
    assert os.sep not in card["origin"]
