"""Lending a module to the recorder with stand-ins for its tensors, and giving it back as it was."""

from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

_CONTAINERS = (dict, OrderedDict, list, set)


def modules_of(model: nn.Module) -> dict[int, tuple[nn.Module, str]]:
    """By id, each module with its first path, in the order of `named_modules`, which takes its depth times as long."""
    found: dict[int, tuple[nn.Module, str]] = {}
    todo: list[tuple[str, nn.Module | None]] = [("", model)]
    while todo:
        path, module = todo.pop()
        if module is not None and id(module) not in found:
            found[id(module)] = module, path
            prefix = path + "." if path else ""
            todo += [(prefix + name, child) for name, child in reversed(list(module._modules.items()))]
    return found


@contextmanager
def borrowed(
    modules: Sequence[nn.Module], stand_in: Callable[[Tensor], Tensor], training: bool
) -> Generator[dict[int, Tensor]]:
    """Within the block every tensor that these modules hold is `stand_in(tensor)`; yields id(tensor) -> stand-in.

    One stand-in per tensor, so ties survive. On leaving, by whatever way, each submodule has its attributes, and
    each of their dicts and lists its entries, back: parameters, buffers, training flags, caches, and the lists of
    weights that recurrent layers keep beside their parameters. Not safe for a model that another thread runs.
    """
    saved: list[tuple[Any, Any]] = []  # the attributes of a module, or a container among them, and what was in it
    empty: list[Any] = []  # containers with nothing in them, as most of a module's are
    for module in modules:
        saved.append((module.__dict__, module.__dict__.copy()))
        for value in module.__dict__.values():
            if type(value) in _CONTAINERS:
                if value:
                    saved.append((value, dict(value) if isinstance(value, dict) else value.copy()))
                else:
                    empty.append(value)
    stand_ins: dict[int, Tensor] = {}
    try:
        for live, entries in saved:
            _replace_tensors(live, entries, stand_in, stand_ins)
        for module in modules:
            module.__dict__["training"] = training
        yield stand_ins
    finally:
        for live, entries in saved:
            live.clear()
            (live.extend if isinstance(live, list) else live.update)(entries)
        for live in empty:
            live.clear()


def _replace_tensors(live: Any, entries: Any, stand_in: Callable[[Tensor], Tensor], done: dict[int, Tensor]) -> None:
    if isinstance(live, set):
        return
    for key, tensor in entries.items() if isinstance(entries, dict) else enumerate(entries):
        if isinstance(tensor, Tensor):
            if id(tensor) not in done:
                done[id(tensor)] = stand_in(tensor)
            live[key] = done[id(tensor)]
