"""Pools of networks: reproducible, filtered with every candidate counted, drawn in fair epochs."""

import functools
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spaces import multiply_adds
from training import kept_bytes

import deepnets_gen
from deepnets_gen.corpus import Corpus
from deepnets_gen.write import write_corpus
from ghn.tracing import trace
from train import sampler
from train.config import RecipeError
from train.sampler import Pool, PoolSpec, build_pool, chunks

SPEC = PoolSpec("train", 4, 16, channels=8, max_params=10**5, max_nodes=100, max_macs=4 * 10**6, seed=3)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return build_pool(SPEC)


def test_everything_in_a_pool_obeys_its_limits(pool: Pool) -> None:
    assert len(pool.genotypes) == SPEC.size == pool.funnel["accepted"]
    for index, genotype in enumerate(pool.genotypes):
        module, graph = pool.module(index), pool.graph(index)
        assert genotype.channels == 8
        assert sum(p.numel() for p in module.parameters()) == graph.num_params <= 10**5
        assert len(graph) <= 100
        fresh = deepnets_gen.build(genotype, image_size=16, device="meta")  # the pool's has its dilation undone
        assert graph == trace(fresh, image_size=16)
        assert (
            multiply_adds(fresh, torch.empty(1, 3, 16, 16, device="meta"))
            == deepnets_gen.sketch(genotype, image_size=16).macs
            <= 4 * 10**6
        )


def test_activations_are_told_roughly(pool: Pool) -> None:
    images = torch.randn(4, 3, 16, 16)
    for index in range(SPEC.size):
        module = deepnets_gen.build(pool.genotypes[index], image_size=16)
        truth = kept_bytes(functools.partial(module, images), without=module.parameters()) / 2**20
        assert 0.4 < truth / pool.activations(index, 4) < 2.5


def test_every_candidate_is_counted(pool: Pool) -> None:
    found = [
        sampler._left_out(replace(genotype, channels=8), SPEC) or "accepted"
        for genotype in deepnets_gen.generate("train", sum(pool.funnel.values()))
    ]
    assert {reason: found.count(reason) for reason in found} == pool.funnel
    assert set(found) <= {"accepted", "too many parameters", "too many multiply-adds", "too many nodes"}


def test_the_same_specification_gives_the_same_pool(pool: Pool) -> None:
    again = build_pool(SPEC)
    assert again.genotypes == pool.genotypes
    assert again.funnel == pool.funnel


def test_a_corpus_can_be_trained_on(pool: Pool, tmp_path: Path) -> None:
    """It holds the networks of the split's own stream, so that the pools are the same."""
    write_corpus("train", sum(pool.funnel.values()), tmp_path, workers=1)
    assert build_pool(SPEC, Corpus(tmp_path)).genotypes == pool.genotypes
    with pytest.raises(RecipeError, match="only 4 of"):
        build_pool(replace(SPEC, size=5), Corpus(tmp_path))


def test_networks_that_are_too_deep_for_their_images_are_left_out() -> None:
    """At 4 pixels those whose stem halves them have nothing left to halve."""
    spec = replace(SPEC, size=20, image_size=4, max_params=None, max_nodes=None, max_macs=None)
    found = build_pool(spec)
    assert found.funnel["too deep for the image size"] > 0
    assert len(found.genotypes) == 20


def test_networks_with_unwanted_operations_are_left_out() -> None:
    found = build_pool(replace(SPEC, size=20, max_params=None, max_macs=None, max_nodes=None, without=("msa", "cse")))
    kept = deepnets_gen.generate("train", sum(found.funnel.values()))
    expected = [replace(g, channels=8) for g in kept if not g.is_vit and not {"cse"} & g.ops]
    assert list(found.genotypes) == expected
    assert {"with cse", "with msa", "with cse and msa"} >= set(found.funnel) - {"accepted"} >= {"with cse", "with msa"}


def test_impossible_limits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "_GIVE_UP", 5)
    with pytest.raises(RecipeError, match="only 0 of 5"):
        build_pool(replace(SPEC, max_params=10))


def test_published_widths_are_drawn_per_network() -> None:
    spec = replace(SPEC, channels=None, max_params=None, max_macs=None, max_nodes=None)
    found = [g.channels for g, _ in zip(sampler._candidates(spec, None), range(60), strict=False)]
    assert found == [g.channels for g, _ in zip(sampler._candidates(spec, None), range(60), strict=False)]
    assert min(found) == 32
    assert len(set(found)) > 3
    stored = [
        g.channels for g, _ in zip(sampler._candidates(replace(spec, split="val"), None), range(20), strict=False)
    ]
    assert set(stored) == {32}


@given(size=st.integers(1, 7), start=st.integers(0, 50), number=st.integers(1, 30), seed=st.integers(0, 5))
def test_draws_are_shuffled_epochs(size: int, start: int, number: int, seed: int) -> None:
    empty = Pool(replace(SPEC, seed=seed), (None,) * size, {})
    row = empty.drawn(0, start + number)
    assert empty.drawn(start, number) == row[start:]
    for epoch in range(len(row) // size):
        assert sorted(row[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), budget=st.integers(1, 20))
def test_chunks_leave_nothing_out(sizes: list[int], budget: int) -> None:
    graphs = [range(n) for n in sizes]
    parts = [graphs[part] for part in chunks(graphs, budget)]  # ty: ignore[invalid-argument-type]
    assert [g for part in parts for g in part] == graphs
    assert all(sum(map(len, part)) <= budget or len(part) == 1 for part in parts)
    merged = (sum(map(len, a)) + len(b[0]) for a, b in pairwise(parts))
    assert all(total > budget for total in merged)
