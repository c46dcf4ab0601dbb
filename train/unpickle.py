"""Reads pickles of plain containers, bytes, numbers and numpy arrays; a name of anything else is refused.

An ordinary unpickler imports and calls whatever the file names, so that a data file can run any code. Here three
names are known, and what stands behind them is ours: the array that is built is empty until its own state is set.
"""

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from ghn.errors import DataError


def _empty(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """The array that an array's pickle begins with; its shape, type and content come as its state."""
    return np.empty(0, np.int8)


KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty,
    ("numpy._core.multiarray", "_reconstruct"): _empty,  # the same since numpy 2
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _Restricted(pickle._Unpickler):
    """The one written in Python: the other, in C, lets a damaged file ask for any amount of memory."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise DataError(f"it names {module}.{name}, which no plain data needs")
        return KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise DataError("it refers to an object outside itself")


def read_plain_pickle(content: bytes, where: str) -> Any:
    """What the pickle holds; strings of Python 2 are bytes. `where` is its name in messages.

    Raises DataError where it is damaged or names anything but numpy's arrays; nothing that it names is ever called.
    """
    try:
        return _Restricted(io.BytesIO(content), encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{where} is refused: {error}. Take the file from the set's own site") from error
    except Exception as error:  # a damaged pickle raises almost anything
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise DataError(f"{where} is no readable pickle ({reason}); copy it again") from error
