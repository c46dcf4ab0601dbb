"""ArchGraph to and from networkx, for its algorithms and drawings. An optional dependency, imported only here."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghn.adapters import MissingExtraError
from ghn.adapters.records import from_records, node_records, rest_records, uncovered_records
from ghn.errors import DataError, GraphError
from ghn.graph import ArchGraph
from ghn.primitives import Primitive

if TYPE_CHECKING:
    from networkx import DiGraph

_NOT_XML = re.compile("[^\t\n -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 has no way to write


def _import_networkx() -> Any:
    try:
        import networkx
    except ImportError as error:
        raise MissingExtraError(f"networkx cannot be imported ({error}); run `pip install networkx`") from error
    return networkx


def to_networkx(graph: ArchGraph) -> "DiGraph":
    """A DiGraph with nodes 0..N-1 and everything the ArchGraph knows, as plain data.

    Node attributes: op (label of the primitive), shape (4 numbers, zeros where none), name, slots (a dict for each
    parameter), outputs (positions among the network's outputs). Graph attribute: uncovered.
    """
    out = _import_networkx().DiGraph(uncovered=uncovered_records(graph))
    out.add_nodes_from(enumerate(node_records(graph)))
    out.add_edges_from(graph.edges.tolist())
    return out


def from_networkx(graph: "DiGraph") -> ArchGraph:
    """The ArchGraph of a DiGraph from `to_networkx`, or of any DAG whose nodes have an `op`.

    Nodes may have any names; they come in topological order, `input` first, otherwise as they were added.
    Raises GraphError on a cycle, an unknown op, or a broken invariant of ArchGraph.
    """
    networkx = _import_networkx()
    added = {node: i for i, node in enumerate(graph)}
    first = Primitive.INPUT.label
    try:
        order = list(
            networkx.lexicographical_topological_sort(
                graph, key=lambda node: (graph.nodes[node].get("op") != first, added[node])
            )
        )
    except (networkx.NetworkXUnfeasible, networkx.NetworkXError) as error:
        raise GraphError(f"an architecture is a directed graph without cycles: {error}") from error
    place = {node: i for i, node in enumerate(order)}
    edges = [(place[u], place[v]) for u, v in graph.edges()]
    return from_records([graph.nodes[node] for node in order], edges, graph.graph.get("uncovered", ()))


def to_node_link(graph: ArchGraph) -> dict[str, Any]:
    """JSON-ready data that `networkx.node_link_graph(data, edges="edges")` turns into what `to_networkx` gives."""
    return {
        "directed": True,
        "multigraph": False,
        "graph": {"uncovered": uncovered_records(graph)},
        "nodes": [{"id": i, **record} for i, record in enumerate(node_records(graph))],
        "edges": [{"source": u, "target": v} for u, v in graph.edges.tolist()],
    }


def to_graphml(graph: ArchGraph) -> str:
    """The graph as GraphML, for programs that draw and measure graphs; `read_graphml` gives it back whole.

    Node attributes: op and name as text; out, in, height, width, the shape as numbers; params, how many the node
    stands for; record, JSON of its exact name, slots and outputs.
    """
    networkx = _import_networkx()
    out = networkx.DiGraph()
    params = dict.fromkeys(range(len(graph)), 0)
    for slot in graph.slots:
        params[slot.node] += slot.numel
    shapes = [dict(zip(("out", "in", "height", "width"), shape, strict=True)) for shape in graph.shapes.tolist()]
    for i, record in enumerate(rest_records(graph)):
        name = _NOT_XML.sub("\ufffd", graph.names[i])
        label = Primitive(graph.ops[i]).label
        out.add_node(i, op=label, name=name, **shapes[i], params=params[i], record=json.dumps(record))
    out.add_edges_from(graph.edges.tolist())
    return "\n".join(networkx.generate_graphml(out)) + "\n"


def read_graphml(path: Path) -> ArchGraph:
    """The ArchGraph of a GraphML file from `to_graphml`, or of any DAG whose nodes have an `op`.

    Raises DataError where the file cannot be read, GraphError where it holds no architecture.
    """
    networkx = _import_networkx()
    try:
        found = networkx.read_graphml(path)
        rest = {node: json.loads(data.pop("record", "{}")) for node, data in found.nodes(data=True)}
    except (OSError, SyntaxError, ValueError, networkx.NetworkXError) as error:  # SyntaxError: of the XML
        raise DataError(f"cannot read {path}: {error}; give a GraphML file") from error
    for node, data in found.nodes(data=True):
        shape = [data.get(key, 0) for key in ("out", "in", "height", "width")]
        found.graph["uncovered"] = rest[node].pop("uncovered", found.graph.get("uncovered", ()))
        data.update({"shape": shape, **rest[node]})
    return from_networkx(found)
