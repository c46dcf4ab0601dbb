"""What there is to say about a graph in numbers and in a table."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ghn.graph import ArchGraph, Uncovered
from ghn.primitives import Primitive

SHOWN = 30  # rows of a table that is cut in the middle


@dataclass(frozen=True)
class Summary:
    """A graph in numbers.

    depth: edges of the longest path. degree, path: averages of the undirected graph, as Knyazev et al. 2021 report
    them. primitives: nodes by type. roles: (parameters, numbers in them) by role. uncovered: parameters without node.
    """

    nodes: int
    edges: int
    depth: int
    degree: float
    path: float
    num_params: int
    primitives: Mapping[str, int]
    roles: Mapping[str, tuple[int, int]]
    uncovered: tuple[Uncovered, ...]

    @classmethod
    def of(cls, graph: ArchGraph) -> "Summary":
        """The summary of this graph."""
        count = Counter(int(op) for op in graph.ops)
        roles: dict[str, tuple[int, int]] = {}
        for slot in graph.slots:
            tensors, numbers = roles.get(slot.role.value, (0, 0))
            roles[slot.role.value] = tensors + 1, numbers + slot.numel
        return cls(
            nodes=len(graph),
            edges=len(graph.edges),
            depth=int(graph.levels.max()),
            degree=2 * len(graph.edges) / len(graph),
            path=average_path(graph),
            num_params=graph.num_params,
            primitives={p.label: count[p] for p in Primitive if count[p]},
            roles=roles,
            uncovered=graph.uncovered,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready data."""
        return asdict(self) | {
            "roles": {k: {"parameters": t, "numbers": n} for k, (t, n) in self.roles.items()},
            "uncovered": [asdict(u) for u in self.uncovered],
        }

    def __str__(self) -> str:
        lines = [
            f"{self.nodes} nodes, {self.edges} edges, depth {self.depth}, average degree {self.degree:.2f}, "
            f"average shortest path {self.path:.2f}, {self.num_params:,} numbers in all parameters",
            "nodes: " + ", ".join(f"{n} {name}" for name, n in self.primitives.items()),
            "parameters:",
        ]
        lines += [f"  {role:18s} {t:5d} with {n:12,d} numbers" for role, (t, n) in self.roles.items()]
        lines += [f"not covered: {u.fqn} {list(u.shape)}: {u.reason}" for u in self.uncovered]
        return "\n".join(lines)


def average_path(graph: ArchGraph) -> float:
    """Mean length of the shortest paths between all pairs of nodes that are connected, directions ignored.

    One breadth-first search from every node at once, with sets of nodes as bits of an integer.
    """
    around = [(*a, *b) for a, b in zip(graph.predecessors, graph.successors, strict=True)]
    reached = [1 << v for v in range(len(graph))]
    fresh, total, pairs, length = reached, 0, 0, 0
    while any(fresh):
        length += 1
        arriving = [0] * len(graph)
        for v, neighbours in enumerate(around):
            for u in neighbours:
                arriving[v] |= fresh[u]
        fresh = [a & ~r for a, r in zip(arriving, reached, strict=True)]
        reached = [r | f for r, f in zip(reached, fresh, strict=True)]
        found = sum(f.bit_count() for f in fresh)
        total, pairs = total + found * length, pairs + found
    return total / max(pairs, 1)


def table(graph: ArchGraph, shown: int | None = SHOWN) -> str:
    """One line a node: index, type, shape, name, predecessors. Cut in the middle to `shown` lines; None shows all."""
    width = max(len(name) for name in graph.names)
    rows = [f"{'node':>5} {'type':9} {'shape':>18}  {'name':{width}}  from"]
    for i, (op, name, preds) in enumerate(zip(graph.ops, graph.names, graph.predecessors, strict=True)):
        sources = " ".join(map(str, preds))
        rows.append(f"{i:5d} {Primitive(op).label:9} {shape_text(graph, i):>18}  {name:{width}}  {sources}".rstrip())
    if shown is not None and len(graph) > shown:
        hidden = len(graph) - shown
        rows[1 + shown // 2 : len(rows) - (shown - shown // 2)] = [f"  ... {hidden} more; --table shows all"]
    return "\n".join(rows)


def shape_text(graph: ArchGraph, node: int) -> str:
    """The shape that stands for this node, e.g. '64×3×7×7'; a pooling window as '3×3'; '' where it has none."""
    out, into, height, width = graph.shapes[node].tolist()
    if out == 0:
        return ""
    if graph.ops[node] in (Primitive.MAX_POOL, Primitive.AVG_POOL):
        return f"{height}×{width}"
    sizes = [out, into, height, width]
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    return "×".join(map(str, sizes))
