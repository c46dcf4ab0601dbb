"""What got a node and what did not: draft -> ArchGraph with its slots and the reasons for the rest."""

import heapq
from collections.abc import Sequence

import numpy as np

from ghn.graph import ArchGraph, ParamSlot, Uncovered
from ghn.primitives import Role
from ghn.tracing.arguments import Param
from ghn.tracing.capture import Recording
from ghn.tracing.draft import INPUT, Draft

Reasons = dict[int, tuple[str, bool]]  # parameter -> (why it has no slot, whether it can matter to the output)


def reasons(recording: Recording, draft: Draft) -> Reasons:
    """Why a parameter would have no slot, for all that the recording met; the draft must be pruned.

    Slots are not looked at here: a parameter that has one needs no reason.
    """
    touched = set().union(*(set(call.values.values()) for call in recording.calls))
    found: Reasons = {}
    for value, p in recording.parameters.items():
        if value in recording.outputs:
            found[p] = "the network returns it as it is", True
        elif value in touched:
            found[p] = "nothing computed from it reaches an output", False
    found |= {p: (why, True) for node in draft.nodes.values() for p, why in node.lost}
    return found


def finish(draft: Draft, params: Sequence[Param], why: Reasons) -> ArchGraph:
    """The graph in topological order, nodes that could come next in the order of execution.

    A parameter that several calls use has a node for each of them; its slot is on the first.
    """
    order = _topological(draft)
    position = {x: i for i, x in enumerate(order)}
    nodes = [draft.nodes[x] for x in order]
    first: dict[int, tuple[Role, int]] = {}  # parameter -> its role, and its node in the order
    for i, node in enumerate(nodes):
        for p, role in node.slots:
            first.setdefault(p, (role, i))
    slots, uncovered = [], []
    for p, param in enumerate(params):
        if param.kept:
            uncovered.append(Uncovered(param.fqn, param.shape, param.kept, False))
        elif p in first:
            role, i = first[p]
            axes = nodes[i].axes if role in _WEIGHTS else ""
            slots.append(ParamSlot(param.fqn, role, param.shape, i, param.names[1:], axes))
        else:
            reason, used = why.get(p, ("the forward pass does not use it", False))
            uncovered.append(Uncovered(param.fqn, param.shape, reason, used))
    edges = [(position[u], i) for i, node in enumerate(nodes) for u in node.preds]
    return ArchGraph(
        ops=np.array([node.op for node in nodes], dtype=np.uint8),
        edges=np.array(edges, dtype=np.int32).reshape(-1, 2),
        shapes=np.array([node.shape for node in nodes], dtype=np.int32),
        slots=tuple(slots),
        names=tuple(node.name for node in nodes),
        outputs=tuple(sorted(position[x] for x in draft.outputs)),
        uncovered=tuple(uncovered),
    )


_WEIGHTS = (Role.WEIGHT, Role.CLASSIFIER_WEIGHT)


def _topological(draft: Draft) -> list[int]:
    waiting = {x: len(node.preds) for x, node in draft.nodes.items()}
    ready = [(x != INPUT, x) for x, n in waiting.items() if n == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        x = heapq.heappop(ready)[1]
        order.append(x)
        for c in draft.consumers[x]:
            waiting[c] -= 1
            if waiting[c] == 0:
                heapq.heappush(ready, (True, c))
    assert len(order) == len(draft.nodes), "a pass made a cycle"
    return order
