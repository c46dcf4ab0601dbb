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
    found: list[tuple[Any, Any, Tensor]] = []  # tensors, and where they are kept
    for module in modules:
        attributes = module.__dict__
        saved.append((attributes, attributes.copy()))
        for key, value in attributes.items():
            if type(value) in _CONTAINERS:
                if value:
                    saved.append((value, dict(value) if isinstance(value, dict) else value.copy()))
                    found += _tensors_of(value)
                else:
                    empty.append(value)
            elif isinstance(value, Tensor):
                found.append((attributes, key, value))
    stand_ins: dict[int, Tensor] = {}
    try:
        for keeper, key, tensor in found:
            if id(tensor) not in stand_ins:
                stand_ins[id(tensor)] = stand_in(tensor)
            keeper[key] = stand_ins[id(tensor)]
        for module in modules:
            module.__dict__["training"] = training
        yield stand_ins
    finally:
        for live, entries in saved:
            live.clear()
            (live.extend if isinstance(live, list) else live.update)(entries)
        for live in empty:
            if live:
                live.clear()


def _tensors_of(container: Any) -> list[tuple[Any, Any, Tensor]]:
    if isinstance(container, set):
        return []
    entries = container.items() if isinstance(container, dict) else enumerate(container)
    return [(container, key, value) for key, value in entries if isinstance(value, Tensor)]
