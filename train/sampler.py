"""Pools of training networks: generated, filtered, traced once, kept in memory and on disk, drawn in epochs."""

import gzip
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import nn

import deepnets_gen
from deepnets_gen.genotype import Genotype
from deepnets_gen.sample import resample_width
from ghn.errors import DataError, GHNError
from ghn.files import write_atomic
from ghn.graph import ArchGraph
from ghn.tracing import trace
from train.config import Recipe, RecipeError, Stage
from train.fast import quicken

FORMAT = 1
NUM_CLASSES = 10
_GIVE_UP = 200  # candidates per accepted network before the limits count as impossible


@dataclass(frozen=True)
class PoolSpec:
    """What decides the content of a pool: the split, how many, at which size and width, the limits, the seed."""

    split: str
    size: int
    image_size: int
    channels: int | None = None
    max_params: int | None = None
    max_nodes: int | None = None
    max_macs: int | None = None
    seed: int = 0

    @classmethod
    def of(cls, recipe: Recipe, stage: Stage, split: str, size: int) -> "PoolSpec":
        limits = {name: getattr(stage, name) for name in ("channels", "max_params", "max_nodes", "max_macs")}
        return cls(split=split, size=size, image_size=stage.image_size, seed=recipe.seed, **limits)

    @property
    def file_name(self) -> str:
        digest = hashlib.blake2b(json.dumps(asdict(self)).encode(), digest_size=6).hexdigest()
        return f"{self.split}-{self.image_size}px-{self.size}-{digest}.jsonl.gz"


@dataclass(frozen=True)
class Entry:
    """A network of a pool. macs: multiply-adds of its convolutions and linear layers on one image."""

    genotype: Genotype
    graph: ArchGraph
    macs: int


@dataclass(frozen=True, eq=False)
class Pool:
    """Networks to train on. funnel: how many candidates were accepted, and left out for which reason."""

    spec: PoolSpec
    entries: tuple[Entry, ...]
    funnel: dict[str, int]

    def drawn(self, position: int, number: int) -> list[int]:
        """Indices of the networks at places position .. position + number - 1 of an endless row of shuffled epochs.

        Every network comes once per epoch; an epoch's order depends on the seed and its number alone, so that a
        position is all that a resumed run must know.
        """
        size = len(self.entries)
        places = (divmod(place, size) for place in range(position, position + number))
        return [int(_order(self.spec.seed, epoch, size)[offset]) for epoch, offset in places]

    def module(self, index: int) -> nn.Module:
        """The network on the meta device: structure without storage, ready to run with weights from elsewhere."""
        return quicken(_module(self.entries[index].genotype, self.spec.image_size))


@lru_cache(maxsize=8)
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)


@lru_cache(maxsize=4096)  # as many as a pool holds: building one costs as much as running it
def _module(genotype: Genotype, image_size: int) -> nn.Module:
    return deepnets_gen.build(genotype, num_classes=NUM_CLASSES, image_size=image_size, device="meta")


def build_pool(spec: PoolSpec, progress: Callable[[int], None] = lambda accepted: None) -> Pool:
    """The first `spec.size` networks of the split that pass the limits. Raises RecipeError if hardly any does.

    Limits are checked from the cheapest to the dearest: parameters, multiply-adds, then nodes, which need a trace.
    """
    entries: list[Entry] = []
    funnel: Counter[str] = Counter()
    for genotype in _candidates(spec):
        entry = _admit(genotype, spec)
        if isinstance(entry, str):
            funnel[entry] += 1
        else:
            funnel["accepted"] += 1
            entries.append(entry)
            progress(len(entries))
        if len(entries) == spec.size:
            break
        if funnel.total() >= _GIVE_UP * (len(entries) + 1):
            raise RecipeError(f"only {len(entries)} of {funnel.total()} networks pass the limits of {spec}: {funnel}")
    return Pool(spec, tuple(entries), dict(funnel))


def load_pool(folder: Path, spec: PoolSpec, progress: Callable[[int], None] = lambda accepted: None) -> Pool:
    """The pool from its file in `folder`, or built anew and written there. Raises DataError on a damaged file."""
    path = folder / spec.file_name
    if path.exists():
        return read_pool(path, spec)
    pool = build_pool(spec, progress)
    folder.mkdir(parents=True, exist_ok=True)
    write_pool(path, pool)
    return pool


def write_pool(path: Path, pool: Pool) -> None:
    """One JSON line about the pool, then one per network, gzipped; the same pool gives the same bytes."""
    header = {"format": FORMAT, "spec": asdict(pool.spec), "funnel": pool.funnel}
    lines = [json.dumps(header), *(json.dumps(_to_record(entry)) for entry in pool.entries)]
    write_atomic(path, gzip.compress("\n".join(lines).encode(), compresslevel=6, mtime=0))


def read_pool(path: Path, spec: PoolSpec) -> Pool:
    """What `write_pool` wrote. Raises DataError where the file is damaged or of another specification."""
    try:
        first, *rest = gzip.decompress(path.read_bytes()).decode().splitlines()
        header = json.loads(first)
        if header["format"] != FORMAT or header["spec"] != asdict(spec) or len(rest) != spec.size:
            raise ValueError(f"it holds {len(rest)} networks of {header['spec']}")
        return Pool(spec, tuple(_from_record(json.loads(line)) for line in rest), header["funnel"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, GHNError) as error:
        raise DataError(
            f"{path} is not the pool of networks it should be ({error}); delete it and it is built again"
        ) from error


def count_macs(module: nn.Module, image_size: int) -> int:
    """Multiply-adds of all convolutions and linear layers for one image; attention's own products are left out."""
    total = 0

    def add(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        total += weight.numel() * output.numel() // weight.shape[0]

    hooks = [m.register_forward_hook(add) for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    try:
        with torch.no_grad():
            module(torch.empty(1, 3, image_size, image_size, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return total


def chunks(graphs: list[ArchGraph], budget: int) -> Iterator[slice]:
    """Consecutive parts with at most `budget` nodes each; a graph above the budget is a part of its own."""
    start, nodes = 0, 0
    for end, graph in enumerate(graphs):
        if end > start and nodes + len(graph) > budget:
            yield slice(start, end)
            start, nodes = end, 0
        nodes += len(graph)
    yield slice(start, len(graphs))


def _candidates(spec: PoolSpec) -> Iterator[Genotype]:
    for index, genotype in zip(count(), deepnets_gen.generate(spec.split, 10**9), strict=False):
        if spec.channels is not None:
            yield replace(genotype, channels=spec.channels)
        elif spec.split == "train":
            params = deepnets_gen.num_params(genotype, NUM_CLASSES, everything=True)  # as DeepNets-1M records it
            yield resample_width(np.random.default_rng([spec.seed, index]), genotype, params)
        else:
            yield genotype


def _admit(genotype: Genotype, spec: PoolSpec) -> Entry | str:
    """The entry, or the reason why this network is left out."""
    if not deepnets_gen.is_valid(genotype, spec.image_size):
        return "too deep for the image size"
    if deepnets_gen.num_params(genotype, NUM_CLASSES, spec.image_size) > (spec.max_params or math.inf):
        return "too many parameters"
    module = _module(genotype, spec.image_size)
    macs = count_macs(module, spec.image_size)
    if macs > (spec.max_macs or math.inf):
        return "too many multiply-adds"
    graph = trace(module, image_size=spec.image_size)
    if len(graph) > (spec.max_nodes or math.inf):
        return "too many nodes"
    return Entry(genotype, graph, macs)


def _to_record(entry: Entry) -> dict[str, object]:
    return {"genotype": entry.genotype.to_dict(), "graph": entry.graph.to_dict(), "macs": entry.macs}


def _from_record(record: dict) -> Entry:
    return Entry(Genotype.from_dict(record["genotype"]), ArchGraph.from_dict(record["graph"]), record["macs"])
