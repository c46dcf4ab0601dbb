"""The named splits: what each varies, its seed, and which architectures it may hold.

Splits are disjoint without a table: the topology of a network's graph (types, kernel sizes and connections; widths left
out) assigns it to one of three parts, and each split of DeepNets-1M keeps only what falls in its own. So no network of
`train` can come up in `test` under any seed, count or width; `val` shares with neither, so that choices made on it
leave `test` unseen. A hash does not depend on anything that matters in a structure, hence each part keeps the
distribution of the sampler.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from random import Random
from typing import Any

from deepnets_gen import families
from deepnets_gen.axes import Axes, NormPolicy
from deepnets_gen.genotype import DEFAULT_CHANNELS, Genotype, GenotypeError
from deepnets_gen.sample import candidate, small_enough
from deepnets_gen.spaces import mobile as mobiles
from deepnets_gen.spaces import nasbench201 as cells201
from deepnets_gen.spaces import transformer
from deepnets_gen.spaces.resnet import RESNET50
from ghn.identity import identities

VIT = Genotype(
    normal=(("none", 0), ("msa", 1)),
    reduce=(("none", 0), ("avg_pool_3x3", 1)),
    normal_concat=(2,),
    reduce_concat=(2,),
    n_cells=12,
    channels=128,
    preproc=False,
    fc_layers=0,
)
PREDEFINED = (RESNET50, VIT)


class Part(Enum):
    """The eighths of all topologies that a split draws from."""

    TRAIN = range(6)
    VAL = range(6, 7)
    TEST = range(7, 8)

    @classmethod
    def of(cls, topology: str) -> "Part":
        """The part that an architecture belongs to, in every process and version; of the predefined ones, TEST."""
        if topology in _predefined():
            return cls.TEST
        eighth = int(topology[:8], 16) % 8
        return next(part for part in cls if eighth in part.value)


@dataclass(frozen=True)
class Split:
    """A distribution of networks and a seed of its own.

    draw: a candidate from a generator and its place in the stream; None where it makes no network.
    small: whether a candidate is within the split's limit of parameters. part: what of all topologies it may hold;
    None: everything. size: number of candidates, where they are finitely many. axes: what it varies, for the record.
    """

    name: str
    seed: int
    draw: Callable[[Random, int], Any]
    part: Part | None = None
    small: Callable[[Any], bool] = lambda genotype: True
    size: int | None = None
    axes: Any = None


def train() -> Split:
    """The training distribution of DeepNets-1M: 4-18 cells, 1-4 steps, up to 10 million parameters."""
    return _deepnets("train", 1, Part.TRAIN, Axes())


def val() -> Split:
    """As train, for choices: early stopping, recipes."""
    return _deepnets("val", 2, Part.VAL, Axes())


def test() -> Split:
    """As train, for reports."""
    return _deepnets("test", 3, Part.TEST, Axes())


def wide() -> Split:
    """As train, with four times the channels."""
    return _deepnets("wide", 4, Part.TEST, Axes(channels=4 * DEFAULT_CHANNELS))


def deep() -> Split:
    """10-36 cells, up to 100 million parameters."""
    return _deepnets("deep", 5, Part.TEST, Axes(cells=(10, 36), deep_above=(18,), limit=100_000_000))


def dense() -> Split:
    """2-10 steps a cell, up to 100 million parameters."""
    return _deepnets("dense", 6, Part.TEST, Axes(steps=(2, 10), deep_steps=6, limit=100_000_000))


def bnfree() -> Split:
    """No normalisation anywhere but in attention."""
    return _deepnets("bnfree", 7, Part.TEST, Axes(norm=NormPolicy.NEVER))


def search() -> Split:
    """For architecture search: 6-20 cells, 1-6 steps, all normalised, mostly without preprocessing where possible."""
    axes = Axes((6, 20), (1, 6), 3, (10,), norm=NormPolicy.ALWAYS, plain=(0.2, 0.8))
    return _deepnets("search", 8, Part.TEST, axes)


def predefined() -> Split:
    """ResNet-50 and DeepNets-1M's ViT."""
    return Split("predefined", 9, lambda rng, index: PREDEFINED[index], size=len(PREDEFINED))


def vit() -> Split:
    """Vision transformers for small images: patches, class token or mean, learned positions."""
    axes = transformer.VitAxes()
    return Split("vit", 10, lambda rng, index: transformer.vit_candidate(rng, axes), **_limited(transformer, axes))


def gpt() -> Split:
    """Decoder-only language models, mostly with tied embeddings."""
    axes = transformer.GptAxes()
    return Split("gpt", 11, lambda rng, index: transformer.gpt_candidate(rng, axes), **_limited(transformer, axes))


def mobile() -> Split:
    """Inverted residuals with or without squeeze-and-excitation, around MobileNet and MnasNet."""
    axes = mobiles.MobileAxes()
    return Split("mobile", 12, lambda rng, index: mobiles.candidate(rng, axes), **_limited(mobiles, axes))


def nasbench201() -> Split:
    """Every cell of NAS-Bench-201, in the order of its numbers."""
    return Split("nasbench201", 13, lambda rng, index: cells201.candidate_at(index), size=cells201.SIZE)


def cells201_train() -> Split:
    """NAS-Bench-201's cells in random order, one a stage, for GHNs that score this space; an eighth of the cells each
    is left to `cells201_val` and `cells201_test`."""
    return _cells201("cells201_train", 14, Part.TRAIN)


def cells201_val() -> Split:
    """As cells201_train, for choices."""
    return _cells201("cells201_val", 15, Part.VAL)


def cells201_test() -> Split:
    """As cells201_train, for reports on cells that no GHN was trained on."""
    return _cells201("cells201_test", 16, Part.TEST)


SPLITS: dict[str, Callable[[], Split]] = {
    make.__name__: make
    for make in (
        *(train, val, test, wide, deep, dense, bnfree, search, predefined, vit, gpt, mobile, nasbench201),
        *(cells201_train, cells201_val, cells201_test),
    )
}


def named(split: Split | str) -> Split:
    """The split of this name. Raises GenotypeError where there is none."""
    if isinstance(split, Split):
        return split
    if split not in SPLITS:
        raise GenotypeError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    return SPLITS[split]()


def _limited(space: Any, axes: Any) -> dict[str, Any]:
    return {"small": partial(space.small_enough, axes=axes), "axes": axes}


def _cells201(name: str, seed: int, part: Part) -> Split:
    return Split(name, seed, lambda rng, index: cells201.candidate_at(_shuffled()[index], 1), part, size=cells201.SIZE)


@cache
def _shuffled() -> list[int]:
    """The numbers of NAS-Bench-201's cells in a random order, always the same."""
    rng = Random("cells of NAS-Bench-201")
    return [number for _, number in sorted((rng.random(), number) for number in range(cells201.SIZE))]


def _deepnets(name: str, seed: int, part: Part, axes: Axes) -> Split:
    return Split(name, seed, lambda rng, index: candidate(rng, axes), part, partial(small_enough, axes=axes), axes=axes)


@cache
def _predefined() -> frozenset[str]:
    return frozenset(found.topology for found in identities([families.sketch(g) for g in PREDEFINED]))
