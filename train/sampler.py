"""Pools of training networks: drawn or read from a corpus, filtered by limits, given out in shuffled epochs."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
from torch import nn

import deepnets_gen
from deepnets_gen.corpus import Corpus
from deepnets_gen.genotype import Genotype, GenotypeError
from deepnets_gen.layout import num_params
from deepnets_gen.sample import resample_width
from ghn.graph import ArchGraph
from train.config import Recipe, RecipeError, Stage
from train.fast import quicken

RECORDED_CLASSES = 10  # DeepNets-1M records parameter counts for 10 classes, and draws widths by them
_ENDLESS = 10**12
_KEPT = 1024  # networks and graphs, which take 0.83 and 0.11 MiB each
_GIVE_UP = 200  # candidates per accepted network before the limits count as impossible
_NODE = 8 * 10**6  # multiply-adds that take as long as what a node costs in the GHN and in function calls, on a CPU


LIMITS = ("channels", "max_params", "max_nodes", "max_macs", "without")  # of a stage on its networks


@dataclass(frozen=True)
class PoolSpec:
    """What decides the content of a pool: the split, how many, for which images and classes, the limits, the seed."""

    split: str
    size: int
    image_size: int
    num_classes: int = 10
    channels: int | None = None
    max_params: int | None = None
    max_nodes: int | None = None
    max_macs: int | None = None
    without: tuple[str, ...] = ()
    seed: int = 0

    @classmethod
    def of(cls, recipe: Recipe, stage: Stage, split: str, size: int, num_classes: int = 10) -> "PoolSpec":
        limits = {name: getattr(stage, name) for name in LIMITS}
        return cls(split, size, stage.side, num_classes, seed=recipe.seed, **limits)


@dataclass(frozen=True, eq=False)
class Pool:
    """Networks to train on. funnel: how many candidates were accepted, and left out for which reason."""

    spec: PoolSpec
    genotypes: tuple[Any, ...]
    funnel: dict[str, int]

    def drawn(self, position: int, number: int) -> list[int]:
        """Indices of the networks at places position .. position + number - 1 of an endless row of shuffled epochs.

        Every network comes once per epoch; an epoch's order depends on the seed and its number alone, so that a
        position is all that a resumed run must know.
        """
        size = len(self.genotypes)
        places = (divmod(place, size) for place in range(position, position + number))
        return [int(_order(self.spec.seed, epoch, size)[offset]) for epoch, offset in places]

    def cost(self, index: int, images: int) -> int:
        """What the network costs with this many images, in multiply-adds forward: to balance, not to tell the time."""
        nodes, macs, _ = _size(self.genotypes[index], self.spec.num_classes, self.spec.image_size)
        return nodes * _NODE + macs * images

    def activations(self, index: int, images: int) -> float:
        """MiB that the network keeps of this many images for its backward pass in float32, roughly.

        Twice what its layers put out: norms and layers keep their inputs, of which ReLUs make some more. Of 20 networks
        of the train split it was 1.4 to 3.3 times what they put out (quartiles 1.7 and 2.2).
        """
        _, _, outputs = _size(self.genotypes[index], self.spec.num_classes, self.spec.image_size)
        return 2 * outputs * images * 4 / 2**20

    def graph(self, index: int) -> ArchGraph:
        """The network's graph."""
        return _graph(self.genotypes[index], self.spec.num_classes, self.spec.image_size)

    def module(self, index: int) -> nn.Module:
        """The network on the meta device: structure without storage, ready to run with weights from elsewhere."""
        return quicken(_module(self.genotypes[index], self.spec.num_classes, self.spec.image_size))


@lru_cache(maxsize=8)
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)


@lru_cache(maxsize=1 << 17)
def _size(genotype: Any, num_classes: int, image_size: int) -> tuple[int, int, int]:
    """Nodes, multiply-adds and layers' outputs for one image."""
    sketch = deepnets_gen.sketch(genotype, num_classes, image_size)
    return len(sketch), sketch.macs, sketch.outputs


@lru_cache(maxsize=_KEPT)
def _graph(genotype: Any, num_classes: int, image_size: int) -> ArchGraph:
    return deepnets_gen.graph(genotype, num_classes, image_size)


@lru_cache(maxsize=_KEPT)  # building one costs as much as running it
def _module(genotype: Any, num_classes: int, image_size: int) -> nn.Module:
    return deepnets_gen.build(genotype, num_classes=num_classes, image_size=image_size, device="meta")


def build_pool(
    spec: PoolSpec, corpus: Corpus | None = None, progress: Callable[[int], None] = lambda accepted: None
) -> Pool:
    """The first `spec.size` networks that pass the limits, of the corpus if there is one, else of the split's stream.

    Raises RecipeError where hardly any passes, or the corpus ends before.
    """
    genotypes: list[Any] = []
    funnel: Counter[str] = Counter()
    for genotype in _candidates(spec, corpus):
        reason = _left_out(genotype, spec)
        funnel[reason or "accepted"] += 1
        if not reason:
            genotypes.append(genotype)
            progress(len(genotypes))
        if len(genotypes) == spec.size:
            return Pool(spec, tuple(genotypes), dict(funnel))
        if funnel.total() >= _GIVE_UP * (len(genotypes) + 1):
            break
    raise RecipeError(f"only {len(genotypes)} of {funnel.total()} networks pass the limits of {spec}: {dict(funnel)}")


def chunks(graphs: list[ArchGraph], budget: int) -> Iterator[slice]:
    """Consecutive parts with at most `budget` nodes each; a graph above the budget is a part of its own."""
    start, nodes = 0, 0
    for end, graph in enumerate(graphs):
        if end > start and nodes + len(graph) > budget:
            yield slice(start, end)
            start, nodes = end, 0
        nodes += len(graph)
    yield slice(start, len(graphs))


def _candidates(spec: PoolSpec, corpus: Corpus | None) -> Iterator[Any]:
    found: Iterable[Any] = deepnets_gen.generate(spec.split, _ENDLESS)
    if corpus is not None:
        found = (corpus.genotype(index) for index in range(len(corpus)))
    for index, genotype in enumerate(found):
        if not isinstance(genotype, Genotype):  # of another family, with widths of its own
            yield genotype
        elif spec.channels is not None:
            yield replace(genotype, channels=spec.channels)
        elif spec.split == "train":
            params = num_params(genotype, RECORDED_CLASSES, everything=True)
            yield resample_width(Random(f"{spec.seed} {index}"), genotype, params)
        else:
            yield genotype


def _left_out(genotype: Any, spec: PoolSpec) -> str | None:
    """Why this network is left out; None if it is not."""
    if isinstance(genotype, Genotype) and (found := genotype.ops & set(spec.without)):
        return f"with {' and '.join(sorted(found))}"
    try:
        sketch = deepnets_gen.sketch(genotype, spec.num_classes, spec.image_size)
    except GenotypeError:
        return "too deep for the image size"
    if sketch.num_params > (spec.max_params or math.inf):
        return "too many parameters"
    if sketch.macs > (spec.max_macs or math.inf):
        return "too many multiply-adds"
    if len(sketch) > (spec.max_nodes or math.inf):
        return "too many nodes"
    return None
