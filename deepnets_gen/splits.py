"""The named splits of DeepNets-1M: what each varies, its seed, and which architectures it may hold.

Splits are disjoint without a table: the hash of an architecture's structure, widths left out, assigns it to one of
three parts, and each split keeps only what falls in its own. So no network of `train` can come up in `test` under any
seed, count or width; `val` shares with neither, so that choices made on it leave `test` unseen. A hash does not depend
on anything that matters in a structure, hence each part keeps the distribution of the sampler.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np

from deepnets_gen.axes import Axes, NormPolicy
from deepnets_gen.genotype import DEFAULT_CHANNELS, Genotype, GenotypeError
from deepnets_gen.sample import sample


class Part(Enum):
    """The eighths of all structures that a split draws from."""

    TRAIN = range(6)
    VAL = range(6, 7)
    TEST = range(7, 8)

    @classmethod
    def of(cls, genotype: Genotype) -> "Part":
        """The part that an architecture belongs to, in every process and version."""
        eighth = int(genotype.structure[:8], 16) % 8
        return next(part for part in cls if eighth in part.value)


@dataclass(frozen=True)
class Split:
    """A distribution of networks, a seed of its own and the part of all structures that it may hold."""

    name: str
    axes: Axes
    seed: int
    part: Part


def train() -> Split:
    """The training distribution: 4-18 cells, 1-4 steps, up to 10 million parameters."""
    return Split("train", Axes(), 1, Part.TRAIN)


def val() -> Split:
    """As train, for choices: early stopping, recipes."""
    return Split("val", Axes(), 2, Part.VAL)


def test() -> Split:
    """As train, for reports."""
    return Split("test", Axes(), 3, Part.TEST)


def wide() -> Split:
    """Four times the channels."""
    return Split("wide", Axes(channels=4 * DEFAULT_CHANNELS), 4, Part.TEST)


def deep() -> Split:
    """10-36 cells, up to 100 million parameters."""
    return Split("deep", Axes(cells=(10, 36), deep_above=(18,), limit=100_000_000), 5, Part.TEST)


def dense() -> Split:
    """2-10 steps a cell, up to 100 million parameters."""
    return Split("dense", Axes(steps=(2, 10), deep_steps=6, limit=100_000_000), 6, Part.TEST)


def bnfree() -> Split:
    """No normalisation anywhere but in attention."""
    return Split("bnfree", Axes(norm=NormPolicy.NEVER), 7, Part.TEST)


def search() -> Split:
    """For architecture search: 6-20 cells, 1-6 steps, all normalised, mostly without preprocessing where possible."""
    axes = Axes((6, 20), (1, 6), 3, (10,), norm=NormPolicy.ALWAYS, plain=(0.2, 0.8))
    return Split("search", axes, 8, Part.TEST)


SPLITS: dict[str, Callable[[], Split]] = {f.__name__: f for f in (train, val, test, wide, deep, dense, bnfree, search)}


def draw(split: Split | str, index: int, seed_offset: int = 0) -> Genotype:
    """The network at this place of the split's stream: a function of (split, seed_offset, index) alone.

    Raises GenotypeError where the split is unknown.
    """
    split = _named(split)
    rng = np.random.default_rng([split.seed, seed_offset, index])
    while True:
        genotype = sample(rng, split.axes)
        if Part.of(genotype) is split.part:
            return genotype


def generate(split: Split | str, count: int, seed_offset: int = 0) -> Iterator[Genotype]:
    """The first `count` distinct networks of the split's stream; a longer run begins with the shorter one.

    seed_offset: another stream of the same split.
    """
    split = _named(split)
    seen: set[str] = set()
    index = 0
    while len(seen) < count:
        genotype = draw(split, index, seed_offset)
        index += 1
        if genotype.key not in seen:
            seen.add(genotype.key)
            yield genotype


def _named(split: Split | str) -> Split:
    if isinstance(split, Split):
        return split
    if split not in SPLITS:
        raise GenotypeError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    return SPLITS[split]()
