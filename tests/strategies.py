"""Hypothesis strategies for ArchGraphs."""

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from ghn.graph import ArchGraph, ParamSlot, Uncovered, encoder_shape
from ghn.primitives import Primitive, Role

SHAPES = [
    (8, 3, 3, 3),
    (16, 8, 1, 1),
    (32, 1, 5, 5),
    (100, 70, 3, 3),
    (10, 24),
    (7, 19),
    (12, 5, 1, 7),
    (4, 6, 3),
    (3, 4, 9, 8),
]


@st.composite
def positions(draw: st.DrawFn) -> tuple[int, ...]:
    """Of an embedding of positions, (1, P, C), or of a table of rows, (P, C)."""
    shape = draw(st.integers(2, 200)), draw(st.integers(2, 90))
    return (1, *shape) if draw(st.booleans()) else shape


@st.composite
def graphs(draw: st.DrawFn, max_nodes: int = 12) -> ArchGraph:
    """Random DAGs whose every node but the first has a predecessor, with parameters on most nodes."""
    n = draw(st.integers(2, max_nodes))
    edges, ops, shapes, slots = [], [Primitive.INPUT], [(0, 0, 0, 0)], []
    for v in range(1, n):
        count = draw(st.integers(1, min(3, v)))
        edges += [(u, v) for u in draw(st.sets(st.integers(0, v - 1), min_size=count, max_size=count))]
        kind = draw(st.sampled_from(["kernel", "bias", "norm", "sum", "last", "position"]))
        op, role, shape = {
            "kernel": (Primitive.CONV, Role.WEIGHT, draw(st.sampled_from(SHAPES))),
            "bias": (Primitive.BIAS, Role.BIAS, (draw(st.integers(1, 150)),)),
            "norm": (Primitive.BN, Role.NORM_WEIGHT, (draw(st.integers(1, 150)),)),
            "last": (Primitive.CONV, Role.CLASSIFIER_WEIGHT, (draw(st.integers(2, 30)), draw(st.integers(1, 90)))),
            "position": (Primitive.POS_ENC, Role.POSITION, draw(positions())),
            "sum": (Primitive.SUM, None, ()),
        }[kind]
        ops.append(op)
        shapes.append(encoder_shape(shape) if shape else (0, 0, 0, 0))
        if role is not None:
            slots.append(ParamSlot(f"p{v}", role, shape, v))
    return ArchGraph(np.array(ops), np.array(edges), np.array(shapes), tuple(slots))


@st.composite
def annotated_graphs(draw: st.DrawFn) -> ArchGraph:
    """Graphs with everything that a graph can carry: odd names, aliases, slots out of node order, uncovered rest."""
    item = draw(graphs(8))
    n = len(item)
    text = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
    names = draw(st.lists(text, min_size=n, max_size=n))
    slots = draw(st.permutations(item.slots))
    aliases = [tuple(draw(st.lists(text, max_size=2))) for _ in slots]
    rest = st.builds(
        Uncovered, text, st.lists(st.integers(1, 9), max_size=3).map(tuple), reason=text, used=st.booleans()
    )
    return replace(
        item,
        names=tuple(names),
        slots=tuple(s._replace(aliases=a) for s, a in zip(slots, aliases, strict=True)),
        outputs=tuple(draw(st.lists(st.integers(0, n - 1), max_size=3))),
        uncovered=tuple(draw(st.lists(rest, max_size=2))),
    )


def reordered(item: ArchGraph, rng: np.random.Generator) -> ArchGraph:
    """The same graph in another topological order."""
    waiting, order = list(range(1, len(item))), [0]
    while waiting:
        ready = [v for v in waiting if set(item.predecessors[v]) <= set(order)]
        order.append(int(rng.choice(ready)))
        waiting.remove(order[-1])
    place = np.argsort(order)
    slots = tuple(ParamSlot(s.fqn, s.role, s.shape, int(place[s.node])) for s in item.slots)
    return ArchGraph(item.ops[order], place[item.edges], item.shapes[order], slots)
