"""Lifting a recording to a draft graph: each call becomes the nodes that its row in the table says.

A value is data (it comes from one node), made of parameters alone, or constant. Calls that take one data value and
no parameter are transparent: their result comes from the same node. Where several meet, the draft gets a node that
the passes keep or dissolve.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ghn.axes import outputs_first
from ghn.graph import encoder_shape
from ghn.primitives import Primitive, Role
from ghn.tracing.arguments import (
    CONSTANT,
    DIVIDED,
    SCALED,
    SPREAD,
    Param,
    Value,
    axes_of,
    bind,
    convolution,
    einsum_axes,
    over_positions,
    tensor_arguments,
    window,
)
from ghn.tracing.capture import Call, Recording
from ghn.tracing.draft import INPUT, NO_SHAPE, Draft, Node
from ghn.tracing.rules import RULES, Kind, Rule


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
        found = _LIFTED_BY[rule.kind](self, rule, bind(call, rule)) if rule else self.join()
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
        for tensor in tensor_arguments(self.call):
            value = self.value(tensor)
            if value is not CONSTANT:
                found.append(value)
        return found

    def whole(self, tensor: Any) -> int | None:
        """The parameter that a layer's argument is, if only reshaped or renormalised on the way; None if none is."""
        params = self.value(tensor).params
        if not params:
            return None
        same = [p for p in params if self.params[p].numel == tensor.numel()]
        return min(same, key=lambda p: self.params[p].shape != tuple(tensor.shape)) if same else None

    def source(self, tensor: Any) -> int | None:
        """The parameter that a layer's argument is, or is a piece of: a third of a projection, one of a stack."""
        found, value = self.whole(tensor), self.value(tensor)
        if found is None and value.via in _PIECES and len(value.params) == 1:
            return min(value.params)
        return found

    # What it adds

    def add(
        self,
        kind: Kind,
        op: Primitive | None,
        operands: Iterable[Value],
        shape: Sequence[int] | None = None,
        fqn: str = "",
    ) -> int:
        """A node fed by the data among the operands, or by `input` if there is none; offsets ride on it."""
        operands = list(operands)
        sources = [{v.node} for v in operands if v.node is not None]
        node = Node(kind, op, sources or [{INPUT}], fqn, self.call.path, encoder_shape(shape) if shape else NO_SHAPE)
        node.slots = [(p, Role.OFFSET) for v in operands for p in sorted(v.params)]
        return self.draft.add(node)

    def add_weight(
        self, kind: Kind, op: Primitive, operands: Iterable[Value], argument: Tensor, role: Role, letters: str = ""
    ) -> int:
        """A node that stands for a layer's argument. letters: its axes, where it is a weight."""
        source = self.source(argument)
        param = None if source is None else self.params[source]
        axes = axes_of(argument, letters, param) if letters and param else ""
        shape = param.shape if param else tuple(argument.shape)
        node = self.add(kind, op, operands, outputs_first(shape, axes), param.fqn if param else "")
        self.draft.nodes[node].axes = axes
        self.fill(node, argument, role)
        return node

    def fill(self, node: int, argument: Any, role: Role) -> None:
        """Puts the parameters that a layer's argument is made of on its node: the argument itself or the parts it is
        concatenated from in this role, what they are multiplied with as scales. Other ways in have no rule."""
        value = self.value(argument)
        main = self.source(argument)
        parts = {main} if main is not None else value.params if value.via in _CONCATENATIONS else set()
        slots = self.draft.nodes[node].slots
        slots += [(p, role) for p in sorted(parts) if len(self.params[p].shape) == argument.dim() or p == main]
        scales = value.scales - parts
        slots += [(p, Role.SCALE) for p in sorted(scales)]
        self.lose(node, value, {p for p, _ in slots})

    def lose(self, node: int, value: Value, but: set[int]) -> None:
        """Notes that no rule covers how these parameters get into the node."""
        lost = value.params - but
        if not lost:
            return
        through = f"`{value.via}` and " if value.via and value.via != self.call.name else ""
        where = f" in module {self.call.path!r}" if self.call.path else ""
        reason = f"it takes part through {through}`{self.call.name}`{where}, for which there is no rule"
        self.draft.nodes[node].lost += [(p, reason) for p in sorted(lost)]

    def shape_of(self, argument: Tensor) -> tuple[int, ...]:
        """The parameter's own shape where a layer's argument is one, else the argument's."""
        param = self.source(argument)
        return tuple(argument.shape) if param is None else self.params[param].shape

    # One method per kind. Each returns where the results come from.

    def join(self, *_: Any) -> Value:
        """Any other function: transparent unless several values meet."""
        operands = self.operands()
        sources = {v.node for v in operands if v.node is not None}
        if not sources:
            return self._of_parameters(operands)
        if len(sources) == 1 and not any(v.params for v in operands):
            return self._through(operands)
        node = self.add(Kind.JOIN, None, [v for v in operands if v.is_data])
        for value in operands:
            self.lose(node, value, set())
        return Value(node)

    def _through(self, operands: Sequence[Value]) -> Value:
        """The one node that these come from; as far on the way through a norm as the only operand was."""
        first = operands[0]
        kept = len(operands) == 1 and (first.stage == SPREAD or self.call.name in _CASTS)
        return first if kept else Value(first.node)

    def constant(self, *_: Any) -> Value:
        return CONSTANT

    def like(self, *_: Any) -> Value:
        value = self.value(self.call.args[0])
        return value if value.is_data else self._of_parameters([value])

    def _of_parameters(self, operands: Iterable[Value], scales: Iterable[Value] = ()) -> Value:
        operands, scales = list(operands), list(scales)
        params = frozenset().union(*(v.params for v in (*operands, *scales)))
        scaling = frozenset().union(*(v.scales for v in operands), *(v.params for v in scales))
        return Value(params=params, scales=scaling, via=self.call.name) if params else CONSTANT

    def layer(self, rule: Rule, given: dict[str, Any]) -> Value:
        inputs = [self.value(given.get("input")), self.value(given.get("other"))]
        weight, bias = given["weight"], given.get("bias")
        if self.value(weight).is_data:
            return self.matmul(rule, given)  # weights that the network computes: a product of data
        op, classifies = convolution(weight, given, rule)
        letters, groups = rule.axes, given.get("groups", 1)
        if letters == "io" and groups > 1:  # one channel each: no output sums over several
            letters = "oo" if groups == weight.shape[0] else f"io/{groups}"
        node = self._weighted(op, inputs, weight, classifies, letters)
        return self._biased(node, bias)

    def _weighted(
        self, op: Primitive, inputs: Sequence[Value], weight: Any, classifies: bool = False, letters: str = "oi"
    ) -> Value:
        """The node of a weight; the input's own where the weight is no parameter."""
        value = self.value(weight)
        if not value.params:
            sources = [v for v in inputs if v.is_data]
            return sources[0] if len(sources) == 1 else Value(self.add(Kind.JOIN, None, inputs))
        node = self.add_weight(Kind.LAYER, op, inputs, weight, Role.WEIGHT, letters)
        self.draft.nodes[node].classifies = classifies and len(self.shape_of(weight)) in (2, 4)
        return Value(node)

    def _biased(self, below: Value, bias: Any) -> Value:
        value = self.value(bias)
        if value.is_data:
            return Value(self.add(Kind.JOIN, None, [below, value]))
        if not value.params:
            return below
        return Value(self.add_weight(Kind.LAYER, Primitive.BIAS, [below], bias, Role.BIAS))

    def norm(self, rule: Rule, given: dict[str, Any]) -> Value:
        data, weight, bias = (self.value(given.get(k)) for k in ("input", "weight", "bias"))
        if weight.is_data or bias.is_data:
            return self.join()
        if data.params and rule.op is Primitive.BN:
            return self._of_parameters([data, bias], scales=[weight])  # weights standardised by a batch norm over them
        if not (weight.params or bias.params):
            return data if data.is_data else self._of_parameters([data])
        op = rule.op or Primitive.LN
        if not weight.params:
            return Value(self.add_weight(Kind.NORM, op, [data], given["bias"], Role.NORM_BIAS))
        node = self.add_weight(Kind.NORM, op, [data], given["weight"], Role.NORM_WEIGHT)
        if bias.params:
            self.fill(node, given["bias"], Role.NORM_BIAS)
        return Value(node)

    def table(self, rule: Rule, given: dict[str, Any]) -> Value:
        index, weight = self.value(given["input"]), self.value(given["weight"])
        if not weight.params:
            return self.join()
        node = self.add_weight(Kind.TABLE, Primitive.POS_ENC, [index], given["weight"], Role.POSITION)
        if not index.is_data:
            self.draft.nodes[node].operands = []  # looked up by position: a source
            self.draft.consumers[INPUT].discard(node)
        return Value(node)

    def pool(self, rule: Rule, given: dict[str, Any]) -> Value:
        data = self.value(given["input"])
        if not data.is_data:
            return self.join()
        return Value(self.add(Kind.POOL, rule.op, [data], window(given)))

    def mean(self, rule: Rule, given: dict[str, Any]) -> Value:
        data = self.value(given["input"])
        globally = over_positions(given["input"].dim(), given.get("dim"), given.get("keepdim", False))
        if not (data.is_data and globally):
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

    def recurrent(self, *_: Any) -> Value:
        """Recurrent layers as their first step: the gates of the input, and of the state that follows from them.

        The list of weights has, for each layer and direction, those of the input, of the state, and their biases,
        then that of a projection; the call's other arguments say how many layers, and whether both directions.
        """
        args = self.call.args
        at = next(i for i, a in enumerate(args) if isinstance(a, list))
        weights, has_bias, layers, directions = args[at], args[at + 1], args[at + 2], 1 + args[at + 5]
        each = len(weights) // (layers * directions)
        below = [v for v in map(self.value, tensor_arguments(self.call)) if v.is_data]
        for layer in range(layers):
            ends = []
            for start in range(layer * directions * each, (layer + 1) * directions * each, each):
                own = weights[start : start + each]
                biases = own[2:4] if has_bias else (None, None)
                gates = self._biased(self._weighted(Primitive.CONV, below, own[0]), biases[0])
                state = self._biased(self._weighted(Primitive.CONV, [gates], own[1]), biases[1])
                end = Value(self.add(Kind.SUM, None, [gates, state]))
                projection = own[2 + 2 * has_bias :]
                ends.append(self._weighted(Primitive.CONV, [end], *projection) if projection else end)
            below = ends if len(ends) == 1 else [Value(self.add(Kind.CONCAT, None, ends))]
        return below[0]

    def cell(self, rule: Rule, given: dict[str, Any]) -> Value:
        """One step of a recurrent layer: gates of the input plus gates of the state."""
        states = given["state"] if isinstance(given["state"], list | tuple) else [given["state"]]
        gates = [
            self._biased(self._weighted(Primitive.CONV, values, given[f"weight_{end}"]), given.get(f"bias_{end}"))
            for values, end in (([self.value(given["input"])], "ih"), ([self.value(s) for s in states], "hh"))
        ]
        return Value(self.add(Kind.SUM, None, gates))

    def module(self, rule: Rule, given: dict[str, Any]) -> Value:
        """A user's layer: its parameters in the order of their registration, one after the other."""
        below = self._meet(Kind.JOIN, [v for v in self.operands() if v.is_data]) if self.operands() else Value(INPUT)
        for name, role in rule.roles.items():
            tensor = self.call.kwargs.get(name)
            if isinstance(tensor, Tensor):
                below = self._in_role(below, tensor, role, rule)
        known = {p for name in rule.roles for p in self.value(self.call.kwargs.get(name)).params}
        for tensor in tensor_arguments(self.call):
            self.lose(below.node or INPUT, self.value(tensor), known)
        return below

    def _in_role(self, below: Value, tensor: Tensor, role: Role, rule: Rule) -> Value:
        if role is Role.WEIGHT:
            return self._weighted(rule.op or Primitive.CONV, [below], tensor, classifies=tensor.dim() == 2)
        if role is Role.BIAS:
            return self._biased(below, tensor)
        if role is Role.NORM_BIAS and self.draft.nodes[below.node or INPUT].kind is Kind.NORM:
            self.fill(below.node or INPUT, tensor, role)
            return below
        if role in (Role.NORM_WEIGHT, Role.NORM_BIAS):
            return Value(self.add_weight(Kind.NORM, rule.op or Primitive.LN, [below], tensor, role))
        kind = {Role.SCALE: Kind.PRODUCT, Role.POSITION: Kind.SUM, Role.OFFSET: Kind.JOIN}[role]
        node = self.add(kind, None, [below])
        ridden = Role.SCALE if role is Role.SCALE else Role.OFFSET  # what is shaped like a position becomes one
        self.draft.nodes[node].slots = [(p, ridden) for p in sorted(self.value(tensor).params)]
        return Value(node)

    def spread(self, *_: Any) -> Value:
        """A root: what a norm that is written out divides by."""
        value = self.join()
        return replace(value, stage=SPREAD) if value.is_data else value

    def sum(self, *_: Any) -> Value:
        operands = self.operands()
        data = [v for v in operands if v.is_data]
        added = [v for v in operands if v.params]
        if len(data) == 1 and len(added) == 1:
            tensor = next(t for t in tensor_arguments(self.call) if self.value(t) is added[0])
            if self._is_bias(data[0], added[0]):
                return self._biased(data[0], tensor)
            if data[0].stage == SCALED and self.whole(tensor) is not None:
                self.fill(data[0].node or INPUT, tensor, Role.NORM_BIAS)
                return Value(data[0].node)
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
            return operands[0] if len(operands) == 1 else Value(data.pop())
        return Value(self.add(kind, None, operands))

    def product(self, *_: Any) -> Value:
        return self._product(tensor_arguments(self.call))

    def _product(self, factors: Iterable[Tensor]) -> Value:
        factors = sorted(factors, key=lambda t: -t.numel())
        values = [v for v in map(self.value, factors) if v is not CONSTANT]
        if not any(v.is_data for v in values):
            # The largest factor is what the others scale, if there is a largest.
            tie = len(factors) > 1 and factors[0].numel() == factors[1].numel()
            return self._of_parameters(values) if tie else self._of_parameters(values[:1], scales=values[1:])
        norm = self._norm_written_out(factors, values)
        if norm:
            return norm
        value = self._meet(Kind.PRODUCT, values)
        if any(v.node == value.node for v in values):
            return value  # nothing was made: a factor is constant, or both come from one node
        node = self.draft.nodes[value.node or INPUT]
        node.slots = [(p, Role.SCALE if role is Role.OFFSET else role) for p, role in node.slots]
        return value

    def _norm_written_out(self, factors: Sequence[Tensor], values: Sequence[Value]) -> Value | None:
        """Data divided by its own spread, and that times a vector: where the product is a part of a norm.

        factors: largest first. A vector that one is added to is zero for the identity, as a norm's bias is.
        """
        if len(factors) != 2 or len(values) != 2 or not values[0].is_data:
            return None
        data, other = values
        if data.node == other.node and other.stage == SPREAD and factors[0].numel() > factors[1].numel():
            return Value(data.node, stage=DIVIDED)
        if data.stage != DIVIDED or self.whole(factors[1]) is None or factors[1].numel() == 1:
            return None
        role = Role.NORM_BIAS if other.via in _SUMS else Role.NORM_WEIGHT
        return Value(self.add_weight(Kind.NORM, Primitive.LN, [data], factors[1], role), stage=SCALED)

    def sum_of_product(self, rule: Rule, given: dict[str, Any]) -> Value:
        product = self._product([given["tensor1"], given["tensor2"]])
        return self._meet(Kind.SUM, [v for v in (self.value(given["input"]), product) if v is not CONSTANT])

    def matmul(self, rule: Rule, given: dict[str, Any]) -> Value:
        added = given.get("bias") if rule.kind in (Kind.MATMUL, Kind.LAYER) else None
        factors = [t for t in tensor_arguments(self.call) if t is not added]
        data = [v for v in map(self.value, factors) if v.is_data]
        weights = [t for t in factors if self.value(t).params]
        if not data:
            return self._of_parameters(self.operands())
        if weights and weights[0].dim() > 1:
            if self.source(weights[0]) is None or self._is_table(weights[0]):  # rows picked from a table by position
                return self._biased(Value(self.add(Kind.JOIN, None, map(self.value, factors))), added)
            node = self._weighted(Primitive.CONV, data, weights[0], letters=self._letters(weights[0])).node or INPUT
            for tensor in weights[1:]:
                self.lose(node, self.value(tensor), set())
            return self._biased(Value(node), added)
        if weights:  # a vector: it scales
            node = self.add(Kind.PRODUCT, None, data)
            self.draft.nodes[node].slots = [(p, Role.SCALE) for t in weights for p in self.value(t).params]
            return self._biased(Value(node), added)
        if len(data) == 1:
            return self._biased(data[0], added)
        return self._biased(Value(self.add(Kind.MATMUL, None, data)), added)

    def _is_table(self, tensor: Tensor) -> bool:
        """Whether it is a part of a matrix, which is picked by position, and not one of a stack of matrices."""
        param = self.source(tensor)
        return self.whole(tensor) is None and param is not None and len(self.params[param].shape) < 3

    def _letters(self, weight: Tensor) -> str:
        """The axes of one of the two operands of a product: what each of its dimensions is."""
        factors = tensor_arguments(self.call)[-2:]
        first = (factors[0] is weight) != (self.call.name == "__rmatmul__")
        if self.call.name == "einsum":
            return einsum_axes(self.call.args[0], 0 if first else 1)
        return ("oi" if first else "io").rjust(weight.dim(), "o")

    def softmax(self, *_: Any) -> Value:
        data = [v for v in self.operands() if v.is_data]
        return Value(self.add(Kind.SOFTMAX, None, data)) if data else self.join()


_CONCATENATIONS = frozenset({"cat", "concat", "concatenate"})
_PIECES = frozenset({"__getitem__", "select", "narrow", "unbind", "chunk", "split", "tensor_split"})
_SUMS = frozenset({"add", "__add__", "__radd__"})
_CASTS = frozenset({"to", "type_as", "type", "float", "half", "bfloat16", "permute", "transpose", "reshape", "view"})
_LIFTED_BY: dict[Kind, Callable[[Lift, Rule, dict[str, Any]], Value]] = {
    kind: getattr(Lift, kind.name.lower()) for kind in Kind
}
