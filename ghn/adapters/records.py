"""An ArchGraph as plain records, one a node, for graph types that carry attributes on nodes and edges only."""

from collections.abc import Mapping, Sequence
from typing import Any

from ghn.errors import GraphError
from ghn.graph import FORMAT, ArchGraph
from ghn.primitives import Primitive

Record = dict[str, Any]


def node_records(graph: ArchGraph) -> list[Record]:
    """For each node its name, op, shape, slots, and its positions among the outputs; JSON-ready.

    Nothing in a record is a node's number, so records survive relabelling. A slot carries its `index` in the
    graph's order of slots.
    """
    data = graph.to_dict()
    columns = zip(data["names"], data["ops"], data["shapes"], strict=True)
    records = [{"name": n, "op": o, "shape": s, "slots": [], "outputs": []} for n, o, s in columns]
    for index, slot in enumerate(data["slots"]):
        records[slot.pop("node")]["slots"].append({"index": index, **slot})
    for position, node in enumerate(data["outputs"]):
        records[node]["outputs"].append(position)
    return records


def uncovered_records(graph: ArchGraph) -> list[Record]:
    """The parameters without a slot, JSON-ready."""
    return graph.to_dict()["uncovered"]


def rest_records(graph: ArchGraph) -> list[Record]:
    """`node_records` without op and shape, for types that hold these as numbers; the first has `uncovered` as well."""
    records = node_records(graph)
    for record in records:
        del record["op"], record["shape"]
    records[0]["uncovered"] = uncovered_records(graph)
    return records


def from_columns(
    ops: Sequence[int],
    shapes: Sequence[Sequence[int]] | None,
    rest: Sequence[Mapping[str, Any]] | None,
    edges: Sequence[tuple[int, int]],
) -> ArchGraph:
    """The graph of these types and shapes as numbers, and what `rest_records` gave. Raises GraphError."""
    n = len(ops)
    columns = (ops, shapes or [(0, 0, 0, 0)] * n, rest or [{}] * n)
    if any(len(column) != n for column in columns):
        raise GraphError(f"{n} types, {len(columns[1])} shapes and {len(columns[2])} records do not fit together")
    records: list[Record] = [{**r, "op": _label(op), "shape": shape} for op, shape, r in zip(*columns, strict=True)]
    return from_records(records, edges, records[0].get("uncovered", ()) if records else ())


def _label(op: int) -> str:
    try:
        return Primitive(op).label
    except ValueError as error:
        raise GraphError(f"'op' holds {op}; known are 0..{len(Primitive) - 1}") from error


def from_records(
    records: Sequence[Mapping[str, Any]], edges: Sequence[tuple[int, int]], uncovered: Sequence[Mapping[str, Any]]
) -> ArchGraph:
    """The graph of these nodes. Only `op` is required of a record. Raises GraphError."""
    for i, record in enumerate(records):
        if record.get("op") not in _LABELS:
            raise GraphError(f"node {i} has op {record.get('op')!r}; give it one of: {', '.join(_LABELS)}")
    slots = [(s.get("index", i), {**s, "node": i}) for i, r in enumerate(records) for s in r.get("slots", ())]
    outputs = [(position, i) for i, r in enumerate(records) for position in r.get("outputs", ())]
    return ArchGraph.from_dict(
        {
            "format": FORMAT,
            "ops": [r["op"] for r in records],
            "edges": list(edges),
            "shapes": [r.get("shape", (0, 0, 0, 0)) for r in records],
            "names": [r.get("name", r["op"]) for r in records],
            "slots": [slot for _, slot in sorted(slots, key=lambda pair: pair[0])],
            "outputs": [node for _, node in sorted(outputs)],
            "uncovered": list(uncovered),
        }
    )


_LABELS = tuple(p.label for p in Primitive)
