"""The peers' DeepNets-1M records, for the tests of deepnets_gen; skips where they are absent."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@cache
def _load(name: str) -> Any:
    path = SHARED / "reference" / name
    if not path.exists():
        pytest.skip(f"needs shared/reference/{name} next to the checkout")
    return json.loads(path.read_text())


def records(split: str) -> list[dict[str, Any]]:
    """What the peers' generator sampled for this split: train, bnfree, deep, dense."""
    return _load("deepnets1m_stats.json")["splits"][split]


def nets() -> dict[str, dict[str, Any]]:
    """The records of d0-d3."""
    return _load("nets.json")


def traced_shapes(net: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the parameters in the peers' trace of a network, without the biases of norms."""
    nodes = _load(f"ghn2_cifar10/{net}/graph.json")["nodes"]
    return {n["name"]: tuple(n["shape"]) for n in nodes if n["shape"] and not n["primitive"].endswith("_pool")}
