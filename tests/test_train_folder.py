"""Image folders: parts that depend on names alone, real pictures read as PIL reads them, broken files named."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reference import SHARED

from ghn.errors import DataError
from train import data
from train.cli import run_data
from train.data import find, load
from train.folder import Folder, hashed_part
from train.images import Images, Pictures

REAL = SHARED / "data" / "tinyimagenet10" / "tinyimagenet10_64px.parquet"
GIVEN = [(), ("train",), ("train", "val"), ("train", "test"), ("train", "val", "test")]


def write(folder: Path, count: int = 30, classes: tuple[str, ...] = ("cat", "dog", "owl"), side: int = 12) -> None:
    """`count` pictures of one colour each, (class, number) -> colour, spread over the classes."""
    for i in range(count):
        label = i % len(classes)
        path = folder / classes[label] / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side + 2), (label, i % 256, 7)).save(path)


def names(root: Path, split: str) -> set[str]:
    pictures = find(root).load(split, None, "cifar")  # ty: ignore
    assert isinstance(pictures, Pictures)
    return {pictures.shelf.name(place) for place in pictures.places.tolist()}


@pytest.mark.parametrize("given_parts", GIVEN)
def test_parts_are_disjoint_and_whole(given_parts: tuple[str, ...], tmp_path: Path) -> None:
    for part in given_parts or (".",):
        write(tmp_path / part, 60)
    parts = {split: names(tmp_path, split) for split in ("train", "val", "test")}
    assert set.union(*parts.values()) == {str(p) for p in tmp_path.rglob("*.png")}
    assert sum(map(len, parts.values())) == 60 * max(1, len(given_parts))
    tests = {("train", "val"): "val"}.get(given_parts, "test")
    if len(given_parts) > 1:
        assert parts["test"] == {str(p) for p in (tmp_path / tests).rglob("*.png")}
    if len(given_parts) == 3:
        assert parts["val"] == {str(p) for p in (tmp_path / "val").rglob("*.png")}


@given(st.text(max_size=30))
def test_a_part_depends_on_the_name_alone(name: str) -> None:
    two, three = hashed_part(name, test=False), hashed_part(name, test=True)
    assert two in ("train", "val")
    assert three in ("train", "val", "test")
    assert two == hashed_part(name, test=False)
    assert (three == "test") == (two == "val")


def test_other_files_move_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a", 60)
    before = names(tmp_path / "a", "train")
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "elsewhere")
    write(tmp_path / "b" / "elsewhere", 90)
    after = names(tmp_path / "b" / "elsewhere", "train")
    moved = {Path(p).relative_to(tmp_path / "a") for p in before}
    assert moved == {q for p in after if (q := Path(p).relative_to(tmp_path / "b" / "elsewhere")) and int(q.stem) < 60}


def test_images_and_labels_belong_together_and_come_mixed(tmp_path: Path) -> None:
    write(tmp_path, 90)
    for split in ("train", "val", "test"):
        images = load(split, tmp_path)
        assert isinstance(images, Images)
        assert images.classes == ("cat", "dog", "owl")
        assert images.side == 12
        assert torch.equal(images.pixels[:, 0, 3, 3].long(), images.labels)
    first = load("train", tmp_path).labels[:12]
    assert len(first.unique()) == 3


def test_memory_or_files_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 40, side=33)
    held = load("train", tmp_path, side=16)
    monkeypatch.setenv(data.MEMORY, "0")
    streamed = load("train", tmp_path, side=16)
    assert isinstance(held, Images)
    assert isinstance(streamed, Pictures)
    for a, b in zip(held.batches(7), streamed.batches(7), strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    drawn = [x.draw(9, torch.Generator().manual_seed(1)) for x in (held, streamed)]
    assert torch.equal(drawn[0][0], drawn[1][0])
    part = streamed.take(torch.tensor([3, 1])).resized(8)
    assert (len(part), part.side) == (2, 8)
    monkeypatch.setenv(data.MEMORY, "much")
    with pytest.raises(DataError, match="not a number of GiB"):
        load("train", tmp_path)


def test_imagenets_crops_come_from_the_files(tmp_path: Path) -> None:
    """A picture whose columns and rows tell where they are: every crop is a scaled box of it, mirrored or not."""
    y, x = np.mgrid[0:200, 0:200]
    picture = Image.fromarray(np.stack([y, x, np.zeros_like(x)], -1).astype(np.uint8))
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / "train" / name).parent.mkdir(parents=True)
        picture.save(tmp_path / "train" / name)
    images = Pictures(Folder(tmp_path).load("train", 32, "imagenet").shelf, *_four(), augmentation="imagenet")
    crops = images.crops_at(torch.zeros(40, dtype=torch.long), torch.Generator().manual_seed(0)).float()
    rows, columns = crops[:, 0].mean(2), crops[:, 1].mean(1)
    for values in (rows, columns):
        steps = values.diff(dim=1)
        assert (steps > 0).all(), "positions rise along the crop"
        assert (steps[:, 4:-4].std(1) < 0.6).all(), "evenly"
    shown = images.pixels_at(torch.tensor([0]))[0].float()
    assert shown[0, 0].mean() == pytest.approx(200 * 1 / 16, abs=3), "7/8 of the picture is evaluated"


def _four() -> tuple:
    zeros = torch.zeros(1, dtype=torch.long)
    return zeros, zeros, ("a", "b"), 32, (0.5,) * 3, (0.5,) * 3, "x"


BROKEN = {
    "empty.png": b"",
    "text.jpg": b"this is no picture",
    "head.png": b"\x89PNG\r\n\x1a\n",
}


def damage(folder: Path) -> set[str]:
    """Pictures that cannot be read: no pictures at all, and one cut off in the middle."""
    for name, content in BROKEN.items():
        (folder / name).write_bytes(content)
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    (folder / "cut.jpg").write_bytes(buffer.getvalue()[:-600])
    return {*BROKEN, "cut.jpg"}


def test_broken_files_are_left_out_named_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("train", "val", "test"):
        write(tmp_path / part)
    bad = damage(tmp_path / "train" / "dog")
    (tmp_path / "train" / "dog" / "notes.txt").write_text("not an image, and no matter")
    said: list[str] = []
    images = load("train", tmp_path, report=said.append)
    assert len(images) == 30
    assert torch.equal(images.pixels_at(torch.arange(30))[:, 0, 3, 3].long(), images.labels)
    assert len(said) == 1
    assert said[0].startswith("4 of 34 pictures cannot be read and are left out")
    assert all(name in said[0] for name in bad)
    monkeypatch.setenv(data.MEMORY, "0")
    with pytest.raises(DataError, match=r"dog.*cannot be read .*`ghn data --check` finds"):
        list(load("train", tmp_path, report=said.append).batches(40))


def test_check_names_every_broken_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    write(tmp_path / "train", 60)
    bad = damage(tmp_path / "train" / "cat")
    assert run_data(argparse.Namespace(data=str(tmp_path), check=True)) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in bad)
    counts = [int(line.split(": ")[1].split()[0]) for line in out.splitlines() if "cannot be read" in line]
    assert sum(counts) == 4
    assert "3 classes (cat, dog, owl)" in out


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ([], "no images in"),
        (["train/cat/1.png"], "1 sub-folders with pictures"),
        (["train/cat/1.png", "train/dog/1.png", "val/fox/1.png"], "classes that .* lacks: fox"),
        (["flat.png"], "no images in"),
        ([".hidden/cat/1.png", ".hidden/dog/1.png"], "no images in"),
        (["train/1.png"], "0 sub-folders with pictures"),
    ],
)
def test_wrong_folders_are_explained(layout: list[str], message: str, tmp_path: Path) -> None:
    for name in layout:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    with pytest.raises(DataError, match=message):
        load("test", tmp_path)


def test_all_broken_is_an_error(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            (tmp_path / part / label / "x.jpg").write_bytes(b"no")
    with pytest.raises(DataError, match="none of the"):
        load("val", tmp_path, report=lambda message: None)
    with pytest.raises(DataError, match="none of the 2 pictures"):
        load("val", tmp_path, side=8, report=lambda message: None)


@pytest.mark.skipif(not REAL.is_file(), reason="../shared/data/tinyimagenet10 is not at hand")
def test_real_photographs(tmp_path: Path) -> None:
    """Tiny-ImageNet's JPEGs as a folder: every pixel as PIL decodes it, grey ones included."""
    import pyarrow.parquet as pq

    table = pq.read_table(REAL)
    classes = table.schema.metadata[b"classes"].decode().split("|")
    rows = [row for i, row in enumerate(table.to_pylist()) if i % 11 == 0]
    for row in rows:
        path = tmp_path / row["split"] / classes[row["label"]] / row["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["jpeg"])
    count = 0
    for split in ("train", "val", "test"):
        images, pictures = load(split, tmp_path), find(tmp_path).load(split, None, "cifar")  # ty: ignore
        assert isinstance(images, Images)
        assert images.classes == tuple(sorted({classes[row["label"]] for row in rows}))
        assert images.side == 64
        for place in range(0, len(images), 9):
            path = Path(pictures.shelf.name(pictures.places[place]))
            expected = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB")).transpose(2, 0, 1)
            assert np.array_equal(images.pixels[place].numpy(), expected)
            assert images.classes[images.labels[place]] == path.parent.name
        count += len(images)
    assert count == len(rows)
