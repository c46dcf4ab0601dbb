"""A corpus as a torch Dataset, and batches of it within a budget of nodes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from deepnets_gen import families
from deepnets_gen.corpus import Corpus
from deepnets_gen.genotype import Genotype
from deepnets_gen.layout import num_params
from deepnets_gen.sample import resample_width
from ghn.batch import GraphBatch
from ghn.graph import ArchGraph

Item = tuple[Any, ArchGraph]


@dataclass(frozen=True, eq=False)
class GraphDataset(Dataset[Item]):
    """(genotype, graph) of every place of a corpus.

    widths: whether DeepNets-1M networks get their C and fc_dim drawn anew, as its training set does; the draw is a
    function of (seed, epoch, place), whichever process makes it. `dataclasses.replace(dataset, epoch=1)` is the next.
    """

    corpus: Corpus
    widths: bool = False
    seed: int = 0
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, index: int) -> Item:
        genotype = self.corpus.genotype(index)
        if self.widths and isinstance(genotype, Genotype):
            recorded = num_params(genotype, self.corpus.num_classes, everything=True)
            genotype = resample_width(Random(f"{self.seed}-{self.epoch}-{index}"), genotype, recorded)
        return genotype, families.graph(genotype, self.corpus.num_classes, self.corpus.image_size)


@dataclass(frozen=True, eq=False)
class NodeBudgetBatches(Sampler[list[int]]):
    """Batches of places with at most `budget` nodes together; a larger graph is a batch of its own.

    Every place comes once, in the order of the corpus or shuffled by (seed, epoch). nodes: per place, e.g.
    `corpus.nodes`. start: batches already seen, which a resumed run leaves out; the rest stays as it was.
    """

    nodes: np.ndarray
    budget: int
    seed: int = 0
    epoch: int = 0
    shuffle: bool = True
    start: int = 0

    def __iter__(self) -> Iterator[list[int]]:
        order, bounds = self._plan
        for a, b in zip(bounds[self.start :], bounds[self.start + 1 :], strict=False):
            yield order[a:b].tolist()

    def __len__(self) -> int:
        return max(0, len(self._plan[1]) - 1 - self.start)

    @property
    def oversized(self) -> int:
        """How many graphs are above the budget."""
        return int((np.asarray(self.nodes) > self.budget).sum())

    @cached_property
    def _plan(self) -> tuple[np.ndarray, list[int]]:
        """The order of the places, and where in it each batch begins, with the end."""
        nodes = np.asarray(self.nodes)
        order = np.arange(len(nodes))
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(len(nodes))
        bounds, size = [0], 0
        for place, count in enumerate(nodes[order].tolist()):
            if size and size + count > self.budget:
                bounds.append(place)
                size = 0
            size += count
        return order, [*bounds, len(nodes)] if len(nodes) else bounds


def collate(items: Sequence[Item]) -> tuple[tuple[Any, ...], GraphBatch]:
    """The genotypes of a batch, to build the networks from, and its graphs as a GHN reads them."""
    genotypes, graphs = zip(*items, strict=True)
    return genotypes, GraphBatch.collate(graphs)
