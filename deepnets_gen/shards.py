"""One shard of a corpus: records of genotypes <-> the bytes of a safetensors file, read through a memory map.

A record is the compact JSON of a genotype, deflated with a dictionary of the split's first genotypes, which most of
it repeats: some 26 bytes where the JSON has 340. Nothing is unpickled, so a shard from a stranger is only data.
"""

import hashlib
import json
import math
import mmap
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save

from deepnets_gen.manifest import FORMAT, CorpusError

KEY_BYTES = 16
_METADATA = "corpus"  # one entry, because safetensors writes several in random order
_MAX_HEADER = _MAX_RECORD = 1 << 20
_RAW = -zlib.MAX_WBITS  # deflate without zlib's header and checksum: the file has a checksum of its own
_DTYPES = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64}
_TENSORS = ("dictionary", "index", "keys", "nodes", "offsets", "params", "records")


def make_dictionary(records: Iterable[Mapping[str, Any]]) -> bytes:
    """What records like these have in common, to encode and decode with."""
    return b"".join(map(_plain, records))[-(1 << 15) :]


class Encoder:
    """Record -> bytes. The dictionary stays in a prepared compressor, which is copied for each record."""

    def __init__(self, dictionary: bytes) -> None:
        self._prepared = zlib.compressobj(9, zlib.DEFLATED, _RAW, 9, zdict=dictionary)

    def __call__(self, record: Mapping[str, Any]) -> bytes:
        deflate = self._prepared.copy()
        return deflate.compress(_plain(record)) + deflate.flush()


def decode(data: bytes | memoryview, dictionary: bytes) -> Any:
    """The record of these bytes. Raises zlib.error or ValueError where they are none."""
    inflate = zlib.decompressobj(_RAW, dictionary)
    text = inflate.decompress(data, _MAX_RECORD)
    if not inflate.eof or inflate.unused_data:
        raise ValueError("the record does not end where the next begins")
    return json.loads(text)


def _plain(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode()


class Row(NamedTuple):
    """A graph on its way to a shard.

    data: its genotype, encoded. key: identity, 16 bytes. nodes, params: of the graph. index: of the candidate.
    """

    data: bytes
    key: bytes
    nodes: int
    params: int
    index: int


def to_bytes(rows: Sequence[Row], dictionary: bytes, about: Mapping[str, Any]) -> bytes:
    """The file of a shard: a function of its arguments alone. about: what its metadata says beside its checksum."""
    data, keys, nodes, params, index = zip(*rows, strict=True)
    ends = np.cumsum([0, *map(len, data)], dtype=np.uint64)
    assert ends[-1] < 1 << 32, "offsets have 32 bits"
    tensors = {
        "dictionary": np.frombuffer(dictionary, np.uint8),
        "index": _narrow(index, np.uint32, np.uint64),
        "keys": np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES),
        "nodes": _narrow(nodes, np.uint16, np.uint32),
        "offsets": ends.astype(np.uint32),
        "params": _narrow(params, np.uint32, np.uint64),
        "records": np.frombuffer(b"".join(data), np.uint8),
    }
    metadata = {**about, "format": FORMAT, "count": len(rows), "blake2b": _checksum(tensors)}
    return save(tensors, {_METADATA: json.dumps(metadata, sort_keys=True)})


def _narrow(values: Sequence[int], small: type[np.unsignedinteger], large: type[np.unsignedinteger]) -> np.ndarray:
    return np.array(values, dtype=small if max(values) <= np.iinfo(small).max else large)


def _checksum(tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in _TENSORS:
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Shard:
    """A shard in a memory map; arrays are read from the file when touched.

    metadata: what the file says of itself. keys: (n, 16) uint8. nodes, params, index: (n,). offsets: (n + 1,).
    """

    path: Path
    metadata: Mapping[str, Any]
    dictionary: bytes
    index: np.ndarray
    keys: np.ndarray
    nodes: np.ndarray
    offsets: np.ndarray
    params: np.ndarray
    records: memoryview

    @classmethod
    def open(cls, path: Path) -> "Shard":
        """The shard in this file. Raises CorpusError where the file is missing or is no shard."""
        try:
            with path.open("rb") as file:
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            header, body = _header(data)
            metadata = json.loads(header.pop("__metadata__")[_METADATA])
            if metadata.get("format") != FORMAT:
                raise ValueError(f"it has format {metadata.get('format')!r}, not {FORMAT}")
            tensors = {name: _tensor(body, **header[name]) for name in _TENSORS}
            _check_columns(tensors)
        except OSError as error:
            raise CorpusError(f"cannot read shard {path}: {error.strerror or error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorpusError(f"{path} is not a shard of a corpus: {type(error).__name__} {error}") from error
        records, dictionary = tensors.pop("records").data, tensors.pop("dictionary").tobytes()
        return cls(path, metadata, dictionary, records=records, **tensors)

    def __len__(self) -> int:
        return len(self.nodes)

    def data(self, i: int) -> bytes:
        """The bytes of record i, encoded."""
        return bytes(self.records[self.offsets[i] : self.offsets[i + 1]])

    def record(self, i: int) -> Any:
        """Record i, decoded. Raises CorpusError where its bytes are damaged."""
        try:
            return decode(self.data(i), self.dictionary)
        except (zlib.error, ValueError) as error:
            raise CorpusError(
                f"{self.path}, record {i} is damaged ({error}); `ghn corpus verify` checks all"
            ) from error

    def rows(self) -> list[Row]:
        """Everything, in memory."""
        data = (self.data(i) for i in range(len(self)))
        keys = (key.tobytes() for key in self.keys)
        columns = (self.nodes.tolist(), self.params.tolist(), self.index.tolist())
        return list(map(Row, data, keys, *columns))

    def checksum(self) -> str:
        """Of the tensors as they are; `metadata['blake2b']` is what it should be."""
        plain = {"dictionary": np.frombuffer(self.dictionary, np.uint8), "records": np.asarray(self.records)}
        columns = {name: getattr(self, name) for name in ("index", "keys", "nodes", "offsets", "params")}
        return _checksum(plain | columns)


def _header(data: memoryview) -> tuple[dict[str, Any], memoryview]:
    """The JSON header of a safetensors file, and what follows it."""
    size = int.from_bytes(data[:8], "little")
    if not 2 <= size <= min(_MAX_HEADER, len(data) - 8):
        raise ValueError(f"a header of {size} bytes in a file of {len(data)}")
    return json.loads(bytes(data[8 : 8 + size])), data[8 + size :]


def _tensor(body: memoryview, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    kind = np.dtype(_DTYPES[dtype])
    start, stop = data_offsets
    if not 0 <= start <= stop <= len(body) or stop - start != math.prod(shape) * kind.itemsize:
        raise ValueError(f"a tensor of shape {shape} in bytes {start}..{stop} of {len(body)}")
    return np.frombuffer(body[start:stop], kind).reshape(shape)


def _check_columns(tensors: Mapping[str, np.ndarray]) -> None:
    n = len(tensors["nodes"])
    wanted = {"index": (n,), "keys": (n, KEY_BYTES), "nodes": (n,), "offsets": (n + 1,), "params": (n,)}
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{name} of shape {tensors[name].shape} in a shard of {n} graphs")
    if tensors["records"].dtype != np.uint8 or tensors["keys"].dtype != np.uint8:
        raise ValueError("records and keys must be bytes")
