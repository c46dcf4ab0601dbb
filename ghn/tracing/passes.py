"""Draft -> canonical form: an ordered list of small rewrites, each with one sentence that it makes true.

Source of the intended result: Knyazev et al. 2021, appendix A, and the graphs that the published checkpoints saw.
"""

from collections.abc import Callable, Sequence

from ghn.graph import encoder_shape
from ghn.primitives import Primitive, Role
from ghn.tracing.arguments import Param
from ghn.tracing.draft import INPUT, Draft, Node
from ghn.tracing.rules import Kind

# What may stand between q k and its softmax: scales, biases, masks, writing into slices.
_ARITHMETIC = (Kind.SUM, Kind.PRODUCT, Kind.JOIN, Kind.CONCAT)


def prune(draft: Draft, params: Sequence[Param]) -> None:
    """Every node leads to an output."""
    alive = draft.ancestors(draft.outputs) | {INPUT}
    for x in [x for x in draft.nodes if x not in alive]:
        draft.remove(x)


def attention(draft: Draft, params: Sequence[Param]) -> None:
    """The softmax of a product of data is an msa node, fed by q, k and v; the product with v is gone."""
    for x, node in list(draft.nodes.items()):
        if node.kind is not Kind.SOFTMAX:
            continue
        between = _logits(draft, node.preds)
        if not any(draft.nodes[b].kind is Kind.MATMUL for b in between):
            continue
        node.op, node.kind = Primitive.MSA, Kind.ATTENTION
        for b in between:
            draft.nodes[b].operands = [o for o in draft.nodes[b].operands if o != {INPUT}]  # a mask
            draft.consumers[INPUT].discard(b)
            if draft.nodes[b].kind is not Kind.SUM or len(draft.nodes[b].operands) < 2:
                draft.nodes[b].kind = Kind.JOIN  # so that no bias in here passes for a position encoding
        _join_values(draft, x)


def _logits(draft: Draft, starts: set[int]) -> list[int]:
    """Nodes reached through arithmetic up to the first products of data, which are included."""
    found: list[int] = []
    todo = list(starts)
    while todo:
        x = todo.pop()
        node = draft.nodes[x]
        if x in found or node.op is not None or node.kind not in (*_ARITHMETIC, Kind.MATMUL):
            continue
        found.append(x)
        if node.kind is not Kind.MATMUL:
            todo.extend(node.preds)
    return found


def _join_values(draft: Draft, x: int) -> None:
    """Feeds v to the attention node x: what the next product multiplies it with."""
    todo = list(draft.consumers[x])
    while todo:
        c = todo.pop()
        node = draft.nodes.get(c)
        if node is None or node.op is not None:
            continue
        values = [o for o in node.operands if x not in draft.ancestors(o)]
        if node.kind in (Kind.MATMUL, Kind.PRODUCT) and values:
            for v in set().union(*values):
                draft.connect(v, x)
            draft.redirect(c, x)
        elif node.kind in _ARITHMETIC and not values:
            todo.extend(draft.consumers[c])


def positions(draft: Draft, params: Sequence[Param]) -> None:
    """A parameter shaped like a map or a sequence of features and added to features is a pos_enc node and a sum."""
    for x, node in list(draft.nodes.items()):
        if node.kind is not Kind.SUM:
            continue
        for p, role in [s for s in node.slots if s[1] is Role.OFFSET and _is_position(params[s[0]].shape)]:
            node.slots.remove((p, role))
            param = params[p]
            encoding = Node(Kind.TABLE, Primitive.POS_ENC, [], param.fqn, shape=encoder_shape(param.shape))
            encoding.slots = [(p, Role.POSITION)]
            draft.connect(draft.add_source(encoding), x)


def _is_position(shape: tuple[int, ...]) -> bool:
    return (
        (len(shape) == 2 and min(shape) > 1)
        or (len(shape) == 3 and shape[0] == 1 and min(shape[1:]) > 1)
        or (len(shape) == 4 and shape[0] == 1 and min(shape[2:]) > 1)
    )


def transparent(draft: Draft, params: Sequence[Param]) -> None:
    """No node is left of products of data, softmaxes and other functions that are no primitives."""
    for x, node in list(draft.nodes.items()):
        alone = node.kind is Kind.PRODUCT and len(node.operands) < 2
        if node.op is None and (alone or node.kind in (Kind.JOIN, Kind.MATMUL, Kind.SOFTMAX)):
            draft.dissolve(x)


def meetings(draft: Draft, params: Sequence[Param]) -> None:
    """A sum or concat node stands exactly where two or more different nodes meet."""
    kept = {Kind.SUM: Primitive.SUM, Kind.CONCAT: Primitive.CONCAT}
    for x, node in list(draft.nodes.items()):
        if node.kind in kept:
            node.op = kept[node.kind]
            if len(node.preds) < 2:
                draft.dissolve(x)


def squeeze_excite(draft: Draft, params: Sequence[Param]) -> None:
    """The product of features with a gate made from their global average is a cse node; no other product is left."""
    for x, node in list(draft.nodes.items()):
        if node.kind is not Kind.PRODUCT or node.op is not None:
            continue
        squeezes = _squeezes(draft, node)
        if not squeezes:
            draft.dissolve(x)
            continue
        node.op = Primitive.CSE
        on_path = draft.ancestors(node.preds)
        for s in squeezes:
            if draft.consumers[s] <= on_path and s not in draft.outputs:
                draft.dissolve(s)


def _squeezes(draft: Draft, node: Node) -> list[int]:
    """The global averages of one factor that the other factor is computed from."""
    if len(node.operands) != 2 or node.operands[0] == node.operands[1]:
        return []
    for features, gate in (node.operands, node.operands[::-1]):
        averages = [g for g in _averages(draft, features) if g in draft.ancestors(gate)]
        if averages:
            return averages
    return []


def _averages(draft: Draft, features: set[int]) -> list[int]:
    after = draft.consumers[min(features)] if features else set()
    return [g for g in after if draft.nodes[g].op is Primitive.GLOB_AVG and draft.nodes[g].preds == features]


def classifier(draft: Draft, params: Sequence[Param]) -> None:
    """The layer whose result leaves the network, through nothing but pools, has the classifier's roles."""
    for x in draft.outputs:
        while draft.nodes[x].kind is Kind.POOL and len(draft.nodes[x].preds) == 1:
            (x,) = draft.nodes[x].preds
        # Several heads whose logits are averaged all classify; a residual sum is no sum of heads.
        several = x in draft.outputs and draft.nodes[x].op in (Primitive.SUM, Primitive.CONCAT)
        heads = draft.nodes[x].preds if several else {x}
        if all(_weight_of(draft, head).classifies for head in heads):
            for head in heads:
                for node in (draft.nodes[head], _weight_of(draft, head)):
                    node.slots = [(p, _CLASSIFIER.get(r, r)) for p, r in node.slots]


def _weight_of(draft: Draft, x: int) -> Node:
    """The weight node of the layer that ends with x."""
    node = draft.nodes[x]
    return draft.nodes[min(node.preds)] if node.op is Primitive.BIAS and len(node.preds) == 1 else node


_CLASSIFIER = {Role.WEIGHT: Role.CLASSIFIER_WEIGHT, Role.BIAS: Role.CLASSIFIER_BIAS}

PASSES: tuple[Callable[[Draft, Sequence[Param]], None], ...] = (
    prune,
    attention,
    positions,
    transparent,
    meetings,
    squeeze_excite,
    meetings,
    classifier,
)
