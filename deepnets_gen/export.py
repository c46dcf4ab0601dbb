"""Corpora in the formats of other people's tools, with everything that our graphs know.

All writers take (split, genotype) pairs, derive each graph as it is written, and put files in place whole or not at
all. num_classes, image_size: of the networks that the graphs are of.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from deepnets_gen import families
from ghn.adapters import MissingExtraError
from ghn.errors import DataError, GHNError
from ghn.files import replacing
from ghn.graph import ArchGraph, ParamSlot
from ghn.identity import identities
from ghn.primitives import Role
from ghn.sketch import Sketch

Entries = Iterable[tuple[str, Any]]
ROW_GROUP = 1024  # graphs that are held in memory and compressed together


def write_parquet(entries: Entries, path: Path, num_classes: int = 10, image_size: int = 32) -> int:
    """Number of rows written, one per graph; any reader of parquet files understands them.

    split, family: texts. key: identity of the graph. genotype: JSON. nodes, params: counts. ops: (N,) uint8, rows of
    `Primitive`. shapes: 4 N numbers, (out, in, h, w) of each node. edges: 2 E numbers, source and target of each edge.
    names: of the nodes. slots: of the parameters, each with fqn, role, shape, node, aliases and axes. outputs: nodes.
    """
    arrow, parquet = _import_pyarrow()
    rows = ((split, genotype, families.sketch(genotype, num_classes, image_size)) for split, genotype in entries)
    count = 0
    with replacing(Path(path)) as file, parquet.ParquetWriter(file, _schema(arrow), compression="zstd") as writer:
        while group := list(islice(rows, ROW_GROUP)):
            writer.write_table(_table(arrow, group))
            count += len(group)
    return count


def read_parquet(path: Path) -> Iterator[tuple[str, Any, ArchGraph]]:
    """(split, genotype, graph) of every row of a file from `write_parquet`, a row group in memory at a time.

    Raises DataError where the file is damaged or has other columns.
    """
    arrow, parquet = _import_pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            for group in file.iter_batches(batch_size=ROW_GROUP):
                for row in group.to_pylist():
                    yield row["split"], families.from_record(json.loads(row["genotype"])), _graph(row)
    except (OSError, KeyError, TypeError, ValueError, arrow.ArrowException) as error:
        if isinstance(error, GHNError):
            raise
        raise DataError(
            f"cannot read {path}: {type(error).__name__} {error}; give a file that `ghn corpus convert` wrote"
        ) from error


def _schema(arrow: Any) -> Any:
    texts, ints = arrow.list_(arrow.string()), arrow.list_(arrow.int32())
    slot = {"fqn": arrow.string(), "role": arrow.string(), "shape": ints, "node": arrow.int32(), "aliases": texts}
    slot["axes"] = arrow.string()
    columns = {
        **dict.fromkeys(("split", "family", "key", "genotype"), arrow.string()),
        "nodes": arrow.int32(),
        "params": arrow.int64(),
        "ops": arrow.list_(arrow.uint8()),
        "shapes": ints,
        "edges": ints,
        "names": texts,
        "slots": arrow.list_(arrow.struct(slot)),
        "outputs": ints,
    }
    return arrow.schema(columns)


def _table(arrow: Any, rows: Sequence[tuple[str, Any, Sketch]]) -> Any:
    """A row group. Columns are made flat and cut by offsets, and graphs identified together, for that is far faster."""
    genotypes, sketches = [row[1] for row in rows], [row[2] for row in rows]
    graphs = [sketch.graph() for sketch in sketches]
    records = (json.dumps(families.to_record(genotype), separators=(",", ":")) for genotype in genotypes)
    columns = {
        "split": [row[0] for row in rows],
        "family": [families.family_of(genotype).name for genotype in genotypes],
        "key": [found.key for found in identities(sketches)],
        "genotype": list(records),
        "nodes": [len(graph) for graph in graphs],
        "params": [graph.num_params for graph in graphs],
        "ops": _lists(arrow, [graph.ops for graph in graphs]),
        "shapes": _lists(arrow, [graph.shapes.reshape(-1) for graph in graphs]),
        "edges": _lists(arrow, [graph.edges.reshape(-1) for graph in graphs]),
        "names": _texts(arrow, [graph.names for graph in graphs]),
        "slots": _slots(arrow, [graph.slots for graph in graphs]),
        "outputs": _lists(arrow, [np.array(graph.outputs, np.int32) for graph in graphs]),
    }
    return arrow.Table.from_pydict(columns, schema=_schema(arrow))


def _lists(arrow: Any, parts: Sequence[np.ndarray]) -> Any:
    return arrow.ListArray.from_arrays(_offsets(parts), np.concatenate(parts))


def _texts(arrow: Any, parts: Sequence[Sequence[str]]) -> Any:
    return arrow.ListArray.from_arrays(_offsets(parts), arrow.array(list(chain.from_iterable(parts)), arrow.string()))


def _slots(arrow: Any, parts: Sequence[tuple[ParamSlot, ...]]) -> Any:
    slots = list(chain.from_iterable(parts))
    fields = {
        "fqn": arrow.array([slot.fqn for slot in slots], arrow.string()),
        "role": arrow.array([slot.role.value for slot in slots], arrow.string()),
        "shape": _lists(arrow, [np.empty(0, np.int32), *(np.array(slot.shape, np.int32) for slot in slots)]).slice(1),
        "node": arrow.array([slot.node for slot in slots], arrow.int32()),
        "aliases": _texts(arrow, [slot.aliases for slot in slots]),
        "axes": arrow.array([slot.axes for slot in slots], arrow.string()),
    }
    return arrow.ListArray.from_arrays(_offsets(parts), arrow.StructArray.from_arrays(fields.values(), fields.keys()))


def _offsets(parts: Sequence[Sized]) -> np.ndarray:
    return np.cumsum([0, *(len(part) for part in parts)], dtype=np.int32)


def _graph(row: dict[str, Any]) -> ArchGraph:
    slots = (
        ParamSlot(s["fqn"], Role(s["role"]), tuple(s["shape"]), s["node"], tuple(s["aliases"]), s.get("axes", ""))
        for s in row["slots"]
    )
    return ArchGraph(row["ops"], row["edges"], row["shapes"], tuple(slots), tuple(row["names"]), tuple(row["outputs"]))


def write_networkx(entries: Entries, path: Path, num_classes: int = 10, image_size: int = 32) -> int:
    """Number of lines written, each the JSON of a graph that `networkx.node_link_graph(data, edges="edges")` reads.

    The graph's attributes hold its split and genotype.
    """
    from ghn.adapters.networkx import to_node_link

    count = 0
    with replacing(Path(path)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for split, genotype in entries:
            data = to_node_link(families.graph(genotype, num_classes, image_size))
            data["graph"] |= {"split": split, "genotype": families.to_record(genotype)}
            file.write(json.dumps(data, separators=(",", ":")) + "\n")
            count += 1
    return count


def write_graphml(entries: Entries, folder: Path, num_classes: int = 10, image_size: int = 32) -> int:
    """Number of files written to a new folder: SPLIT-NUMBER.graphml, numbered within all that are given.

    Raises GHNError where the folder exists and is not empty.
    """
    from ghn.adapters.networkx import to_graphml

    folder, count = Path(folder), 0
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for split, genotype in entries:
            text = to_graphml(families.graph(genotype, num_classes, image_size))
            (temporary / f"{split}-{count:07d}.graphml").write_text(text, encoding="utf-8")
            count += 1
        temporary.chmod(0o755)
        os.rename(temporary, folder)
    except OSError as error:
        raise GHNError(f"cannot write {folder}: {error.strerror or error}; give a new folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return count


def write_dgl(entries: Entries, path: Path, num_classes: int = 10, image_size: int = 32) -> int:
    """Number of graphs written to one file that `dgl.load_graphs` reads; all are held in memory."""
    from ghn.adapters.dgl import save_dgl

    return save_dgl((families.graph(genotype, num_classes, image_size) for _, genotype in entries), path)


def write_pyg(entries: Entries, path: Path, num_classes: int = 10, image_size: int = 32) -> int:
    """Number of graphs written to one file that `ghn.adapters.pyg.load_pyg` reads; all are held in memory."""
    from ghn.adapters.pyg import save_pyg

    return save_pyg((families.graph(genotype, num_classes, image_size) for _, genotype in entries), path)


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(
            f"pyarrow cannot be imported ({error}); run `pip install 'ghn-predict[corpus]'`"
        ) from error
    return pyarrow, parquet
