"""Lifting a recording to a draft graph: each call becomes the nodes that its row in the table says.

A value is data (it comes from one node), made of parameters alone, or constant. Calls that take one data value and
no parameter are transparent: their result comes from the same node. Where several meet, the draft gets a node that
the passes keep or dissolve.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ghn.graph import encoder_shape
from ghn.primitives import Primitive, Role
from ghn.tracing.capture import Call, Recording
from ghn.tracing.draft import INPUT, NO_SHAPE, Draft, Node
from ghn.tracing.rules import RULES, Kind, Rule


@dataclass(frozen=True, slots=True)
class Value:
    """Where a tensor comes from. node: its node, None unless it is data. params: the parameters it is made of,
    empty for data. via: the last function on the way from them, empty for a parameter itself."""

    node: int | None = None
    params: frozenset[int] = frozenset()
    via: str = ""

    @property
    def is_data(self) -> bool:
        return self.node is not None


CONSTANT = Value()


@dataclass(frozen=True)
class Param:
    """One distinct parameter: every path it has, and its shape."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    numel: int

    @property
    def fqn(self) -> str:
        return self.names[0]


def lift(recording: Recording, params: Sequence[Param]) -> Draft:
    """The draft of what was recorded. params: by the numbers that the recording uses."""
    lifting = Lift(recording, params)
    for call in recording.calls:
        lifting.take(call)
    values = [lifting.values.get(v, CONSTANT) for v in recording.outputs]
    lifting.draft.outputs = {v.node for v in values if v.node is not None}
    return lifting.draft


class Lift:
    """The state of lifting: the draft, and where each value so far comes from."""

    def __init__(self, recording: Recording, params: Sequence[Param]) -> None:
        self.draft = Draft()
        self.params = params
        self.values = {v: Value(params=frozenset({p})) for v, p in recording.parameters.items()}
        self.values |= dict.fromkeys(recording.inputs, Value(INPUT))
        self.call: Call

    def take(self, call: Call) -> None:
        """Adds the nodes of one call and notes where its results come from."""
        self.call = call
        rule = RULES.get(call.function)
        found = _LIFTED_BY[rule.kind](self, rule, _bind(call, rule)) if rule else self.join()
        for made in call.out:
            self.values[made] = found

    # What the call was given

    def value(self, tensor: Any) -> Value:
        if not isinstance(tensor, Tensor):
            return CONSTANT
        return self.values.get(self.call.values[id(tensor)], CONSTANT)

    def operands(self) -> list[Value]:
        """Its tensor arguments that are no constants. One tensor given twice counts twice."""
        found = []
        for tensor in _tensor_arguments(self.call):
            value = self.value(tensor)
            if value is not CONSTANT:
                found.append(value)
        return found

    def whole(self, tensor: Any) -> int | None:
        """The parameter that a layer's argument is, if only reshaped or renormalised on the way; None if none is."""
        params = self.value(tensor).params
        same = [p for p in params if self.params[p].numel == tensor.numel()]
        return min(same, key=lambda p: self.params[p].shape != tuple(tensor.shape)) if same else None

    # What it adds

    def add(
        self,
        kind: Kind,
        op: Primitive | None,
        operands: Iterable[Value],
        shape: Sequence[int] | None = None,
        param: int | None = None,
        role: Role | None = None,
    ) -> int:
        """A node fed by the data among the operands, or by `input` if there is none; offsets ride on it."""
        operands = list(operands)
        sources = [{v.node} for v in operands if v.node is not None]
        fqn = "" if param is None else self.params[param].fqn
        node = Node(kind, op, sources or [{INPUT}], fqn, self.call.path, encoder_shape(shape) if shape else NO_SHAPE)
        node.slots = [(param, role)] if param is not None and role is not None else []
        node.slots += [(p, Role.OFFSET) for v in operands for p in sorted(v.params)]
        return self.draft.add(node)

    def lose(self, node: int, value: Value, but: int | None = None) -> None:
        """Notes that no rule covers how these parameters get into the node."""
        through = f"`{value.via}` and " if value.via and value.via != self.call.name else ""
        reason = f"it takes part through {through}`{self.call.name}`, for which there is no rule"
        self.draft.nodes[node].lost += [(p, reason) for p in sorted(value.params) if p != but]

    # One method per kind. Each returns where the results come from.

    def join(self, *_: Any) -> Value:
        """Any other function: transparent unless several values meet."""
        operands = self.operands()
        sources = {v.node for v in operands if v.node is not None}
        if not sources:
            return self._of_parameters(operands)
        if len(sources) == 1 and not any(v.params for v in operands):
            return Value(sources.pop())
        node = self.add(Kind.JOIN, None, [v for v in operands if v.is_data])
        for value in operands:
            self.lose(node, value)
        return Value(node)

    def constant(self, *_: Any) -> Value:
        return CONSTANT

    def like(self, *_: Any) -> Value:
        value = self.value(self.call.args[0])
        return value if value.is_data else self._of_parameters([value])

    def _of_parameters(self, operands: Iterable[Value]) -> Value:
        params = frozenset().union(*(v.params for v in operands))
        return Value(params=params, via=self.call.name) if params else CONSTANT

    def layer(self, rule: Rule, given: dict[str, Any]) -> Value:
        inputs = [self.value(given.get("input")), self.value(given.get("other"))]
        weight, bias = given["weight"], given.get("bias")
        if self.value(weight).is_data:
            return self.matmul(rule, given)  # weights that the network computes: a product of data
        op, classifies = _convolution(weight, given, rule)
        node = self._weighted(op, inputs, weight, classifies)
        return self._biased(node, bias)

    def _weighted(self, op: Primitive, inputs: Sequence[Value], weight: Any, classifies: bool = False) -> Value:
        """The node of a weight; the input's own where the weight is no parameter."""
        value = self.value(weight)
        if not value.params:
            sources = [v for v in inputs if v.is_data]
            return sources[0] if len(sources) == 1 else Value(self.add(Kind.JOIN, None, inputs))
        param = self.whole(weight)
        shape = tuple(weight.shape) if param is None else self.params[param].shape
        node = self.add(Kind.LAYER, op, inputs, shape, param, Role.WEIGHT)
        self.draft.nodes[node].classifies = classifies and len(shape) in (2, 4)
        self.lose(node, value, but=param)
        return Value(node)

    def _biased(self, below: Value, bias: Any) -> Value:
        value = self.value(bias)
        if value.is_data:
            return Value(self.add(Kind.JOIN, None, [below, value]))
        if not value.params:
            return below
        param = self.whole(bias)
        shape = tuple(bias.shape) if param is None else self.params[param].shape
        node = self.add(Kind.LAYER, Primitive.BIAS, [below], shape, param, Role.BIAS)
        self.lose(node, value, but=param)
        return Value(node)

    def norm(self, rule: Rule, given: dict[str, Any]) -> Value:
        data, weight, bias = (self.value(given.get(k)) for k in ("input", "weight", "bias"))
        if weight.is_data or bias.is_data:
            return self.join()
        if data.params and rule.op is Primitive.BN:
            return self._of_parameters([data, weight, bias])  # weights standardised by a batch norm over them
        if not (weight.params or bias.params):
            return data if data.is_data else self._of_parameters([data])
        first = given["weight"] if weight.params else given["bias"]
        param, shift = self.whole(given.get("weight")), self.whole(given.get("bias"))
        shape = tuple(first.shape)
        node = self.add(Kind.NORM, rule.op, [data], shape, param, Role.NORM_WEIGHT)
        if shift is not None:
            self.draft.nodes[node].slots.append((shift, Role.NORM_BIAS))
        self.lose(node, weight, but=param)
        self.lose(node, bias, but=shift)
        return Value(node)

    def table(self, rule: Rule, given: dict[str, Any]) -> Value:
        index, weight = self.value(given["input"]), self.value(given["weight"])
        if not weight.params:
            return self.join()
        param = self.whole(given["weight"])
        shape = tuple(given["weight"].shape)
        node = self.add(Kind.TABLE, rule.op, [index], shape, param, Role.POSITION)
        if not index.is_data:
            self.draft.nodes[node].operands = []  # looked up by position: a source
            self.draft.consumers[INPUT].discard(node)
        self.lose(node, weight, but=param)
        return Value(node)

    def pool(self, rule: Rule, given: dict[str, Any]) -> Value:
        data = self.value(given["input"])
        if not data.is_data:
            return self.join()
        return Value(self.add(Kind.POOL, rule.op, [data], _window(given)))

    def mean(self, rule: Rule, given: dict[str, Any]) -> Value:
        data = self.value(given["input"])
        over_positions = _over_positions(given["input"].dim(), given.get("dim"), given.get("keepdim", False))
        if not (data.is_data and over_positions):
            return self.join()
        return Value(self.add(Kind.POOL, rule.op, [data]))

    def attention(self, rule: Rule, given: dict[str, Any]) -> Value:
        values = [self.value(given.get(k)) for k in ("query", "key", "value")]
        mask = self.value(given.get("attn_mask"))
        if not any(v.is_data for v in values):
            return self.join()
        if mask.node != INPUT:  # a mask among the inputs says which tokens count, nothing of the architecture
            values.append(mask)
        return Value(self.add(Kind.ATTENTION, rule.op, values))

    def multihead(self, rule: Rule, given: dict[str, Any]) -> Value:
        inputs = [self.value(given[k]) for k in ("query", "key", "value")]
        if given.get("use_separate_proj_weight"):
            weights = [given[k] for k in ("q_proj_weight", "k_proj_weight", "v_proj_weight")]
            projected = [self._weighted(Primitive.CONV, [x], w) for x, w in zip(inputs, weights, strict=True)]
        else:
            projected = [self._weighted(Primitive.CONV, inputs, given["in_proj_weight"])]
        if self.value(given.get("in_proj_bias")).params:
            node = self.add(Kind.JOIN, None, projected) if len(projected) > 1 else projected[0].node
            projected = [self._biased(Value(node), given["in_proj_bias"])]
        extra = [self.value(given.get(k)) for k in ("bias_k", "bias_v", "attn_mask")]
        extra = [v for v in extra if v.node != INPUT]
        attention = Value(self.add(Kind.ATTENTION, Primitive.MSA, [*projected, *extra]))
        out = self._weighted(Primitive.CONV, [attention], given["out_proj_weight"], classifies=True)
        return self._biased(out, given.get("out_proj_bias"))

    def sum(self, *_: Any) -> Value:
        operands = self.operands()
        data = [v for v in operands if v.is_data]
        added = [v for v in operands if v.params]
        if len(data) == 1 and len(added) == 1 and self._is_bias(data[0], added[0]):
            tensor = next(t for t in _tensor_arguments(self.call) if self.value(t) is added[0])
            return self._biased(data[0], tensor)
        return self._meet(Kind.SUM, operands)

    def _is_bias(self, data: Value, added: Value) -> bool:
        """Whether a vector is added to what a weight without a bias gives: a layer written out."""
        node = self.draft.nodes[data.node or INPUT]
        if node.kind is not Kind.LAYER or node.op is Primitive.BIAS or len(added.params) != 1:
            return False
        numel = self.params[min(added.params)].numel
        result = self.call.result
        channels = (result.shape[-1], result.shape[min(1, result.dim() - 1)]) if isinstance(result, Tensor) else ()
        return numel > 1 and numel in channels and len(self.params[min(added.params)].shape) == 1

    def concat(self, *_: Any) -> Value:
        return self._meet(Kind.CONCAT, self.operands())

    def _meet(self, kind: Kind, operands: list[Value]) -> Value:
        data = {v.node for v in operands if v.is_data}
        if not data:
            return self._of_parameters(operands)
        if len(data) == 1 and not any(v.params for v in operands):
            return Value(data.pop())
        return Value(self.add(kind, None, operands))

    def product(self, *_: Any) -> Value:
        value = self._meet(Kind.PRODUCT, self.operands())
        if value.is_data:
            node = self.draft.nodes[value.node or INPUT]
            node.slots = [(p, Role.SCALE if role is Role.OFFSET else role) for p, role in node.slots]
        return value

    def matmul(self, rule: Rule, given: dict[str, Any]) -> Value:
        added = given.get("bias") if rule.kind in (Kind.MATMUL, Kind.LAYER) else None
        factors = [t for t in _tensor_arguments(self.call) if t is not added]
        data = [v for v in map(self.value, factors) if v.is_data]
        weights = [t for t in factors if self.value(t).params]
        if not data:
            return self._of_parameters(self.operands())
        if weights and weights[0].dim() > 1:
            node = self._weighted(Primitive.CONV, data, weights[0]).node
            for tensor in weights[1:]:
                self.lose(node or INPUT, self.value(tensor))
            return self._biased(Value(node), added)
        if weights:  # a vector: it scales
            node = self.add(Kind.PRODUCT, None, data)
            self.draft.nodes[node].slots = [(p, Role.SCALE) for t in weights for p in self.value(t).params]
            return self._biased(Value(node), added)
        if len(data) == 1:
            return self._biased(data[0], added)
        return self._biased(Value(self.add(Kind.MATMUL, None, data)), added)

    def softmax(self, *_: Any) -> Value:
        data = [v for v in self.operands() if v.is_data]
        return Value(self.add(Kind.SOFTMAX, None, data)) if data else self.join()


_LIFTED_BY: dict[Kind, Callable[[Lift, Rule, dict[str, Any]], Value]] = {
    kind: getattr(Lift, kind.name.lower()) for kind in Kind
}


def _bind(call: Call, rule: Rule) -> dict[str, Any]:
    given = dict(zip(rule.names, call.args, strict=False))
    given.update(call.kwargs)
    return given


def _tensor_arguments(call: Call) -> list[Tensor]:
    found: list[Tensor] = []
    todo = [*call.kwargs.values(), *reversed(call.args)] if call.kwargs else list(reversed(call.args))
    while todo:
        item = todo.pop()
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, list | tuple):
            todo.extend(reversed(item))
    return found


def _convolution(weight: Tensor, given: dict[str, Any], rule: Rule) -> tuple[Primitive, bool]:
    """The node type of a layer's weight, and whether it could be a classifier: linear, or 1x1 with all inputs."""
    groups, dilation = given.get("groups", 1), given.get("dilation", 1)
    if groups > 1:
        nearest = dilation if isinstance(dilation, int) else min(dilation)
        return (Primitive.DIL_CONV if nearest > 1 else Primitive.SEP_CONV), False
    one_by_one = weight.dim() == 2 or (weight.dim() == 4 and tuple(weight.shape[2:]) == (1, 1))
    return Primitive.CONV, one_by_one and not rule.transposed


def _window(given: dict[str, Any]) -> tuple[int, ...] | None:
    """The shape (1, 1, kh, kw) of a pooling window; None if the pool is adaptive."""
    kernel = given.get("kernel", given.get("kernel_size"))
    if kernel is None:
        return None
    if isinstance(kernel, int):
        kernel = (kernel,) * (given["input"].dim() - 2)
    return (1, 1, *kernel, 1)[: max(4, 2 + len(kernel))]


def _over_positions(rank: int, dim: Any, keepdim: bool) -> bool:
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
