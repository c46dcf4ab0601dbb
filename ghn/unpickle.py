"""Reads pickles of plain containers, bytes, numbers and a few known kinds; a name of anything else is refused.

An ordinary unpickler imports and calls whatever the file names, so that a data file can run any code. Here a table
says which names are known, and what stands behind them is ours: for numpy's arrays an empty one, whose own state is
set later; for torch's tensors its own reader of tensors only.
"""

import argparse
import bz2
import collections
import gzip
import io
import lzma
import pickle
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from ghn.errors import DataError

Known = Mapping[tuple[str, str], Callable[..., Any]]


def _empty(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """The array that an array's pickle begins with; its shape, type and content come as its state."""
    return np.empty(0, np.int8)


ARRAYS: Known = {
    ("numpy.core.multiarray", "_reconstruct"): _empty,
    ("numpy._core.multiarray", "_reconstruct"): _empty,  # the same since numpy 2
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def read_torch(file: BinaryIO, where: str) -> Any:
    """What a file of `torch.save` holds: tensors, plain containers, and argparse's names and values.

    Raises DataError where it names anything else or is damaged.
    """
    import torch

    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a dozen types; what they say may advise to load it with code and all
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            if isinstance(error, pickle.UnpicklingError) and named:
                raise DataError(f"{where} is refused: it names {named[1]}, which no plain data needs") from error
            raise DataError(f"{where} is no file of torch.save, or a damaged one; it {_beginning(file)}") from error


def _beginning(file: BinaryIO) -> str:
    """How a file begins, in words: a page of HTML or a pointer of Git LFS in its place shows there."""
    file.seek(0)
    start = file.read(24)
    return f"begins with {start!r}" if start else "is empty"


# How files begin that joblib has compressed, and what opens them.
COMPRESSED: Mapping[bytes, Callable[[BinaryIO], Any]] = {
    b"x": lambda file: io.BytesIO(zlib.decompress(file.read())),
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"]\x00\x00": lzma.open,
}


def decompressed(file: BinaryIO, where: str) -> BinaryIO:
    """The file, or what is compressed in it. Raises DataError where that is damaged."""
    start = file.read(8)
    file.seek(0)
    for magic, opened in COMPRESSED.items():
        if start.startswith(magic):
            try:
                return opened(file)
            except zlib.error as error:
                raise DataError(f"{where} is compressed, and damaged: {error}") from error
    return file


def _storage(content: bytes) -> Any:
    import torch

    if not isinstance(content, bytes):
        raise DataError("a tensor's numbers are not bytes")
    found = read_torch(io.BytesIO(content), "a tensor in it")
    if not isinstance(found, torch.storage.TypedStorage):
        raise DataError(f"a {type(found).__name__} stands in place of a tensor's numbers")
    return found


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Any:
    import torch

    if not isinstance(storage, torch.storage.TypedStorage):
        raise DataError("a tensor has no numbers")
    numbers = torch.empty(0, dtype=storage.dtype).set_(storage)
    return numbers.as_strided(size, stride, offset)  # raises where the numbers do not reach


TENSORS: Known = {  # as joblib writes them, and pickle itself
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
}


class _Restricted(pickle._Unpickler):
    """The one written in Python: the other, in C, lets a damaged file ask for any amount of memory."""

    def __init__(self, file: BinaryIO, known: Known) -> None:
        super().__init__(file, encoding="bytes")
        self.known = known

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise DataError(f"it names {module}.{name}, which no plain data needs")
        return self.known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise DataError("it refers to an object outside itself")


def read_plain_pickle(content: bytes | BinaryIO, where: str, known: Known = ARRAYS) -> Any:
    """What the pickle holds; strings of Python 2 are bytes. `where` is its name in messages.

    Raises DataError where it is damaged or names anything but what is known; nothing else that it names is called.
    """
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    try:
        return _Restricted(file, known).load()
    except DataError as error:
        raise DataError(f"{where} is refused: {error}. Take the file from its own site") from error
    except Exception as error:  # a damaged pickle raises almost anything
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise DataError(f"{where} is no readable pickle ({reason}); copy it again") from error
