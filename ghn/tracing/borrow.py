"""Lending a module to the recorder with stand-ins for its tensors, and giving it back as it was."""

from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

_CONTAINERS = (dict, OrderedDict, list, set)


@contextmanager
def borrowed(model: nn.Module, stand_in: Callable[[Tensor], Tensor], training: bool) -> Generator[dict[int, Tensor]]:
    """Within the block every tensor that `model` holds is `stand_in(tensor)`; yields id(tensor) -> stand-in.

    One stand-in per tensor, so ties survive. On leaving, by whatever way, each submodule has its attributes, and
    each of their dicts and lists its entries, back: parameters, buffers, training flags, caches, and the lists of
    weights that recurrent layers keep beside their parameters. Not safe for a model that another thread runs.
    """
    saved = [_snapshot(module.__dict__) for module in model.modules()]
    stand_ins: dict[int, Tensor] = {}
    try:
        for containers in saved:
            for live, entries in containers:
                if entries:
                    _replace_tensors(live, entries, stand_in, stand_ins)
            containers[0][0]["training"] = training
        yield stand_ins
    finally:
        for containers in saved:
            for live, entries in containers:
                if live or entries:
                    live.clear()
                    (live.extend if isinstance(live, list) else live.update)(entries)


def _snapshot(attributes: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Of a module's attributes, then of each container among them: the live object and a copy of its entries."""
    found: list[tuple[Any, Any]] = [(attributes, attributes.copy())]
    for value in attributes.values():
        if type(value) in _CONTAINERS:
            found.append((value, (dict(value) if isinstance(value, dict) else value.copy()) if value else ()))
    return found


def _replace_tensors(live: Any, entries: Any, stand_in: Callable[[Tensor], Tensor], done: dict[int, Tensor]) -> None:
    if isinstance(live, set):
        return
    for key, tensor in entries.items() if isinstance(entries, dict) else enumerate(entries):
        if isinstance(tensor, Tensor):
            if id(tensor) not in done:
                done[id(tensor)] = stand_in(tensor)
            live[key] = done[id(tensor)]
