"""Evenly spread batches: an order against its definition, draws against their strata, and what they are for."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from train.data import load_sample
from train.images import Pictures
from train.strata import LEAF, looks, order_of, spread


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_an_order_holds_every_image_once_class_after_class() -> None:
    sample = load_sample()
    order = sample.order()
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert torch.equal(sample.labels[order], sample.labels.sort().values)


def test_neighbours_in_the_order_look_alike() -> None:
    sample = load_sample()
    seen = looks(sample.pixels).double()
    seen = (seen - seen.mean(0)) / seen.std(0)

    def distance(order: Tensor) -> float:
        return (seen[order[1:]] - seen[order[:-1]]).norm(dim=1).mean().item()

    by_class = order_of(sample.labels)
    assert distance(sample.order()) < 0.75 * distance(by_class)


def test_looks_are_sums_of_the_parts_of_an_image() -> None:
    pixels = torch.randint(0, 256, (5, 3, 16, 16), generator=generator(), dtype=torch.uint8)
    for image, found in zip(pixels.tolist(), looks(pixels).tolist(), strict=True):
        at = {(c, y, x): image[c][y][x] for c in range(3) for y in range(16) for x in range(16)}
        upper = sum(v if y < 8 else -v for (_, y, _), v in at.items())
        middle = sum(3 * v if 4 <= y < 12 and 4 <= x < 12 else -v for (_, y, x), v in at.items())
        assert found == [sum(at.values()), upper, middle]
    assert torch.equal(looks(pixels.flip(3)), looks(pixels))


def test_within_a_class_the_darker_half_comes_first() -> None:
    sample = load_sample()
    places = order_of(sample.labels, sample.pixels)[:100]
    brightness = looks(sample.pixels)[places, 0]
    assert brightness[:50].max() <= brightness[50:].min()
    assert len(places) > LEAF


@settings(max_examples=50)
@given(images=st.integers(1, 300), size=st.integers(1, 40), batches=st.sampled_from([1, 2, 3]), seed=st.integers(0, 99))
def test_one_image_of_every_stratum(images: int, size: int, batches: int, seed: int) -> None:
    order, count = torch.randperm(images, generator=generator(1)), size * batches
    drawn = spread(order, count, generator(seed), batches)
    places = order.argsort()[drawn].view(batches, size)
    for number, batch in enumerate(places.tolist()):  # each batch has every so manieth stratum
        for index, place in enumerate(batch):
            stratum = index * batches + number
            low, high = (images * edge // count for edge in (stratum, stratum + 1))
            assert low <= place < max(high, low + 1)
    assert count > images or len(set(drawn.tolist())) == count


def test_every_image_is_as_likely_as_any_other() -> None:
    order = torch.arange(60)
    drawn = torch.cat([spread(order, 12, generator(seed)) for seed in range(3000)])
    counts = drawn.bincount(minlength=60).double()
    assert (counts - 600).abs().max() < 5 * (600 * 0.8) ** 0.5  # binomial: 3,000 draws of 1 in 5


def test_spread_batches_differ_less() -> None:
    """What it is for: the mean image and the classes of a batch vary less than in any batch."""
    sample = load_sample()
    order = sample.order()
    spreads = []
    for given_order in (None, order):
        drawn = [replace(sample, augmentation="mirror").draw(50, generator(seed), given_order) for seed in range(200)]
        means = torch.stack([x.mean((0, 2, 3)) for x, _ in drawn])
        classes = torch.stack([y.bincount(minlength=10) for _, y in drawn]).double()
        spreads.append((means.var(0).sum().item(), classes.var(0).sum().item()))
    assert spreads[1][0] < 0.8 * spreads[0][0]
    assert spreads[1][1] == 0


def test_pictures_in_files_are_spread_over_their_classes() -> None:
    labels = torch.tensor([2, 0, 1, 0, 2, 1])
    pictures = Pictures([], torch.arange(6), labels, ("a", "b", "c"), 8, (0.5,) * 3, (0.5,) * 3, "none")  # ty: ignore[invalid-argument-type]
    assert labels[pictures.order()].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_order_does_not_depend_on_the_threads(threads: int) -> None:
    before, sample = torch.get_num_threads(), load_sample()
    expected = sample.order()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(sample.order(), expected)
    finally:
        torch.set_num_threads(before)
