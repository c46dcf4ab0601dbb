"""Lending a module to the recorder with stand-ins for its tensors, and giving it back as it was."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

_CONTAINERS = (dict, OrderedDict, list, set)


@contextmanager
def borrowed(model: nn.Module, stand_in: Callable[[Tensor], Tensor], training: bool) -> Iterator[dict[int, Tensor]]:
    """Within the block every tensor that `model` holds is `stand_in(tensor)`; yields id(tensor) -> stand-in.

    One stand-in per tensor, so ties survive. On leaving, by whatever way, each submodule has its attributes, and
    each of their dicts and lists its entries, back: parameters, buffers, training flags, caches, and the lists of
    weights that recurrent layers keep beside their parameters. Not safe for a model that another thread runs.
    """
    saved = [_snapshot(module) for module in model.modules()]
    stand_ins: dict[int, Tensor] = {}
    try:
        for attributes, containers in saved:
            for owner in (attributes, *(c for c, _ in containers)):
                _replace_tensors(owner, stand_in, stand_ins)
            attributes["training"] = training
        yield stand_ins
    finally:
        for attributes, containers in saved:
            _restore(attributes, containers)


Containers = list[tuple[Any, Any]]  # (the live object, a copy of its entries), attributes first


def _snapshot(module: nn.Module) -> tuple[dict[str, Any], Containers]:
    attributes = module.__dict__
    containers: Containers = [(attributes, dict(attributes))]
    for value in attributes.values():
        if type(value) in _CONTAINERS:
            containers.append((value, list(value.items()) if isinstance(value, dict) else list(value)))
    return attributes, containers


def _replace_tensors(owner: Any, stand_in: Callable[[Tensor], Tensor], stand_ins: dict[int, Tensor]) -> None:
    if isinstance(owner, set):
        return
    entries = owner.items() if isinstance(owner, dict) else enumerate(owner)
    for key, tensor in list(entries) if owner else ():
        if isinstance(tensor, Tensor):
            if id(tensor) not in stand_ins:
                stand_ins[id(tensor)] = stand_in(tensor)
            owner[key] = stand_ins[id(tensor)]


def _restore(attributes: dict[str, Any], containers: Containers) -> None:
    for live, copy in containers:
        if not live and not copy:
            continue
        live.clear()
        (live.extend if isinstance(live, list) else live.update)(copy)
