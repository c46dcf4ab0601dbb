"""The build-and-trace generator of the benchmarks against the stated graphs and against what the original drew."""

import math
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import deepnets_reference as reference
import numpy as np
import pytest

from deepnets_gen.families import sketch
from deepnets_gen.genotype import Genotype
from deepnets_gen.layout import num_params
from ghn.primitives import Primitive

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import literal_generator as literally

SHARES = {
    "without preprocessing": lambda g: not g.preproc,
    "without norm": lambda g: g.norm is None,
    "without global pooling": lambda g: not g.glob_avg,
    "pool in the stem": lambda g: g.stem_pool,
    "attention": lambda g: g.is_vit,
    "squeeze-excite": lambda g: any(op == "cse" for op, _ in (*g.normal, *g.reduce)),
    "one step": lambda g: g.steps == 1,
    "deep": lambda g: g.n_cells > 10,
    "part of the steps": lambda g: len(g.normal_concat) < g.steps,
    "pooling reduction": lambda g: all(op in literally.POOLING for op, _ in g.reduce),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def made(split: str, index: int) -> literally.Literal:
    """A network that the original drew, thin enough to run in milliseconds."""
    genotype = replace(Genotype.from_dict(reference.records(split)[index]), channels=8)
    network = literally.literal(genotype, literally.Tables(), limit=10**9)
    assert network is not None
    return network


@pytest.mark.parametrize("split", ["train", "bnfree", "deep", "dense"])
def test_stated_graphs_are_those_that_autograd_recorded(split):
    for index in range(4):
        network = made(split, index)
        graph = sketch(network.genotype).graph()
        assert Counter(network.graph().ops.tolist()) == Counter(graph.ops.tolist())
        assert network.graph().key == graph.key
        assert network.num_params["cifar10"] == graph.num_params
        assert network.num_params["imagenet"] == num_params(network.genotype, 10, 224)


@pytest.mark.parametrize("index", range(3))
def test_distances_are_networkx_shortest_paths(index):
    network = made("deep", index)
    graph = sketch(network.genotype).graph()
    ours, theirs = ({name: i for i, name in enumerate(names)} for names in (graph.names, network.names))
    layers = [s.fqn for s in graph.slots if s.fqn in theirs]
    assert len(layers) > 20
    a, b = [ours[name] for name in layers], [theirs[name] for name in layers]
    assert np.array_equal(graph.distances[np.ix_(a, a)], network.paths[np.ix_(b, b)])


def test_every_attention_and_every_gate_is_a_node():
    """The original found 19 of up to 778 attentions and 221 of up to 552 gates."""
    found = Counter()
    for record in reference.records("train"):
        g = replace(Genotype.from_dict(record), channels=8)
        alive = [cell.edges[j][0] for cell, flow in zip(g.stack, g.flow, strict=True) for j in flow.live]
        if alive.count("msa") + alive.count("cse") < 3 or sum(found.values()) > 60:
            continue
        network = literally.literal(g, literally.Tables(), limit=10**9)
        assert network.ops.count(Primitive.MSA) == alive.count("msa")
        assert network.ops.count(Primitive.CSE) == alive.count("cse")
        found.update({"msa": alive.count("msa"), "cse": alive.count("cse")})
    assert min(found["msa"], found["cse"]) > 5


def test_rows_stand_in_the_order_of_the_matrix():
    tables = literally.Tables()
    rng = np.random.default_rng(0)
    for network in islice(literally.generate(rng, tables), 3):
        assert np.array_equal(np.triu(network.paths, 1), network.paths)
        primitives, names = list(tables.primitives), list(tables.names)
        assert network.names[-2].endswith("weight")
        assert network.names[-1].endswith("bias")
        for row, op, name in zip(network.rows, network.ops, network.names, strict=True):
            label = primitives[row[0]]
            assert label == Primitive(op).label or (label, op) == ("conv_1x1", Primitive.CONV)
            assert name == (f"cells.{row[1]}.{names[row[2]]}" if name.startswith("cells.") else names[row[2]])


def test_draws_are_distributed_as_the_original_draws():
    theirs = [Genotype.from_dict(record) for record in reference.records("train")]
    rng = np.random.default_rng(0)
    drawn = (g for g in iter(lambda: literally.draw(rng), 0) if g is not None)
    small = (g for g in drawn if num_params(g, 10, 224, everything=True) <= literally.LIMIT)
    ours = list(islice((g for g in small if num_params(g, everything=True) <= literally.LIMIT), 1500))
    for what, holds in SHARES.items():
        a, b = (np.mean([holds(g) for g in group]) for group in (ours, theirs))
        error = math.sqrt(a * (1 - a) / len(ours) + b * (1 - b) / len(theirs))
        assert abs(a - b) < 4 * error, f"{what}: {a:.3f} here, {b:.3f} in the original"
