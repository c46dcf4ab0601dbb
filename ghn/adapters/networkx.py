"""ArchGraph to and from networkx, for its algorithms and drawings. An optional dependency, imported only here."""

from typing import TYPE_CHECKING, Any

from ghn.adapters import MissingExtraError
from ghn.adapters.records import from_records, node_records, uncovered_records
from ghn.errors import GraphError
from ghn.graph import ArchGraph
from ghn.primitives import Primitive

if TYPE_CHECKING:
    from networkx import DiGraph


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
