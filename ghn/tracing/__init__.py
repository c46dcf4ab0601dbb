"""nn.Module -> ArchGraph: record what runs (`capture`), lift it by the table (`rules`, `lift`), rewrite (`passes`)."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from ghn.errors import TraceError
from ghn.garbage import uncollected
from ghn.graph import ArchGraph
from ghn.primitives import Role
from ghn.tracing.arguments import Param
from ghn.tracing.capture import Attempt, Recording, attempts, record
from ghn.tracing.coverage import finish, reasons
from ghn.tracing.inputs import Call, candidates
from ghn.tracing.lift import lift
from ghn.tracing.memory import forget, keep, key_of, recall
from ghn.tracing.passes import PASSES, prune
from ghn.tracing.rules import RULES, Kind, Rule, register

__all__ = ["Kind", "Role", "Rule", "forget", "register", "trace"]


def trace(model: nn.Module, example_input: Any = None, image_size: int | None = None) -> ArchGraph:
    """The graph of what `model` computes in evaluation; nothing is computed where the module allows it.

    example_input: a tensor, or a tuple of positional or a dict of keyword arguments; by default images of image_size
    (`inputs.candidates` says which sizes are tried without one). Parameters that evaluation does not use, such as
    auxiliary heads, are looked for in training mode. The module is as before afterwards, its random state too.
    Parameters that are frozen or no floating point numbers, as quantised ones, are left alone and listed as such.
    A module built like one of those traced last gets their graph (`memory`; `forget` drops them).
    Raises TraceError for parameters without a shape, and where the module cannot be run.
    """
    with uncollected():
        key = key_of(model, example_input, image_size, len(RULES))
        graph = recall(key)
        if graph is None:
            params = _parameters(model)
            graph, way = _trace(model, params, lambda: candidates(model, example_input, image_size))
            if key is not None and way.meta:  # other ways may depend on the module's numbers
                keep(key, graph)
    return graph


def _trace(model: nn.Module, params: list[Param], inputs: Callable[[], Iterator[Call]]) -> tuple[ArchGraph, Attempt]:
    recording, way = _recorded(model, inputs(), attempts(model), training=False)
    if recording.orphans:
        way = replace(way, net=True)
        recording, way = _recorded(model, inputs(), [way], training=False)
    graph = _graph(recording, params)
    if recording.orphans or any(not u.used for u in graph.uncovered):
        graph = _in_training(model, inputs(), way, params, graph)
    return graph, way


def _parameters(model: nn.Module) -> list[Param]:
    names: dict[int, list[str]] = {}
    params: list[nn.Parameter] = []
    for name, p in model.named_parameters(remove_duplicate=False):
        if id(p) in names:
            names[id(p)].append(name)
            continue
        if is_lazy(p):
            raise TraceError(f"parameter {name!r} has no shape yet; run {type(model).__name__} once on an input first")
        names[id(p)] = [name]
        params.append(p)
    # Where all are frozen nobody meant a part of them: the network is only not to be trained now.
    some = any(p.requires_grad for p in params)
    return [
        Param(tuple(names[id(p)]), tuple(p.shape), p.stride(), p.numel(), _kept(p, frozen=some and not p.requires_grad))
        for p in params
    ]


def _kept(parameter: nn.Parameter, frozen: bool) -> str:
    if not parameter.is_floating_point():
        return f"left as it is: {parameter.dtype}, and only floating point numbers are predicted"
    return "left as it is: frozen (requires_grad is False)" if frozen else ""


def _recorded(
    model: nn.Module, inputs: Iterable[Call], ways: Iterable[Attempt], training: bool
) -> tuple[Recording, Attempt]:
    """The first way and input that work. Raises the error of the first input, the most likely one, in the last way."""
    inputs = list(inputs)
    failures: list[TraceError] = []
    for way in ways:
        failures.clear()
        for args, kwargs in inputs:
            try:
                return record(model, args, kwargs, training, way), way
            except TraceError as error:
                failures.append(error)
    raise failures[0]


def _graph(recording: Recording, params: list[Param]) -> ArchGraph:
    draft = lift(recording, params)
    if not draft.outputs:
        raise TraceError("the outputs do not depend on the input: return a tensor computed from it")
    prune(draft, params)
    why = reasons(recording, draft)
    for rewrite in PASSES:
        rewrite(draft, params)
    return finish(draft, params, why)


def _in_training(
    model: nn.Module, inputs: Iterable[Call], way: Attempt, params: list[Param], graph: ArchGraph
) -> ArchGraph:
    """The graph in training mode if it covers more parameters, else the given one."""
    try:
        recording, _ = _recorded(model, inputs, [way], training=True)
        other = _graph(recording, params)
    except TraceError:
        return graph  # a network that cannot be trained as it is may still be right in evaluation
    return other if len(other.slots) > len(graph.slots) else graph
