"""What a recorded call was given, in the terms of the graph."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ghn.primitives import Primitive
from ghn.tracing.capture import Call
from ghn.tracing.rules import Rule


@dataclass(frozen=True, slots=True)
class Value:
    """Where a tensor comes from. node: its node, None unless it is data. params: the parameters it is made of,
    empty for data. scales: those of them that only multiply the others. via: the last function on the way from them,
    empty for a parameter itself. stage: how far data has come on its way through a norm that is written out."""

    node: int | None = None
    params: frozenset[int] = frozenset()
    scales: frozenset[int] = frozenset()
    via: str = ""
    stage: str = ""  # SPREAD: what to divide by; DIVIDED: normalised; SCALED: and multiplied with a parameter

    @property
    def is_data(self) -> bool:
        return self.node is not None


CONSTANT = Value()
SPREAD, DIVIDED, SCALED = "spread", "divided", "scaled"


@dataclass(frozen=True)
class Param:
    """One distinct parameter: every path it has, and its shape. kept: why it is left as it is; '' where it is not."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    numel: int
    kept: str = ""

    @property
    def fqn(self) -> str:
        return self.names[0]


def bind(call: Call, rule: Rule) -> dict[str, Any]:
    given = dict(zip(rule.names, call.args, strict=False))
    given.update(call.kwargs)
    return given


def tensor_arguments(call: Call) -> list[Tensor]:
    found: list[Tensor] = []
    todo = [*call.kwargs.values(), *reversed(call.args)] if call.kwargs else list(reversed(call.args))
    while todo:
        item = todo.pop()
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, list | tuple):
            todo.extend(reversed(item))
    return found


def convolution(weight: Tensor, given: dict[str, Any], rule: Rule) -> tuple[Primitive, bool]:
    """The node type of a layer's weight, and whether it could be a classifier: linear, or 1x1 with all inputs."""
    groups, dilation = given.get("groups", 1), given.get("dilation", 1)
    if groups > 1:
        nearest = dilation if isinstance(dilation, int) else min(dilation)
        return (Primitive.DIL_CONV if nearest > 1 else Primitive.SEP_CONV), False
    one_by_one = weight.dim() == 2 or (weight.dim() == 4 and tuple(weight.shape[2:]) == (1, 1))
    return Primitive.CONV, one_by_one and rule.axes == "oi"


def axes_of(argument: Tensor, letters: str, param: Param) -> str:
    """`ghn.axes` of a parameter, of which a layer's argument is a view, or one of a stack, with these leading axes.

    '' for the usual order, and where the parameter was taken apart in a way that is not seen.
    """
    shape = param.shape
    letters, _, groups = letters.partition("/")
    letters = letters[: argument.dim()].ljust(argument.dim(), "k")
    if argument.dim() < len(shape) and argument.numel() < param.numel:
        letters = "o" * (len(shape) - argument.dim()) + letters
    elif argument.dim() == len(shape):
        letters = _exchanged(argument, letters, param)
    else:
        letters = _spread_over(shape, argument.shape, letters)
    if groups and letters.rstrip("k") == "io":
        return f"{letters}/{groups}"
    return "" if letters[:2] == "oi" and set(letters[2:]) <= {"k"} else letters


def _exchanged(argument: Tensor, letters: str, param: Param) -> str:
    """The letter of each of the parameter's dimensions; strides tell how a view exchanged them, shapes how a copy."""
    theirs, own = _by_stride(argument.stride()), _by_stride(param.stride)
    if [argument.shape[d] for d in theirs] == [param.shape[d] for d in own]:
        return "".join(letters[theirs[own.index(d)]] for d in range(len(own)))
    return letters[::-1] if argument.shape[::-1] == param.shape else letters


def _by_stride(stride: tuple[int, ...]) -> list[int]:
    return sorted(range(len(stride)), key=lambda d: -stride[d])


def _spread_over(shape: tuple[int, ...], viewed: tuple[int, ...], letters: str) -> str:
    """The letter of each dimension in `shape`, whose neighbours were merged to `viewed`; '' where they were not."""
    found, merged, room = "", iter(zip(viewed, letters, strict=True)), 1
    letter = "k"
    for n in shape:
        while room == 1 and n > 1:
            room, letter = next(merged, (0, ""))
        if n > 1 and (not room or room % n):
            return ""
        found += letter if n > 1 else "k"
        room //= n
    return found


def einsum_axes(equation: Any, position: int) -> str:
    """The axes of a weight in an einsum: what is not in the result is summed over. '' where the equation is no text."""
    if not isinstance(equation, str) or "->" not in equation:
        return ""
    operands, result = equation.replace(" ", "").split("->")
    names = operands.split(",")[position]
    return "" if "." in names else "".join("o" if name in result else "i" for name in names)


def window(given: dict[str, Any]) -> tuple[int, ...] | None:
    """The shape (1, 1, kh, kw) of a pooling window; None if the pool is adaptive."""
    kernel = given.get("kernel", given.get("kernel_size"))
    if kernel is None:
        return None
    if isinstance(kernel, int):
        kernel = (kernel,) * (given["input"].dim() - 2)
    return (1, 1, *kernel, 1)[: max(4, 2 + len(kernel))]


def over_positions(rank: int, dim: Any, keepdim: bool) -> bool:
    """Whether a reduction over `dim` leaves one number per image and channel.

    4-D: over both spatial dimensions, channels first or last; 3-D: over the tokens in the middle, or over a
    flattened image at the end, unless the dimension is kept: that is a norm over channels written out.
    """
    if dim is None or isinstance(dim, str):
        return False
    dims = {d % rank for d in ([dim] if isinstance(dim, int) else dim)}
    if rank == 4:
        return dims in ({2, 3}, {1, 2})
    return rank == 3 and (dims == {1} or (dims == {2} and not keepdim))
