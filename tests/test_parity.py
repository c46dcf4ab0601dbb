"""Loaded with the peer's checkpoint and given the peer's graphs, we compute the peer's numbers."""

import numpy as np
import pytest
import torch
from reference import REFERENCE, graph, needs_reference, nodes, stats
from safetensors.torch import load_file

from ghn.io import load_ppuda
from ghn.model import GHN

pytestmark = needs_reference

CASES = [
    ("ghn2_cifar10", "d0"),
    ("ghn2_cifar10", "d1"),
    ("ghn2_cifar10", "d2"),
    ("ghn2_cifar10", "d3"),
    ("ghn2_cifar10", "resnet50_32"),
    ("ghn1_cifar10", "d0"),
    ("ghn1_cifar10", "d1"),
    ("ghn1_cifar10", "d2"),
    ("ghn1_cifar10", "d3"),
]


@pytest.fixture(scope="module")
def models() -> dict[str, GHN]:
    return {name: load_ppuda(REFERENCE / f"{name}.pt") for name in ("ghn1_cifar10", "ghn2_cifar10")}


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize(("ghn", "net"), CASES)
def test_node_states(models: dict[str, GHN], ghn: str, net: str) -> None:
    model, golden = models[ghn], nodes(ghn, net)
    batch = model.collate([graph(ghn, net)])
    with torch.no_grad():
        x0 = model.encode(batch)
        x1 = model.gnn(x0, batch)
    assert relative(x0.numpy(), golden["x0"]) < 1e-5
    assert relative(x1.numpy(), golden["x1"]) < 1e-4
    if model.config.layernorm:
        with torch.no_grad():
            assert relative(model.ln(x1).numpy(), golden["x2"]) < 1e-4


@pytest.mark.parametrize(("ghn", "net"), CASES)
def test_every_predicted_tensor(models: dict[str, GHN], ghn: str, net: str) -> None:
    model, golden = models[ghn], stats(ghn, net)
    with torch.no_grad():
        (weights,) = model(model.collate([graph(ghn, net)]))
    assert set(weights) == set(golden["tensors"])
    for name, want in golden["tensors"].items():
        got = weights[name].double()
        assert list(got.shape) == want["shape"]
        assert got.norm().item() == pytest.approx(want["norm"], rel=1e-4, abs=1e-7), name
        sample = got.flatten()[want["sample_index"]].numpy()
        assert relative(sample, np.array(want["sample"])) < 1e-4, name
    total = torch.stack([w.double().norm() for w in weights.values()]).norm().item()
    assert total == pytest.approx(golden["total_norm"], rel=1e-5)
    full = REFERENCE / ghn / net / "pred.safetensors"
    for name, want in load_file(full).items() if full.exists() else []:
        assert relative(weights[name].numpy(), want.numpy()) < 1e-4, name
