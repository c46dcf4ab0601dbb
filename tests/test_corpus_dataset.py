"""A corpus for training: batches within a node budget, the same from any number of loader processes."""

from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import SHARD
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from deepnets_gen import families
from deepnets_gen.corpus import Corpus
from deepnets_gen.dataset import GraphDataset, NodeBudgetBatches, collate
from deepnets_gen.write import write_corpus

COUNT, BUDGET = 60, 800


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpora") / "dataset"
    write_corpus("train", COUNT, path, workers=1, shard_size=SHARD)
    return path


sizes = st.lists(st.integers(1, 50), max_size=40).map(np.array)


@given(sizes, st.integers(1, 60), st.booleans(), st.integers(0, 3))
def test_batches_hold_every_place_once_within_the_budget(
    nodes: np.ndarray, budget: int, shuffle: bool, epoch: int
) -> None:
    sampler = NodeBudgetBatches(nodes, budget, seed=1, epoch=epoch, shuffle=shuffle)
    batches = list(sampler)
    assert sorted(chain(*batches)) == list(range(len(nodes)))
    assert len(batches) == len(sampler)
    assert all(len(batch) == 1 or nodes[batch].sum() <= budget for batch in batches)
    assert sampler.oversized == sum(nodes[batch].sum() > budget for batch in batches)
    if not shuffle:
        assert list(chain(*batches)) == list(range(len(nodes)))
    for first, second in pairwise(batches):  # none ends before it must
        assert nodes[first].sum() + nodes[second[0]] > budget


@given(sizes, st.integers(0, 50))
def test_a_resumed_epoch_is_the_rest_of_it(nodes: np.ndarray, start: int) -> None:
    sampler = NodeBudgetBatches(nodes, 60, seed=5, epoch=2)
    rest = replace(sampler, start=start)
    assert list(rest) == list(sampler)[start:]
    assert len(rest) == len(list(rest))


def test_epochs_and_seeds_shuffle_anew() -> None:
    nodes = np.full(100, 10)
    orders = [list(NodeBudgetBatches(nodes, 100, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert orders[0] == list(NodeBudgetBatches(nodes, 100, 0, 0))


def epoch(folder: Path, workers: int, context: str | None = None, **options: int | bool) -> list:
    """What a training run sees of an epoch, as plain data."""
    corpus = Corpus(folder)
    loader = DataLoader(
        GraphDataset(corpus, **options),
        batch_sampler=NodeBudgetBatches(corpus.nodes, BUDGET, seed=3),
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context=context,
    )
    return [(genotypes, batch.graphs, batch.distances.numpy().tobytes()) for genotypes, batch in loader]


def test_loader_processes_give_what_one_process_gives(folder: Path) -> None:
    alone = epoch(folder, 0, widths=True)
    assert sum(len(genotypes) for genotypes, _, _ in alone) == COUNT
    assert epoch(folder, 2, "fork", widths=True) == alone


@pytest.mark.slow
def test_spawned_loader_processes_too(folder: Path) -> None:
    assert epoch(folder, 2, "spawn", widths=True) == epoch(folder, 0, widths=True)


def test_items_are_genotype_and_graph(folder: Path) -> None:
    corpus = Corpus(folder)
    items = GraphDataset(corpus)
    assert len(items) == COUNT
    assert items[4] == (corpus.genotype(4), corpus[4])
    genotypes, batch = collate([items[4], items[9]])
    assert genotypes == (corpus.genotype(4), corpus.genotype(9))
    assert batch.ops.dtype == torch.int64
    assert batch.num_nodes == corpus.nodes[[4, 9]].sum()


def test_widths_are_drawn_by_seed_epoch_and_place(folder: Path) -> None:
    corpus = Corpus(folder)
    items = GraphDataset(corpus, widths=True)
    drawn = [items[i] for i in range(COUNT)]
    assert drawn == [items[i] for i in range(COUNT)]
    assert all(graph == families.graph(genotype) for genotype, graph in drawn[::10])
    assert [len(graph) for _, graph in drawn] == corpus.nodes.tolist()
    others = [replace(items, epoch=1), replace(items, seed=1), GraphDataset(corpus)]
    assert all([other[i][0] for i in range(COUNT)] != [genotype for genotype, _ in drawn] for other in others)
    same = [replace(g, channels=32, fc_dim=256) for g, _ in drawn]
    assert same == [corpus.genotype(i) for i in range(COUNT)]


def test_other_families_keep_their_widths(tmp_path: Path) -> None:
    write_corpus("gpt", 3, tmp_path, workers=1)
    corpus = Corpus(tmp_path)
    assert GraphDataset(corpus, widths=True)[1] == (corpus.genotype(1), corpus[1])
