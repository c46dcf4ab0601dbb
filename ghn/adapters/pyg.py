"""ArchGraph to and from PyTorch Geometric. An optional dependency, imported only here."""

import json
import warnings
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ghn.adapters import MissingExtraError
from ghn.adapters.records import from_columns, rest_records
from ghn.errors import DataError, GraphError
from ghn.files import write
from ghn.graph import ArchGraph

if TYPE_CHECKING:
    from torch_geometric.data import Data


def import_pyg() -> Any:
    """The torch_geometric package. Raises MissingExtraError where it does not import."""
    try:
        with warnings.catch_warnings():
            # It compiles some of its classes on import in a way that torch has deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            import torch_geometric
            import torch_geometric.data
    except ImportError as error:
        raise MissingExtraError(
            f"torch_geometric cannot be imported ({error}); run `pip install 'ghn-predict[pyg]'`"
        ) from error
    return torch_geometric


def to_pyg(graph: ArchGraph) -> "Data":
    """A Data of the real edges, with all that the ArchGraph knows.

    x: (N, 1) int64, rows of `Primitive`. shape: (N, 4) int64. edge_index: (2, E) int64. record: JSON, a list of each
    node's name, slots and outputs; as a text it is kept by saving and batching.
    """
    return import_pyg().data.Data(
        x=torch.from_numpy(graph.ops.astype(np.int64)).unsqueeze(1),
        edge_index=torch.from_numpy(graph.edges.astype(np.int64)).T.contiguous(),
        shape=torch.from_numpy(graph.shapes.astype(np.int64)),
        record=json.dumps(rest_records(graph), separators=(",", ":")),
    )


def from_pyg(data: "Data") -> ArchGraph:
    """The ArchGraph of a Data from `to_pyg`, or of any with `x`; `shape` and `record` are optional.

    Raises GraphError where `x` is missing or an invariant of ArchGraph is broken.
    """
    if data.x is None or data.x.shape[1:] != (1,) or data.edge_index is None:
        raise GraphError(f"a Data needs x (N, 1), rows of Primitive, and edge_index (2, E); this one is {data}")
    shapes = data.shape.tolist() if "shape" in data else None
    rest = json.loads(data.record) if "record" in data else None
    return from_columns(data.x[:, 0].tolist(), shapes, rest, data.edge_index.T.tolist())


def save_pyg(graphs: Iterable[ArchGraph], path: Path) -> int:
    """Number of graphs written to one file, whole or not at all. All are held in memory."""
    items = [to_pyg(graph).to_dict() for graph in graphs]
    content = BytesIO()
    torch.save(items, content)
    write(Path(path), content.getvalue())
    return len(items)


def load_pyg(path: Path) -> "list[Data]":
    """The graphs of a file from `save_pyg`; nothing but tensors and texts is unpickled. Raises DataError."""
    make = import_pyg().data.Data.from_dict
    try:
        return [make(item) for item in torch.load(path, weights_only=True)]
    except Exception as error:
        raise DataError(f"cannot read {path}: {error}") from error
