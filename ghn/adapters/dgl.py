"""ArchGraph and GraphBatch to and from DGL, and the gated sweep run by DGL's message passing.

DGL is an optional dependency, imported only here. The sweep is a second implementation of the same definition,
for those who extend it with DGL's operators; it is slower than `GatedGNN`.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ghn.adapters import MissingExtraError
from ghn.adapters.records import from_columns, rest_records
from ghn.batch import GraphBatch
from ghn.errors import GraphError
from ghn.files import replacing
from ghn.graph import ArchGraph
from ghn.propagate.gated import GatedGNN

if TYPE_CHECKING:
    from dgl import DGLGraph


def import_dgl() -> Any:
    """The dgl package, on its PyTorch backend. Raises MissingExtraError where it does not import."""
    # Without this variable dgl's import creates a configuration folder in the user's home.
    os.environ.setdefault("DGLBACKEND", "pytorch")
    try:
        import dgl
    except (ImportError, OSError) as error:  # OSError: its compiled library does not fit
        raise MissingExtraError(
            f"dgl cannot be imported ({error}); run `pip install 'ghn-predict[dgl]'` on Python 3.11, the newest "
            "that dgl 1.1.3 has a wheel for"
        ) from error
    return dgl


def to_dgl(graph: ArchGraph) -> "DGLGraph":
    """A DGLGraph of the real edges, with all that the ArchGraph knows in its node data.

    op: (N,) int64. shape: (N, 4) int64. record: (N, L) uint8, each row a node's name, slots and outputs as JSON, filled
    up with zeros: as node data it is kept by DGL's saving, pickling and copying.
    """
    edges = torch.from_numpy(graph.edges.astype(np.int64))
    out = import_dgl().graph((edges[:, 0], edges[:, 1]), num_nodes=len(graph))
    out.ndata["op"] = torch.from_numpy(graph.ops.astype(np.int64))
    out.ndata["shape"] = torch.from_numpy(graph.shapes.astype(np.int64))
    out.ndata["record"] = _to_rows(_texts(graph))
    return out


def from_dgl(graph: "DGLGraph") -> ArchGraph:
    """The ArchGraph of a DGLGraph from `to_dgl`, or of any with node data `op`; `shape` and `record` are optional.

    Raises GraphError where `op` is missing or an invariant of ArchGraph is broken.
    """
    u, v = graph.edges(order="eid")
    return _graph(graph.ndata, torch.stack([u, v], dim=1))


def save_dgl(graphs: Iterable[ArchGraph], path: Path) -> int:
    """Number of graphs written to one file, whole or not at all; `dgl.load_graphs` reads it. All are held in memory."""
    dgl = import_dgl()
    items = [to_dgl(graph) for graph in graphs]
    with replacing(Path(path)) as file:
        try:
            dgl.save_graphs(str(file), items)
        except dgl.DGLError as error:
            raise OSError(str(error).partition("\n")[0]) from error
    return len(items)


def batch_to_dgl(batch: GraphBatch) -> "DGLGraph":
    """One DGLGraph of B components, nodes in packed order, an edge for every distance of the batch.

    Node data as in `to_dgl`; edge data distance: (E,) int64, 1 on real edges, above on virtual ones.
    """
    out = _structure(batch)
    out.ndata["op"], out.ndata["shape"] = batch.ops.cpu(), batch.shapes.cpu()
    out.ndata["record"] = _to_rows([text for g in batch.graphs for text in _texts(g)])
    return out


def batch_from_dgl(graph: "DGLGraph") -> GraphBatch:
    """The GraphBatch of a DGLGraph from `batch_to_dgl`, virtual edges up to the longest that it has."""
    graphs = []
    for part in import_dgl().unbatch(graph):
        u, v = part.edges(order="eid")
        graphs.append(_graph(part.ndata, torch.stack([u, v], dim=1)[part.edata["distance"] == 1]))
    # A cutoff that left something out left paths of just its own length in.
    return GraphBatch.collate(graphs, cutoff=max([1, *graph.edata["distance"].tolist()]))


def sweep_dgl(gnn: GatedGNN, x: Tensor, batch: GraphBatch) -> Tensor:
    """(N, d) initial states, GraphBatch -> (N, d) states: what `gnn(x, batch)` gives, by DGL's message passing.

    Runs on the CPU, with gradients into x and the parameters of `gnn`. Both sweeps pull along topological frontiers.
    """
    dgl = import_dgl()
    structure = _structure(batch)
    if gnn.mlp_ve is None:
        real = structure.edata["distance"] == 1
        structure = dgl.edge_subgraph(structure, real, relabel_nodes=False)
    for graph in (structure, dgl.reverse(structure, copy_edata=True)):
        x = _sweep(gnn, x, graph)
    return x


def _sweep(gnn: GatedGNN, x: Tensor, graph: "DGLGraph") -> Tensor:
    """(N, d) states after each node was updated from its finished predecessors."""
    function = import_dgl().function
    mlps = [gnn.mlp] if gnn.mlp_ve is None else [gnn.mlp, gnn.mlp_ve]
    distance = graph.edata["distance"].to(x.dtype)
    weights = torch.stack([(distance == 1).to(x.dtype), 1 / distance][: len(mlps)], dim=1)

    def update(nodes: Any) -> dict[str, Tensor]:
        state = gnn.gru(nodes.data["received"].sum(dim=1), nodes.data["state"])
        return {"state": state, "sent": torch.stack([mlp(state) for mlp in mlps], dim=1)}

    with graph.local_scope():
        graph.edata["weight"] = weights.unsqueeze(-1)
        graph.ndata["state"] = x
        graph.ndata["sent"] = x.new_zeros(len(x), len(mlps), x.shape[1])
        graph.prop_nodes(
            import_dgl().topological_nodes_generator(graph),
            function.u_mul_e("sent", "weight", "message"),
            function.sum("message", "received"),
            update,
        )
        return graph.ndata["state"]


def _structure(batch: GraphBatch) -> "DGLGraph":
    """The batch's edges, real and virtual, and nothing else."""
    pairs, distances = [], []
    for b, start in enumerate(batch.offsets[:-1]):
        column = batch.place[start : batch.offsets[b + 1]].cpu() - b * batch.width
        near = batch.distances[b].cpu()[column][:, column]
        pairs.append(near.nonzero() + start)
        distances.append(near[near > 0])
    u, v = torch.cat(pairs).unbind(1)
    out = import_dgl().graph((u, v), num_nodes=batch.num_nodes)
    out.set_batch_num_nodes(torch.tensor(batch.offsets).diff())
    out.set_batch_num_edges(torch.tensor([len(p) for p in pairs]))
    out.edata["distance"] = torch.cat(distances).long()
    return out


def _texts(graph: ArchGraph) -> list[bytes]:
    return [json.dumps(record, separators=(",", ":")).encode() for record in rest_records(graph)]


def _to_rows(texts: list[bytes]) -> Tensor:
    width = max(len(text) for text in texts)
    return torch.frombuffer(bytearray(b"".join(text.ljust(width, b"\0") for text in texts)), dtype=torch.uint8).view(
        len(texts), width
    )


def _graph(ndata: Any, edges: Tensor) -> ArchGraph:
    """The ArchGraph of DGL's node data and (E, 2) edges."""
    if "op" not in ndata:
        raise GraphError(f"a DGLGraph needs node data 'op' (rows of Primitive); this one has {sorted(ndata)}")
    rest = [json.loads(bytes(row).rstrip(b"\0")) for row in ndata["record"].numpy()] if "record" in ndata else None
    shapes = ndata["shape"].tolist() if "shape" in ndata else None
    return from_columns(ndata["op"].tolist(), shapes, rest, edges.tolist())
