"""The peers' recorded graphs and numbers in ../shared/reference, as our types."""

import json
from pathlib import Path

import numpy as np
import pytest

from ghn.graph import ArchGraph, ParamSlot, encoder_shape
from ghn.primitives import Primitive, Role

SHARED = Path(__file__).resolve().parents[2] / "shared"
REFERENCE = SHARED / "reference"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="../shared/reference is not at hand")

_NORMS = (Primitive.BN, Primitive.LN)


def stats(ghn: str, net: str) -> dict:
    return json.loads((REFERENCE / ghn / net / "stats.json").read_text())


def nodes(ghn: str, net: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCE / ghn / net / "nodes.npz") as file:
        return dict(file)


def graph(ghn: str, net: str) -> ArchGraph:
    """The graph as the peer traced it, with the slots that the peer filled, classifier flags by its own rule."""
    folder = REFERENCE / ghn / net
    data = json.loads((folder / "graph.json").read_text())
    with np.load(folder / "graph.npz") as file:
        ops, adjacency = file["node_feat"], file["adj"]
    predicted = stats(ghn, net)["tensors"]
    flags = {row[0]: (row[4], row[5]) for cell in data["node_info"] for row in cell}
    slots, shapes = [], np.zeros((len(ops), 4), dtype=np.int32)
    for node in data["nodes"]:
        i, op = node["i"], Primitive(int(ops[node["i"]]))
        if op in (Primitive.MAX_POOL, Primitive.AVG_POOL):
            shapes[i] = node["shape"] or (1, 1, 3, 3)
        elif node["name"] in predicted:
            shape = tuple(predicted[node["name"]]["shape"])
            shapes[i] = encoder_shape(shape)
            slots.append(ParamSlot(node["name"], _role(op, *flags.get(i, (False, False))), shape, i))
            bias = node["name"].removesuffix("weight") + "bias"
            if op in _NORMS and bias in predicted:
                slots.append(ParamSlot(bias, Role.NORM_BIAS, tuple(predicted[bias]["shape"]), i))
    edges = np.argwhere(adjacency == 1)
    return ArchGraph(ops, edges, shapes, tuple(slots), tuple(n["name"] for n in data["nodes"]))


def _role(op: Primitive, last_weight: bool, last_bias: bool) -> Role:
    if op is Primitive.BIAS:
        return Role.CLASSIFIER_BIAS if last_bias else Role.BIAS
    if op in _NORMS:
        return Role.NORM_WEIGHT
    if op is Primitive.POS_ENC:
        return Role.POSITION
    return Role.CLASSIFIER_WEIGHT if last_weight else Role.WEIGHT
