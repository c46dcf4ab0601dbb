"""THE table: torch function -> what it is to the graph, and which argument is which parameter.

A layer is recognised by the function that computes it and by its arguments, never by the class of its module, so
subclasses and plain `torch.nn.functional` calls are seen alike. Functions that are not in the table are transparent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghn.errors import TraceError
from ghn.primitives import Primitive, Role
from ghn.tracing.memory import forget


class Kind(Enum):
    """How a call enters the graph; one method of `lift.Lift` each."""

    LAYER = auto()  # weight node, then bias node
    NORM = auto()  # one node for weight and bias
    TABLE = auto()  # rows of a weight looked up by index
    POOL = auto()
    MEAN = auto()  # a global average where it runs over the positions, else nothing
    ATTENTION = auto()  # softmax(q k) v in one call
    MULTIHEAD = auto()  # the same with its projections
    SUM = auto()
    CONCAT = auto()
    PRODUCT = auto()  # elementwise: gates and scales
    SUM_OF_PRODUCT = auto()
    MATMUL = auto()  # a layer where one operand is a parameter, else a product of data
    RECURRENT = auto()  # whole recurrent layers, given a list of weights
    CELL = auto()  # one step of one
    MODULE = auto()  # a user's own layer, whole
    SPREAD = auto()  # a root of a mean square, or its inverse: the first half of a norm written out
    SOFTMAX = auto()
    CONSTANT = auto()  # reads the shape of its arguments, not their numbers
    LIKE = auto()  # its first argument in the form of another
    JOIN = auto()  # anything else that several values flow into


@dataclass(frozen=True)
class Rule:
    """One row. names: the function's leading positional arguments, by the names that `lift` reads.

    op: the node's primitive, where the kind leaves a choice. axes: what the weight's leading dimensions are
    (`ghn.axes`); those after them are the kernel's. roles: of a user's layer, attribute -> role.
    """

    kind: Kind
    names: tuple[str, ...] = ()
    op: Primitive | None = None
    axes: str = "oi"
    roles: Mapping[str, Role] = field(default_factory=dict)


RULES: dict[Any, Rule] = {}


def register(layer: Callable[..., Any], rule: Rule | Mapping[str, Role]) -> None:
    """Adds or replaces a row, for this process.

    layer: a subclass of nn.Module, with the role of each of its parameters ({'kernel': Role.WEIGHT, 'shift':
    Role.BIAS}; 'part.weight' for one of a module within): in this order they become nodes between what goes into the
    module and what comes out, and what it calls is not looked at. Or a function that a `TorchFunctionMode` sees, with
    a Rule: any torch function, an operator of `torch.library`, or a function of your own that calls
    `torch.overrides.handle_torch_function`. Raises TraceError for a mapping that does not fit.
    """
    if isinstance(rule, Mapping):
        if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
            raise TraceError(f"{layer!r} is no nn.Module class; register a function with a ghn.tracing.Rule")
        odd = [name for name, role in rule.items() if role not in LAYER_ROLES]
        if odd:
            known = ", ".join(f"Role.{role.name}" for role in LAYER_ROLES)
            raise TraceError(f"{layer.__name__}.{odd[0]} has the role {rule[odd[0]]!r}; a layer's are {known}")
        rule = Rule(Kind.MODULE, roles=dict(rule))
    RULES[layer] = rule
    forget()


def rule_for(layer: type) -> type | None:
    """The registered class that a module of this class falls under, itself or the nearest above it."""
    return next((c for c in layer.__mro__ if c in RULES), None)


LAYER_ROLES = (
    Role.WEIGHT,
    Role.BIAS,
    Role.NORM_WEIGHT,
    Role.NORM_BIAS,
    Role.POSITION,
    Role.OFFSET,
    Role.SCALE,
)


def _add(rule: Rule, *names: str) -> None:
    """The same row for each spelling of a function: torch.f, Tensor.f and F.f are different objects."""
    for name in names:
        found = [getattr(owner, name) for owner in (torch, Tensor, F) if hasattr(owner, name)]
        for function in found:
            register(function, rule)


_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_POOL = ("input", "kernel")


def _layers() -> None:
    _add(Rule(Kind.LAYER, _CONV, Primitive.CONV), "conv1d", "conv2d", "conv3d")
    transposed = Rule(Kind.LAYER, _TRANSPOSED, Primitive.CONV, axes="io")
    _add(transposed, "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
    register(F.linear, Rule(Kind.LAYER, ("input", "weight", "bias"), Primitive.CONV))
    register(F.bilinear, Rule(Kind.LAYER, ("input", "other", "weight", "bias"), Primitive.CONV))
    _add(Rule(Kind.LAYER, ("input", "weight"), Primitive.CONV, axes="oio"), "grouped_mm", "_grouped_mm")
    register(F.embedding, Rule(Kind.TABLE, ("input", "weight"), Primitive.POS_ENC))
    register(F.embedding_bag, Rule(Kind.TABLE, ("input", "weight"), Primitive.POS_ENC))
    register(torch.embedding, Rule(Kind.TABLE, ("weight", "input"), Primitive.POS_ENC))


def _recurrent() -> None:
    _add(Rule(Kind.RECURRENT), "lstm", "gru", "rnn_tanh", "rnn_relu")
    cell = ("input", "state", "weight_ih", "weight_hh", "bias_ih", "bias_hh")
    _add(Rule(Kind.CELL, cell), "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")


def _norms() -> None:
    register(F.batch_norm, Rule(Kind.NORM, ("input", "running_mean", "running_var", "weight", "bias"), Primitive.BN))
    register(F.instance_norm, Rule(Kind.NORM, ("input", "running_mean", "running_var", "weight", "bias"), Primitive.BN))
    register(torch.batch_norm, Rule(Kind.NORM, ("input", "weight", "bias"), Primitive.BN))
    register(torch.instance_norm, Rule(Kind.NORM, ("input", "weight", "bias"), Primitive.BN))
    _add(Rule(Kind.NORM, ("input", "shape", "weight", "bias"), Primitive.LN), "layer_norm", "group_norm")
    _add(Rule(Kind.NORM, ("input", "shape", "weight"), Primitive.LN), "rms_norm")
    _add(Rule(Kind.SPREAD), "sqrt", "sqrt_", "rsqrt", "rsqrt_", "std", "norm")
    register(torch.linalg.vector_norm, Rule(Kind.SPREAD))


def _pools() -> None:
    for n in "123":
        _add(Rule(Kind.POOL, _POOL, Primitive.MAX_POOL), f"max_pool{n}d", f"max_pool{n}d_with_indices")
        _add(Rule(Kind.POOL, _POOL, Primitive.AVG_POOL), f"avg_pool{n}d")
        _add(Rule(Kind.POOL, ("input",), Primitive.GLOB_AVG), f"adaptive_avg_pool{n}d")
        # The window of an adaptive maximum depends on the image, so its node has no shape.
        adaptive_max = Rule(Kind.POOL, ("input",), Primitive.MAX_POOL)
        _add(adaptive_max, f"adaptive_max_pool{n}d", f"adaptive_max_pool{n}d_with_indices")
    _add(Rule(Kind.MEAN, ("input", "dim", "keepdim"), Primitive.GLOB_AVG), "mean")
    _add(Rule(Kind.MEAN, ("input", "dim", "keepdim"), Primitive.MAX_POOL), "amax")


def _attention() -> None:
    sdpa = ("query", "key", "value", "attn_mask")
    register(F.scaled_dot_product_attention, Rule(Kind.ATTENTION, sdpa, Primitive.MSA))
    register(F.multi_head_attention_forward, Rule(Kind.MULTIHEAD, _parameters(F.multi_head_attention_forward)))
    _add(Rule(Kind.SOFTMAX), "softmax")


def _parameters(function: Any) -> tuple[str, ...]:
    code = function.__code__
    return code.co_varnames[: code.co_argcount]


def _arithmetic() -> None:
    # A difference is a sum to the graph: the same two values meet.
    _add(Rule(Kind.SUM), "add", "add_", "__add__", "__iadd__", "__radd__")
    _add(Rule(Kind.SUM), "sub", "sub_", "subtract", "subtract_", "rsub", "__sub__", "__isub__", "__rsub__")
    _add(Rule(Kind.SUM), "maximum", "minimum")  # a threshold is an offset
    _add(Rule(Kind.CONCAT), "cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack")
    # Writing a token into a sequence is a concatenation by other means.
    _add(Rule(Kind.CONCAT), "where", "__setitem__", "copy_", "index_put", "index_put_")
    _add(Rule(Kind.PRODUCT), "mul", "mul_", "multiply", "multiply_", "__mul__", "__imul__", "__rmul__")
    _add(Rule(Kind.PRODUCT), "div", "div_", "true_divide", "__truediv__", "__itruediv__", "__rtruediv__", "__rdiv__")
    _add(Rule(Kind.PRODUCT), "prelu", "_weight_norm")
    _add(Rule(Kind.SUM_OF_PRODUCT, ("input", "tensor1", "tensor2")), "addcmul", "addcmul_")
    _add(Rule(Kind.MATMUL), "matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "mv", "einsum", "tensordot")
    _add(Rule(Kind.MATMUL, ("bias",)), "addmm", "baddbmm", "addbmm", "addmv")


def _shape_code() -> None:
    _add(Rule(Kind.CONSTANT), *(f"{n}_like" for n in ("zeros", "ones", "full", "empty", "rand", "randn", "randint")))
    _add(Rule(Kind.CONSTANT), *(f"new_{n}" for n in ("zeros", "ones", "full", "empty", "tensor")), "bernoulli_")
    _add(Rule(Kind.LIKE), "type_as", "expand_as", "view_as", "reshape_as", "to")


for _fill in (_layers, _recurrent, _norms, _pools, _attention, _arithmetic, _shape_code):
    _fill()
