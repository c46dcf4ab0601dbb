"""Pools of networks: reproducible, filtered with every candidate counted, kept on disk, drawn in fair epochs."""

import gzip
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import deepnets_gen
from ghn.errors import DataError
from ghn.tracing import trace
from train import sampler
from train.config import RecipeError
from train.sampler import Pool, PoolSpec, build_pool, chunks, count_macs, load_pool, read_pool

SPEC = PoolSpec("train", 4, 16, channels=8, max_params=10**5, max_nodes=100, max_macs=4 * 10**6, seed=3)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return build_pool(SPEC)


def test_everything_in_a_pool_obeys_its_limits(pool: Pool) -> None:
    assert len(pool.entries) == SPEC.size == pool.funnel["accepted"]
    for index, entry in enumerate(pool.entries):
        module = pool.module(index)
        assert entry.genotype.channels == 8
        assert sum(p.numel() for p in module.parameters()) == entry.graph.num_params <= 10**5
        assert len(entry.graph) <= 100
        assert entry.macs == count_macs(module, 16) <= 4 * 10**6
        assert entry.graph == trace(module, image_size=16)
        assert {s.fqn for s in entry.graph.slots} == {name for name, _ in module.named_parameters()}


def test_every_candidate_is_counted(pool: Pool) -> None:
    seen = pool.funnel.copy()
    replayed: Counter[str] = Counter()
    for genotype in deepnets_gen.generate("train", sum(seen.values())):
        entry = sampler._admit(replace(genotype, channels=8), SPEC)
        replayed[entry if isinstance(entry, str) else "accepted"] += 1
    assert replayed == seen


def test_file_gives_the_pool_back_and_spares_the_tracing(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "build_pool", lambda spec, progress: pool)
    load_pool(tmp_path, SPEC)
    written = (tmp_path / SPEC.file_name).read_bytes()
    monkeypatch.setattr(sampler, "build_pool", None)
    again = load_pool(tmp_path, SPEC)
    assert again.entries == pool.entries
    assert again.funnel == pool.funnel
    sampler.write_pool(tmp_path / "again", again)
    assert (tmp_path / "again").read_bytes() == written


@pytest.mark.parametrize("damage", ["cut", "fewer", "other", "graph", "empty"])
def test_damaged_file_is_named(pool: Pool, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "pool"
    sampler.write_pool(path, pool)
    content = path.read_bytes()
    lines = gzip.decompress(content).decode().splitlines()
    changed = {
        "cut": content[:-20],
        "fewer": gzip.compress("\n".join(lines[:-1]).encode()),
        "other": gzip.compress("\n".join([lines[0].replace('"seed": 3', '"seed": 4'), *lines[1:]]).encode()),
        "graph": gzip.compress("\n".join([*lines[:-1], lines[-1].replace('"input"', '"output"')]).encode()),
        "empty": b"",
    }
    path.write_bytes(changed[damage])
    with pytest.raises(DataError, match="delete it"):
        read_pool(path, SPEC)


def test_different_specifications_have_different_files() -> None:
    others = [replace(SPEC, seed=4), replace(SPEC, channels=None), replace(SPEC, max_nodes=99), replace(SPEC, size=5)]
    assert len({spec.file_name for spec in (SPEC, *others)}) == 5


def test_impossible_limits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "_GIVE_UP", 5)
    with pytest.raises(RecipeError, match="only 0 of 5"):
        build_pool(replace(SPEC, max_params=10))


def test_published_widths_are_drawn_per_network() -> None:
    spec = replace(SPEC, channels=None, max_params=None, max_macs=None, max_nodes=None)
    found = [g.channels for g, _ in zip(sampler._candidates(spec), range(60), strict=False)]
    assert found == [g.channels for g, _ in zip(sampler._candidates(spec), range(60), strict=False)]
    assert min(found) == 32
    assert len(set(found)) > 3
    stored = [g.channels for g, _ in zip(sampler._candidates(replace(spec, split="val")), range(20), strict=False)]
    assert set(stored) == {32}


@given(size=st.integers(1, 7), start=st.integers(0, 50), number=st.integers(1, 30), seed=st.integers(0, 5))
def test_draws_are_shuffled_epochs(size: int, start: int, number: int, seed: int) -> None:
    empty = Pool(replace(SPEC, seed=seed), (None,) * size, {})  # ty: ignore[invalid-argument-type]
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


def test_macs_of_known_layers() -> None:
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, device="meta"),
        torch.nn.Conv2d(8, 8, 5, padding=2, groups=8, device="meta"),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 64, 10, device="meta"),
    )
    assert count_macs(module, 16) == 8 * 27 * 64 + 8 * 25 * 64 + 5120
    assert not any(m._forward_hooks for m in module.modules())
    assert math.isfinite(count_macs(module, 16))
