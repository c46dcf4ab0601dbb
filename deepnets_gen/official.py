"""DeepNets-1M's official files, read and written: an HDF5 file of graphs and a JSON file of genotypes beside it.

Source: Knyazev et al., NeurIPS 2021, and the published readers. The HDF5 file holds, per split and network,
`adj` (N, N) uint8, the lengths of shortest paths up to 250 (1 = edge), and `nodes` (N, 3) uint16: type, cell and name,
the first and the last as numbers into tables of the JSON file. What the published generator writes has the rows of the
two in different orders, and names no widths; ours has one order and all that the readers ask for.

GHN-3's reader also rewires graphs that it takes for old, wrong ones. All that our splits draw pass it unchanged.
"""

import json
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import FileIO
from itertools import groupby
from pathlib import Path
from typing import Any, overload

import numpy as np

from deepnets_gen import families
from deepnets_gen.genotype import HEADS, Genotype, GenotypeError
from deepnets_gen.layout import num_params
from ghn.adapters import MissingExtraError
from ghn.errors import DataError, GHNError, GraphError
from ghn.files import replacing
from ghn.graph import ArchGraph
from ghn.primitives import Primitive

EVALUATION = ("val", "test", "wide", "deep", "dense", "bnfree")  # the splits of the file for evaluation
SPLITS = ("train", "search", *EVALUATION)
TITLE = "DeepNets-1M"
FARTHEST = 250  # longer paths are not recorded
WIDENING = 4  # readers widen the stored C of split 'wide' by this on small images
SIZES = {"cifar10": 32, "imagenet": 224}  # what parameters are counted for: name in the record, side of the images
CLASSES = 10  # of both counts: the published generator counts all networks with ten
POOL_SHAPE = (1, 1, 3, 3)  # what readers assume of every pooling
NO_SHAPE = (0, 0, 0, 0)
# Groups of the newer layout take a fourth of the space of the older one; every HDF5 since 1.10 (2016) reads it.
LAYOUT = ("v110", "v110")
PACKED: dict[str, Any] = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
_NUMBERED = re.compile(r"(?<![^.])(_ops\.[^.]*)\.(?=\d+(?:\.|$))")  # an operation's layer without the 'op' before it


def file_names(split: str) -> tuple[str, str]:
    """Names of the HDF5 and the JSON file in which the published readers look for a split.

    Raises DataError where they know no such split.
    """
    if split not in SPLITS:
        raise DataError(f"DeepNets-1M's readers know no split {split!r}, only {', '.join(SPLITS)}")
    stem = f"deepnets1m_{'eval' if split in EVALUATION else split}"
    return f"{stem}.hdf5", f"{stem}_meta.json"


def write_official(entries: Iterable[tuple[str, Any]], hdf5_path: Path, meta_path: Path) -> int:
    """Number of networks written; both files appear whole or not at all, and equal entries give equal bytes.

    entries: (split, genotype), all of one split together; their order is the networks' numbers. Rows of `nodes` and
    `adj` follow the graph's order, which ends in the classifier's weight and bias.

    Some genotypes that the sampler never draws are misread by GHN-3's reader: with stem_type 1, neither preprocessing
    nor attention, and the stem's second output read only once, it moves an edge from the first output to the second.

    Raises DataError for a genotype that is no DeepNets one or a split that readers do not know.
    """
    h5py = _import_h5py()
    counts: dict[str, int] = {}
    with replacing(Path(meta_path)) as meta_file, replacing(Path(hdf5_path)) as hdf5_file:
        with (
            _Sink(hdf5_file, "w+") as sink,
            h5py.File(sink, "w", libver=LAYOUT) as store,
            open(meta_file, "w", encoding="utf-8") as meta,
        ):
            store.attrs["title"] = TITLE
            for split, group in groupby(entries, key=lambda entry: entry[0]):
                file_names(split)
                if split in counts:
                    raise DataError(f"split {split!r} comes twice; give all its networks in one go")
                meta.write(f"{', ' if counts else '{'}{json.dumps(split)}: ")
                genotypes = (genotype for _, genotype in group)
                counts[split] = _write_split(split, sink.guarded(genotypes), store.create_group(split), meta)
            meta.write("}" if counts else "{}")
        sink.check()
    return sum(counts.values())


class _Sink(FileIO):
    """A file that keeps its first failure to itself until it is asked, for libhdf5 crashes when a write fails."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        try:
            while self.failure is None and rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.failure = error
        return len(data)

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size) if self.failure is None else size or 0
        except OSError as error:
            self.failure = error
            return size or 0

    def check(self) -> None:
        """Raises the failure."""
        if self.failure is not None:
            raise self.failure

    def guarded(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items as long as nothing has failed."""
        for item in items:
            self.check()
            yield item


def _write_split(split: str, genotypes: Iterable[Any], group: Any, meta: Any) -> int:
    """Number of networks written. group: of the HDF5 file. meta: the open JSON file, to which one value is written."""
    types: dict[str, int] = {}
    names: dict[str, int] = {}
    count = 0
    meta.write('{"nets": [')
    for genotype in genotypes:
        genotype = _storable(split, genotype, count)
        graph = families.graph(genotype)
        group.create_dataset(f"{count}/adj", data=adjacency(graph), chunks=(len(graph),) * 2, **PACKED)
        rows = _rows(graph, types, names)
        group.create_dataset(f"{count}/nodes", data=rows, chunks=rows.shape, **PACKED)
        meta.write((",\n" if count else "\n") + json.dumps(_record(genotype, len(graph))))
        count += 1
    tables = {key: {i: name for name, i in t.items()} for key, t in zip(_TABLES, (types, names), strict=True)}
    meta.write(f'], "meta": {json.dumps(tables)}}}')
    return count


_TABLES = ("primitives_ext", "unique_op_names")


def _storable(split: str, genotype: Any, index: int) -> Genotype:
    """The genotype whose C is the one to be stored."""
    if not isinstance(genotype, Genotype):
        kind = type(genotype).__name__
        raise DataError(f"network {index} of {split!r} is a {kind}; the official files hold DeepNets-1M's family only")
    if split != "wide":
        return genotype
    if genotype.channels % (WIDENING * HEADS):
        raise DataError(
            f"network {index} of 'wide' has C = {genotype.channels}; readers widen {WIDENING} times, so give a "
            f"multiple of {WIDENING * HEADS}"
        )
    return replace(genotype, channels=genotype.channels // WIDENING)


def adjacency(graph: ArchGraph) -> np.ndarray:
    """(N, N) uint8: lengths of shortest paths u -> v up to 250, 0 where there is none."""
    out = graph.distances.copy()
    out[out > FARTHEST] = 0
    return out


def _rows(graph: ArchGraph, types: dict[str, int], names: dict[str, int]) -> np.ndarray:
    """(N, 3) uint16: type, cell, name of each node; new ones are added to the tables."""
    owners = {slot.node for slot in graph.slots}
    rows, cell = np.empty((len(graph), 3), dtype=np.uint16), 0
    for v, (op, path) in enumerate(zip(graph.ops.tolist(), graph.names, strict=True)):
        if path.startswith("cells."):
            _, number, path = path.split(".", 2)
            cell = int(number)
        label = Primitive(op).label
        pointwise = op == Primitive.CONV and tuple(graph.shapes[v, 2:]) == (1, 1)
        kind = "conv_1x1" if pointwise else label
        name = path if v in owners else label
        rows[v] = types.setdefault(kind, len(types)), cell, names.setdefault(name, len(names))
    return rows


def _record(genotype: Genotype, nodes: int) -> dict[str, Any]:
    """The network's entry in the JSON file. Parameters count before dead parts are pruned, as published."""
    counts = {name: num_params(genotype, CLASSES, side, everything=True) for name, side in SIZES.items()}
    return {**genotype.to_dict(), "num_nodes": nodes, "num_params": counts}


def read_official(hdf5_path: Path | None, meta_path: Path, split: str) -> "OfficialSplit":
    """The networks of a split. Without an HDF5 file all but `stored` works.

    Raises DataError where a file is missing, damaged or has no such split.
    """
    meta = _meta(meta_path)
    if split not in meta:
        raise DataError(f"{meta_path} has no split {split!r}; it has {', '.join(meta) or 'none'}")
    return _split(split, meta[split], hdf5_path, meta_path)


def read_splits(meta_path: Path, hdf5_path: Path | None = None) -> "dict[str, OfficialSplit]":
    """The networks of every split of a file, as `read_official` reads one."""
    return {split: _split(split, part, hdf5_path, meta_path) for split, part in _meta(meta_path).items()}


def _meta(path: Path) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            meta = json.load(file)
        if not isinstance(meta, dict):
            raise ValueError(f"it holds a {type(meta).__name__} in place of splits")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; give a deepnets1m_*_meta.json") from error
    return meta


def _split(split: str, part: Any, hdf5_path: Path | None, meta_path: Path) -> "OfficialSplit":
    try:
        types, names = ({int(i): str(name) for i, name in part["meta"][key].items()} for key in _TABLES)
        records = part["nets"]
        if not isinstance(records, list):
            raise TypeError("'nets' is no list")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{meta_path}, split {split!r}: {type(error).__name__} {error}; is it damaged?") from error
    return OfficialSplit(split, records, types, names, None if hdf5_path is None else Path(hdf5_path), Path(meta_path))


class OfficialSplit(Sequence[ArchGraph]):
    """The networks of a split in official files; item i is `graph(i)`. May be pickled; each process opens the file.

    Raises DataError where a network is damaged in the files, IndexError where there is none.
    """

    def __init__(
        self,
        split: str,
        records: list[dict[str, Any]],
        types: dict[int, str],
        names: dict[int, str],
        hdf5_path: Path | None,
        meta_path: Path,
    ) -> None:
        self.split, self.records, self.hdf5_path, self.meta_path = split, records, hdf5_path, meta_path
        self._types, self._names = types, names
        self._store: Any = None
        if hdf5_path is not None:
            with self._damage("the split"):
                self._group()

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> ArchGraph: ...
    @overload
    def __getitem__(self, index: slice) -> list[ArchGraph]: ...
    def __getitem__(self, index: int | slice) -> ArchGraph | list[ArchGraph]:
        if isinstance(index, slice):
            return [self.graph(i) for i in range(*index.indices(len(self)))]
        return self.graph(index)

    def __iter__(self) -> Iterator[ArchGraph]:
        return (self.graph(i) for i in range(len(self)))

    def genotype(self, index: int) -> Genotype:
        """The architecture; of split 'wide' with the channels that readers give it on small images."""
        i = range(len(self))[index]
        try:
            found = Genotype.from_dict(self.records[i])
            return replace(found, channels=WIDENING * found.channels) if self.split == "wide" else found
        except GenotypeError as error:
            raise DataError(f"{self.meta_path}, network {i} of {self.split!r}: {error}") from error

    def graph(self, index: int, num_classes: int = 10, image_size: int = 32) -> ArchGraph:
        """The graph of the genotype as we state it, whatever the HDF5 file says."""
        return families.graph(self.genotype(index), num_classes, image_size)

    def stored(self, index: int) -> ArchGraph:
        """The graph that the HDF5 file holds, as the published readers understand it, to be compared with `graph`.

        It has no slots: the file gives names of parameters, not shapes; every pooling counts as 3x3.
        """
        i = range(len(self))[index]
        if self.hdf5_path is None:
            raise DataError(f"{self.meta_path} was read without its HDF5 file; give it to read_official")
        with self._damage(f"network {i}"):
            adj, nodes = (self._group()[str(i)][key][()] for key in ("adj", "nodes"))
            if adj.shape != (len(nodes), len(nodes)) or nodes.shape[1:] != (3,):
                raise ValueError(f"adj is {adj.shape} and nodes {nodes.shape}; (N, N) and (N, 3) fit together")
            ops = [_primitive(self._types[kind]) for kind in nodes[:, 0].tolist()]
            names = [_full_name(self._names[name], cell) for _, cell, name in nodes.tolist()]
            pools = (Primitive.MAX_POOL, Primitive.AVG_POOL)
            shapes = [POOL_SHAPE if op in pools else NO_SHAPE for op in ops]
            return ArchGraph(np.array(ops), np.argwhere(adj == 1), np.array(shapes), names=tuple(names))

    def close(self) -> None:
        """Closes the HDF5 file; it is opened again where needed."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_store": None}

    def _group(self) -> Any:
        if self._store is None:
            self._store = _import_h5py().File(self.hdf5_path, "r")
        return self._store[self.split]

    @contextmanager
    def _damage(self, what: str) -> Generator[None, None, None]:
        """Within the block, what goes wrong in reading is a DataError that says where."""
        try:
            yield
        except (OSError, RuntimeError, KeyError, IndexError, TypeError, ValueError, GraphError) as error:
            if isinstance(error, GHNError) and not isinstance(error, GraphError):
                raise
            raise DataError(
                f"{self.hdf5_path}, {what} of {self.split!r}: {type(error).__name__} {error}; does the file belong to "
                f"{self.meta_path.name}, and is it whole?"
            ) from error


def _primitive(kind: str) -> Primitive:
    """The node type of an extended one: 'conv_1x1', 'sep_conv_3x3', 'max_pool_3x3' and 'fc-b' were published too."""
    if kind.startswith("conv_"):
        kind = "conv"
    elif "conv_" in kind or "pool_" in kind:
        kind = kind[:-4]
    elif kind == "fc-b":
        kind = "bias"
    return Primitive[kind.upper()]


def _full_name(stored: str, cell: int) -> str:
    """The path that the published readers make of a stored name, which leaves the cell out."""
    if stored.startswith("classifier"):
        return stored
    if not stored or stored == "input":
        return "input"
    name = f"{stored}weight" if stored.endswith("to_out.0.") else _NUMBERED.sub(r"\1.op.", stored, count=1)
    for outside in ("stem", "pos_enc"):
        if outside in name:
            return name[name.index(outside) :]
    return f"cells.{cell}.{name}"


def _import_h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError(
            f"h5py cannot be imported ({error}); run `pip install 'ghn-predict[corpus]'`"
        ) from error
    return h5py
