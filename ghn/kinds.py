"""Kinds of nodes, a type with a shape, numbered in the order in which the process meets them.

Networks are made of few kinds: as numbers they are copied, told apart and turned into arrays a list at a time.
"""

from collections.abc import Sequence
from hashlib import blake2b
from threading import Lock
from typing import NamedTuple

import numpy as np

Shape4 = tuple[int, int, int, int]


class Table(NamedTuple):
    """By kind: ops (K,) uint8, shapes (K, 4) int32, colours (2, K) uint64: of the kind, and of it without channels."""

    ops: np.ndarray
    shapes: np.ndarray
    colours: np.ndarray


_numbers: dict[tuple[int, Shape4], int] = {}
_lock = Lock()
_table = Table(np.empty(0, np.uint8), np.empty((0, 4), np.int32), np.empty((2, 0), np.uint64))


def number(op: int, shape: Shape4) -> int:
    """The kind of a node."""
    kind = (op, shape)
    found = _numbers.get(kind)
    if found is None:
        with _lock:
            found = _numbers.setdefault(kind, len(_numbers))
    return found


def table() -> Table:
    """What the numbers stand for, of all that have been given out."""
    global _table
    known = len(_table.ops)
    if known < len(_numbers):
        new = list(_numbers)[known:]
        colours = [[_colour(op, *shape) for op, shape in new], [_colour(op, *shape[2:]) for op, shape in new]]
        _table = Table(
            np.concatenate([_table.ops, np.array([op for op, _ in new], np.uint8)]),
            np.concatenate([_table.shapes, np.array([shape for _, shape in new], np.int32)]),
            np.concatenate([_table.colours, np.array(colours, np.uint64)], axis=1),
        )
    return _table


def numbers(ops: np.ndarray, shapes: np.ndarray) -> Sequence[int]:
    """The kinds of nodes given as arrays, (N,) and (N, 4)."""
    return [number(op, tuple(shape)) for op, shape in zip(ops.tolist(), shapes.tolist(), strict=True)]


def _colour(*numbers: int) -> int:
    """64 bits that stand for these numbers, in every process."""
    return int.from_bytes(blake2b(",".join(map(str, numbers)).encode(), digest_size=8).digest(), "little")
