"""DeepNets-1M graphs by building and tracing: real weights, a real forward pass, a walk along autograd's graph.

The straightforward way, as the original generator went: arguments are drawn, the network is built for both image sizes
and its parameters are counted, the smaller one runs on an image, the graph that autograd recorded is turned into one
of primitives, all shortest paths are found, and rows of nodes and a matrix are stored per graph. It shares only the
modules with the package, not its tracer nor its sketch: the oracle that both are held against. Where the original is
known to be wrong (lost attention and squeeze-excite nodes, rows and matrix in different orders) it is not followed.
Source: Knyazev et al., NeurIPS 2021, appendix A.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import nn

from deepnets_gen.families import build
from deepnets_gen.genotype import OPS, Genotype, GenotypeError
from ghn.graph import ArchGraph, encoder_shape
from ghn.primitives import Primitive

CUTOFF = 250  # of the shortest paths that are stored
LIMIT = 10_000_000  # parameters
SIDES = {"cifar10": 32, "imagenet": 224}
NO_SHAPE = (0, 0, 0, 0)
POOLING = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect")
MEETINGS = (Primitive.SUM, Primitive.CONCAT, Primitive.CSE)  # nodes only where different nodes meet
FUNCTIONS = {
    "AddBackward0": Primitive.SUM,
    "CatBackward0": Primitive.CONCAT,
    "MaxPool2DWithIndicesBackward0": Primitive.MAX_POOL,
    "AvgPool2DBackward0": Primitive.AVG_POOL,
    "MulBackward0": Primitive.CSE,  # these networks multiply features nowhere else
}


@dataclass(frozen=True)
class Literal:
    """One generated network. rows: (N, 3) uint16, ids of primitive, cell, name. paths: (N, N) uint8, 1 = edge."""

    genotype: Genotype
    num_params: dict[str, int]
    ops: list[int]
    shapes: list[tuple[int, ...]]
    names: list[str]
    rows: np.ndarray
    paths: np.ndarray

    def graph(self) -> ArchGraph:
        """The same as one of ours, without slots."""
        return ArchGraph(
            ops=np.array(self.ops),
            edges=np.argwhere(self.paths == 1),
            shapes=np.array(self.shapes),
            names=tuple(self.names),
        )


@dataclass
class Tables:
    """Ids of primitives and names, in order of first appearance in a file."""

    primitives: dict[str, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)

    def rows(self, ops: list[int], names: list[str], shapes: list[tuple[int, ...]]) -> np.ndarray:
        """(N, 3) uint16 of these nodes."""
        rows, cell = [], 0
        for op, name, shape in zip(ops, names, shapes, strict=True):
            label = Primitive(op).label
            if op == Primitive.CONV and max(shape[2:]) == 1:
                label = "conv_1x1"
            if name.startswith("cells."):
                _, number, name = name.split(".", 2)
                cell = int(number)
            primitive = self.primitives.setdefault(label, len(self.primitives))
            rows.append((primitive, cell, self.names.setdefault(name, len(self.names))))
        return np.array(rows, dtype=np.uint16)


def generate(rng: np.random.Generator, tables: Tables) -> Iterator[Literal]:
    """Networks of the training distribution without end, duplicates and all."""
    while True:
        genotype = draw(rng)
        entry = None if genotype is None else literal(genotype, tables)
        if entry is not None:
            yield entry


def literal(genotype: Genotype, tables: Tables, limit: int = LIMIT) -> Literal | None:
    """The network built, counted, run and traced; None where it has more parameters than the limit."""
    counts = {}
    for data, side in reversed(SIDES.items()):
        network = build(genotype, 10, side)
        counts[data] = sum(p.numel() for p in network.parameters())
    if max(counts.values()) > limit:
        return None
    graph = pruned(autograd_graph(network, SIDES["cifar10"]))
    order = ["input", *(v for v in nx.topological_sort(graph) if v != "input")]
    ops = [graph.nodes[v]["op"].value for v in order]
    shapes = [graph.nodes[v]["shape"] for v in order]
    names = [graph.nodes[v]["name"] for v in order]
    paths = shortest_paths(graph, order)
    return Literal(genotype, counts, ops, shapes, names, tables.rows(ops, names, shapes), paths)


def autograd_graph(network: nn.Module, side: int) -> nx.DiGraph:
    """Everything that autograd recorded of one image's way to the logits, parameters as nodes of their own.

    Attributes: op (a Primitive, or None for what is no node), name, shape. Edges point the way of the data. A layer
    with a bias is two nodes, entered at the weight and left at the bias; a norm is one.
    """
    modules = dict(network.named_modules())
    names = {parameter: name for name, parameter in network.named_parameters()}
    graph = nx.DiGraph()
    graph.add_node("input", op=Primitive.INPUT, name="input", shape=NO_SHAPE)
    root = network(torch.randn(1, 3, side, side)).grad_fn
    ends: dict[Any, tuple[Any, Any]] = {root: _add(graph, root, names, modules)}
    stack = [root]
    while stack:
        function = stack.pop()
        for source in _inputs(function):
            if source not in ends:
                ends[source] = _add(graph, source, names, modules)
                stack.append(source)
            graph.add_edge(ends[source][1], ends[function][0])
    for v in [v for v in graph if v != "input" and not graph.in_degree(v)]:
        if graph.nodes[v]["op"] is not Primitive.POS_ENC:
            graph.add_edge("input", v)
    return graph


def pruned(graph: nx.DiGraph) -> nx.DiGraph:
    """The graph of primitives alone: what is no node is bridged, so are sums and concatenations of one node."""
    for v in list(nx.topological_sort(graph)):
        op = graph.nodes[v]["op"]
        if op is None or (op in MEETINGS and graph.in_degree(v) < 2):
            graph.add_edges_from(itertools.product(list(graph.predecessors(v)), list(graph.successors(v))))
            graph.remove_node(v)
    return graph


def shortest_paths(graph: nx.DiGraph, order: list[Any]) -> np.ndarray:
    """(N, N) uint8 lengths of the shortest paths, 0 where there is none; checked to lead from image to logits."""
    place = {v: i for i, v in enumerate(order)}
    paths = np.zeros((len(order), len(order)), dtype=np.uint8)
    for source, lengths in nx.all_pairs_shortest_path_length(graph, cutoff=CUTOFF):
        for target, length in lengths.items():
            paths[place[source], place[target]] = length
    lost = [order[i] for i in range(len(order) - 1) if not paths[i, -1]]
    unfed = [v for v in order[1:] if not paths[0, place[v]] and graph.nodes[v]["op"] is not Primitive.POS_ENC]
    assert not lost, f"lead nowhere: {lost}"
    assert not unfed, f"come from nowhere: {unfed}"
    return paths


def _parameters(function: Any) -> list[torch.Tensor]:
    """Parameters that a function of autograd reads directly, or transposed as a linear layer does."""
    found = []
    for source, _ in function.next_functions:
        if source is not None and source.name() == "TBackward0":
            source = source.next_functions[0][0]
        if source is not None and hasattr(source, "variable"):
            found.append(source.variable)
    return found


def _inputs(function: Any) -> list[Any]:
    """Functions whose results it reads, parameters left out."""
    return [f for f, _ in function.next_functions if f is not None and not hasattr(f, "variable") and not _is_weight(f)]


def _is_weight(function: Any) -> bool:
    return function.name() == "TBackward0" and hasattr(function.next_functions[0][0], "variable")


def _add(graph: nx.DiGraph, function: Any, names: dict, modules: dict) -> tuple[Any, Any]:
    """Adds the nodes of a function; where edges enter it and where they leave."""
    parameters = sorted(_parameters(function), key=lambda p: names[p].endswith("bias"))
    chain = []
    for parameter in parameters:
        name = names[parameter]
        path, _, kind = name.rpartition(".")
        op = _layer(modules[path], kind)
        if op is not None:
            graph.add_node(name, op=op, name=name, shape=encoder_shape(parameter.shape))
            chain.append(name)
    nx.add_path(graph, chain)
    op = _operation(function)
    if chain and op is None:
        return chain[0], chain[-1]
    graph.add_node(function, op=op, name=op.label if op else function.name(), shape=_window(function))
    for parameter in chain:  # a position encoding enters the sum that adds it
        graph.add_edge(parameter, function)
    return function, function


def _layer(module: nn.Module, kind: str) -> Primitive | None:
    """The primitive of a parameter; None for the bias of a norm, which its weight stands for."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        if kind == "bias":
            return Primitive.BIAS
        if isinstance(module, nn.Linear) or module.groups == 1:
            return Primitive.CONV
        return Primitive.DIL_CONV if min(module.dilation) > 1 else Primitive.SEP_CONV
    if kind == "bias":
        return None
    if isinstance(module, nn.BatchNorm2d):
        return Primitive.BN
    return Primitive.LN if isinstance(module, nn.LayerNorm) else Primitive.POS_ENC


def _operation(function: Any) -> Primitive | None:
    name = function.name()
    if name == "MeanBackward1":  # with its axes dropped it is the squeeze of a squeeze-excite block, which is no node
        return Primitive.GLOB_AVG if function._saved_keepdim else None
    return Primitive.MSA if name.startswith("ScaledDotProduct") else FUNCTIONS.get(name)


def _window(function: Any) -> tuple[int, ...]:
    return (1, 1, *function._saved_kernel_size) if "Pool2D" in function.name() else NO_SHAPE


def draw(rng: np.random.Generator) -> Genotype | None:
    """Arguments of one network of the training distribution; None where the draw makes none."""
    n_cells = int(rng.integers(4, 19))
    threshold = int(rng.integers(7, 11))
    steps = int(rng.integers(1, 5 if n_cells <= threshold else 3))
    normal = _cell(rng, steps, OPS)
    reduce = _cell(rng, steps, POOLING if rng.random() < 0.5 else OPS)
    concat = [i for i in range(2, steps + 1) if rng.random() < 0.5] if rng.random() < 0.5 else range(2, steps + 1)
    for names in ([op for op, _ in normal], [op for op, _ in reduce]):
        if names.count("cse") > 1 or names.count("conv_5x5") + names.count("conv_7x7") > 1:
            return None
    ops = {op for op, _ in (*normal, *reduce)}
    convolves, attends = any("conv" in op for op in ops), "msa" in ops
    if not convolves and ("cse" in ops or not attends):
        return None
    c_mult = int(rng.integers(1, 3))
    stem_type = int(rng.integers(2))
    shallow = n_cells <= 5 and steps <= 2
    try:
        return Genotype(
            normal=normal,
            reduce=reduce,
            normal_concat=(*concat, steps + 1),
            reduce_concat=(*concat, steps + 1),
            n_cells=n_cells,
            ks=int(rng.choice([3, 5, 7])),
            stem_type=stem_type,
            stem_pool=stem_type == 0 and rng.random() < 0.5,
            norm=None if shallow and rng.random() < 0.5 else "bnorm",
            preproc=steps > 1 or c_mult > 1 or not attends or rng.random() > 0.8,
            c_mult=c_mult,
            fc_layers=int(rng.integers(1, 3)),
            glob_avg=attends or n_cells > threshold or rng.random() < 0.9,
        )
    except GenotypeError:  # cut off from the image by 'none'
        return None


def _cell(rng: np.random.Generator, steps: int, allowed: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """Per step the two inputs with the highest scores of any allowed operation, each with that operation."""
    names = [op for op in allowed if op != "none" or steps > 1]
    edges = []
    for i in range(steps):
        scores = np.exp(1e-3 * rng.standard_normal((i + 2, len(OPS))))
        scores /= scores.sum(axis=1, keepdims=True)
        best = [max((scores[source, OPS.index(op)], op) for op in names) for source in range(i + 2)]
        for source in sorted(range(i + 2), key=lambda k: best[k], reverse=True)[:2]:
            edges.append((best[source][1], source))
    return tuple(edges)
