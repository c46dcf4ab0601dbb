"""Graphs of modules traced before: a module built the same way again has the graph already.

What is compared is everything that a forward pass on meta tensors can depend on within the module: classes, names,
attributes, shapes, ties, hooks, functions. What it reads elsewhere, such as global variables, is not seen.
"""

import functools
import types
from collections import OrderedDict
from collections.abc import Hashable
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ghn.graph import ArchGraph

KEPT = 32  # graphs, those used last
MOST = 500_000  # tokens: a module that holds a data set, say, is not worth comparing
_PLAIN = frozenset({int, float, bool, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size, range})
_CONTAINERS = frozenset({dict, OrderedDict})
_graphs: OrderedDict[Hashable, ArchGraph] = OrderedDict()


def recall(key: Hashable) -> ArchGraph | None:
    """The graph kept under this key."""
    if key in _graphs:
        _graphs.move_to_end(key)
    return _graphs.get(key)


def keep(key: Hashable, graph: ArchGraph) -> None:
    """Keeps a graph, and drops the one that was used longest ago where there are too many."""
    _graphs[key] = graph
    while len(_graphs) > KEPT:
        _graphs.popitem(last=False)


def forget() -> None:
    """Drops all graphs."""
    _graphs.clear()


def fingerprint(*values: Any) -> Hashable:
    """Equal for values that are built alike, modules and tensors in them by structure and not by their numbers.

    Objects that cannot be looked into stand for themselves, and so do classes.
    """
    writing = _Writing()
    for value in values:
        writing.add(value)
    return tuple(writing.out)


class _Writing:
    """A list of tokens, in which an object that comes again is its number."""

    def __init__(self) -> None:
        self.out: list[Hashable] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # an id names an object only while it lives

    def add(self, value: Any) -> None:
        kind = type(value)
        if len(self.out) > MOST:
            raise ValueError("too much to compare")
        if kind in _PLAIN:
            self.out.append(value)
            return
        self.out.append(kind)
        if kind in _CONTAINERS and not value:  # most of a module's, for hooks that nobody set
            return
        number = self._numbers.get(id(value))
        if number is not None:
            self.out.append(number)
            return
        self._numbers[id(value)] = len(self._kept)
        self._kept.append(value)
        if kind in _CONTAINERS:
            self._items(value)
        else:
            self._look_into(value)

    def _look_into(self, value: Any) -> None:
        if isinstance(value, nn.Module):  # most of what there is, with tensors
            self._items(vars(value))
        elif isinstance(value, Tensor):
            if is_lazy(value):
                raise ValueError("a parameter without a shape")
            self.out += (value.shape, value.stride(), value.dtype, value.requires_grad)
        elif isinstance(value, dict):
            self._items(value)
        elif isinstance(value, list | tuple):
            self._all(value)
        elif isinstance(value, set | frozenset):
            self.out.append(frozenset(value))
        elif isinstance(value, np.ndarray):
            self.out += (value.shape, value.dtype.str, value.tobytes())
        elif isinstance(value, types.FunctionType):
            cells = [c.cell_contents for c in value.__closure__ or ()]
            self._all((value.__code__, value.__defaults__, value.__kwdefaults__, *cells))
        elif isinstance(value, types.MethodType):
            self._all((value.__func__, value.__self__))
        elif isinstance(value, functools.partial):
            self._all((value.func, value.args, value.keywords))
        elif hasattr(value, "__dict__") and not isinstance(value, type | types.ModuleType | Enum):
            self._items(vars(value))
        elif slots := [s for c in type(value).__mro__ for s in getattr(c, "__slots__", ())]:
            self._all([getattr(value, s, None) for s in slots])
        else:
            self.out.append(value)

    def _items(self, items: dict[Any, Any]) -> None:
        out = self.out
        out.append(len(items))
        for key, value in items.items():
            if key == "training":  # the tracer sets it
                continue
            kind = type(value)
            # As in `add`, which a module's many flags, sizes and empty dicts need not be handed to.
            if kind in _PLAIN or (kind is tuple and all(type(v) in _PLAIN for v in value)):
                out += (key, value)
            elif kind in _CONTAINERS and not value:
                out += (key, kind)
            else:
                out.append(key)
                self.add(value)

    def _all(self, values: Any) -> None:
        self.out.append(len(values))
        for value in values:
            self.add(value)


def key_of(model: nn.Module, *asked: Any) -> Hashable | None:
    """The key of a module and what it is traced with; None where it holds what cannot be compared, or too much."""
    try:
        key = fingerprint(model, torch.get_default_dtype(), *asked)
        hash(key)
    except (TypeError, ValueError, RecursionError):
        return None
    return key
