"""Running a module under a recorder: module + input -> the torch functions it calls and the tensors between them.

The module runs on meta tensors, which have shapes and no numbers; where its code asks for numbers, on fake tensors,
and at last for real. It is lent (`borrow`) with stand-ins for its parameters and comes back as it was.
"""

import logging
import random
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from operator import attrgetter
from types import MethodWrapperType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode

from ghn.errors import TraceError
from ghn.tracing.borrow import borrowed, modules_of
from ghn.tracing.inputs import map_tensors, tensors_in
from ghn.tracing.repeats import Repeats
from ghn.tracing.rules import RULES, rule_for
from ghn.tracing.shapes import SHORTCUTS

Paths = Mapping[int, tuple[nn.Module, str]]  # id of a module -> the module and its first path
LARGEST = 4 * 2**30  # bytes of parameters: a module with more is never run for real


@dataclass(slots=True)
class Call:
    """One call of a torch function. values: id of each tensor argument -> its value; out: the values it made."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    values: dict[int, int]
    out: tuple[int, ...]
    result: Any
    path: str

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", str(self.function))


@dataclass
class Recording:
    """What ran: calls in order, and which values are inputs, outputs and parameters (value -> number).

    orphans: tensors that came from nowhere, such as a cache filled before, or from memory that nobody filled: what a
    compiled function gives on meta tensors.
    """

    calls: list[Call] = field(default_factory=list)
    inputs: set[int] = field(default_factory=set)
    outputs: list[int] = field(default_factory=list)
    parameters: dict[int, int] = field(default_factory=dict)
    orphans: int = 0


class Recorder(TorchFunctionMode):
    """Writes each torch function called in its scope into `recording`.

    A value is what a tensor holds between two writes: writing in place gives the tensor, its base, and the views of
    that base a new value each.
    """

    def __init__(self, meta: bool) -> None:
        super().__init__()
        self.recording = Recording()
        self.path: list[tuple[nn.Module, str]] = []
        self.inside = False  # a torch function is running: what it calls is no call of the module
        self.layer: nn.Module | None = None  # a registered layer is running: one call, whatever it calls
        self._meta = meta
        self._shortcuts = SHORTCUTS if meta else {}
        self._repeats = Repeats()
        self._values: dict[int, int] = {}
        self._kept: list[Any] = []  # an id names a tensor only while the tensor lives
        self._written: dict[int, int] = {}  # id of a base -> its value since the last write in place

    def introduce(self, tensor: Tensor) -> int:
        """A new value for a tensor, from outside or just computed."""
        self._kept.append(tensor)
        self._values[id(tensor)] = len(self._kept)
        return len(self._kept)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self.layer is not None:
            return func(*args, **kwargs)
        if type(func) is MethodWrapperType:  # a property: shape, dtype, device, T, data
            out = func(*args, **kwargs)
            if isinstance(out, Tensor):
                self._record(func, args, kwargs, _tensors(args), out)
            return out
        if self._meta and func in _device_constructors():
            kwargs = {**kwargs, "device": "meta"}
        shortcut = self._shortcuts.get(func)
        out = shortcut(*args, **kwargs) if shortcut else None
        if out is None:
            self.inside = True
            try:
                out = self._repeats.call(func, args, kwargs) if self._meta else func(*args, **kwargs)
            finally:
                self.inside = False
        self.recording.orphans += func in _UNFILLED and not self.inside
        name = getattr(func, "__name__", "")
        writes = (name[-1:] == "_" and name[-2:] != "__") or name in _WRITERS or "out" in kwargs
        if writes or isinstance(out, Tensor | tuple | list):
            ins = _tensors(args) + _tensors(kwargs.values()) if kwargs else _tensors(args)
            self._record(func, args, kwargs, ins, out, writes)
        return out

    def take_layer(self, kind: type, module: nn.Module, args: tuple, kwargs: dict, out: Any) -> None:
        """Notes the call of a registered layer; its parameters are further keyword arguments."""
        known = dict(module.named_parameters()) | {name: attrgetter(name)(module) for name in RULES[kind].roles}
        ins = _tensors(args) + _tensors(kwargs.values()) + _tensors(known.values())
        self._record(kind, args, kwargs | known, ins, out)

    def take_operator(self, operator: Any, args: tuple, kwargs: dict, out: Any) -> None:
        """Notes an operator that ran outside any torch function, as compiled functions run theirs."""
        ins = _tensors(args) + _tensors(kwargs.values())
        self._record(operator.overloadpacket, args, kwargs, ins, out, operator._schema.is_mutable)

    def _record(self, func: Any, args: tuple, kwargs: dict, ins: list[Tensor], out: Any, writes: bool = False) -> None:
        outs = _tensors((out,))
        if func not in RULES and ins and any(t is ins[0] for t in outs) and all(t is ins[0] for t in ins):
            return  # an activation in place, or nothing done at all: the value's origin stays
        values = {id(t): self._read(t) for t in ins}
        if writes:
            outs = outs or ins[:1]
        elif not outs:
            return
        # A list may grow after the call: keep what it held.
        args = tuple(list(a) if isinstance(a, list) else a for a in args)
        made = tuple(self.introduce(t) for t in outs)
        self.recording.calls.append(Call(func, args, kwargs, values, made, out, self.where))
        if writes:
            self._write_through(outs[0])

    def _read(self, tensor: Tensor) -> int:
        value = self._values.get(id(tensor))
        if value is None:
            self.recording.orphans += tensor.dim() > 0
            return self.introduce(tensor)
        if self._written and tensor._base is not None and self._written.get(id(tensor._base), 0) > value:
            return self._merge(tensor, tensor._base)
        return value

    def _write_through(self, target: Tensor) -> None:
        base = target if target._base is None else target._base
        value = self._values[id(target)] if base is target else self._merge(base, target)
        self._written[id(base)] = value
        if base is not target:
            self._values[id(target)] = self.introduce(target)
            self.recording.calls[-1].out += (self._values[id(target)],)

    def _merge(self, tensor: Tensor, other: Tensor) -> int:
        """A new value for a tensor that shares memory with one just written: what either held."""
        values = {id(t): self._values.get(id(t), 0) or self.introduce(t) for t in (tensor, other)}
        made = self.introduce(tensor)
        self.recording.calls.append(Call(_merge, (tensor, other), {}, values, (made,), None, self.where))
        return made

    @property
    def where(self) -> str:
        """Path of the innermost module that is running."""
        return self.path[-1][1] if self.path else ""


class Net(TorchDispatchMode):
    """Catches the operators that no torch function announced to the recorder; without it their results are orphans."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self._recorder.inside and self._recorder.layer is None:
            self._recorder.take_operator(func, args, kwargs or {}, out)
        return out


def _merge(tensor: Tensor, other: Tensor) -> None:
    """Stands in a recording for the sharing of memory."""


_UNFILLED = frozenset(
    {
        torch.empty,
        torch.empty_like,
        torch.empty_strided,
        torch.empty_permuted,
        Tensor.new_empty,
        Tensor.new_empty_strided,
    }
)
_WRITERS = frozenset({"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"})


def _tensors(values: Any) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


@dataclass(frozen=True)
class Attempt:
    """One way of running a module: a name for messages, a context, and stand-ins for the tensors."""

    name: str
    context: Callable[[], Any]
    parameter: Callable[[Tensor], Tensor]
    other: Callable[[Tensor], Tensor]
    input: Callable[[Tensor], Tensor]
    net: bool = False  # also see operators outside torch functions; slower

    @property
    def meta(self) -> bool:
        return self.name == "meta"


def attempts(model: nn.Module) -> Iterator[Attempt]:
    """The ways of running this module, cheapest first; for real only where its numbers fit into memory again."""
    yield Attempt("meta", nullcontext, _on_meta, _on_meta, _on_meta)
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def fake(tensor: Tensor) -> Tensor:
        with mode:
            return torch.empty(tensor.shape, dtype=tensor.dtype)

    yield Attempt("fake", lambda: _quiet(mode), fake, _copy, fake)
    if sum(p.numel() * p.element_size() for p in model.parameters()) <= LARGEST:
        yield Attempt("real", nullcontext, _copy, _copy, _real)


@contextmanager
def _quiet(mode: FakeTensorMode) -> Generator[None]:
    """The mode, without the tracebacks that torch logs for errors that we report."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        with mode:
            yield
    finally:
        logger.disabled = before


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _copy(tensor: Tensor) -> Tensor:
    """A copy; zeros for what a module built on meta never had, since mixed devices would fail whatever it does."""
    return torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor.detach().clone()


def _real(tensor: Tensor) -> Tensor:
    return torch.rand(tensor.shape).to(tensor.dtype) if tensor.is_meta else tensor.detach().clone()


def record(model: nn.Module, args: tuple, kwargs: dict, training: bool, attempt: Attempt) -> Recording:
    """What `model(*args, **kwargs)` calls in the given mode. The model and the random state stay as they were.

    Raises TraceError naming the module that was running when it failed.
    """
    recorder = Recorder(attempt.meta)
    paths = modules_of(model)
    modules = [module for module, _ in paths.values()]
    parameters: dict[int, int] = {}
    for p in (p for module in modules for p in module._parameters.values() if p is not None):
        parameters.setdefault(id(p), len(parameters))

    def stand_in(tensor: Tensor) -> Tensor:
        if type(tensor) is Tensor or not isinstance(tensor, nn.Parameter):  # the second check takes long
            return attempt.other(tensor)
        return nn.Parameter(attempt.parameter(tensor), requires_grad=tensor.requires_grad)

    with torch.no_grad(), _random_state(), borrowed(modules, stand_in, training) as stand_ins:
        args, kwargs = map_tensors((args, kwargs), attempt.input)
        for original, tensor in stand_ins.items():
            value = recorder.introduce(tensor)
            if original in parameters:
                recorder.recording.parameters[value] = parameters[original]
        recorder.recording.inputs = {recorder.introduce(t) for t in tensors_in((args, kwargs))}
        out = _run(model, args, kwargs, recorder, paths, attempt)
        recorder.recording.outputs = [recorder._read(t) for t in tensors_in(out)]
    return recorder.recording


def _run(
    model: nn.Module,
    args: tuple,
    kwargs: dict,
    recorder: Recorder,
    paths: Paths,
    attempt: Attempt,
) -> Any:
    try:
        net = Net(recorder) if attempt.net else nullcontext()
        with attempt.context(), _module_paths(paths, recorder), net, recorder:
            return model(*args, **kwargs)
    except Exception as error:
        where = f"in module {recorder.where!r} " if recorder.where else ""
        reason = str(error).strip().split("\n")[0] or "no message"
        raise TraceError(
            f"{type(model).__name__} could not be traced: {where}{type(error).__name__}: {reason} "
            "(pass example_input or image_size if the input was wrong)"
        ) from error


@contextmanager
def _random_state() -> Generator[None]:
    with torch.random.fork_rng(devices=[]):
        state = random.getstate()
        try:
            yield
        finally:
            random.setstate(state)


@contextmanager
def _module_paths(paths: Paths, recorder: Recorder) -> Generator[None]:
    running = recorder.path
    layers = {kind: rule_for(kind) for kind in {type(module) for module, _ in paths.values()}}

    def enter(module: nn.Module, _: Any) -> None:
        if id(module) in paths:
            running.append(paths[id(module)])
        if recorder.layer is None and _layer(module):
            recorder.layer = module

    def leave(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        if module is recorder.layer and (kind := _layer(module)):
            recorder.layer = None
            recorder.take_layer(kind, module, args, kwargs, out)
        while running and id(module) in paths and running.pop()[0] is not module:
            pass  # a call within that raised and was caught never left

    def _layer(module: nn.Module) -> type | None:
        kind = type(module)
        if kind not in layers:  # made while the network runs
            layers[kind] = rule_for(kind)
        return layers[kind]

    handles = register_module_forward_pre_hook(enter), register_module_forward_hook(leave, with_kwargs=True)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
