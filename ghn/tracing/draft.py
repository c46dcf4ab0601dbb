"""Draft: the graph while it is being rewritten, with nodes that may still vanish."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ghn.primitives import Primitive, Role
from ghn.tracing.rules import Kind

INPUT = 0
NO_SHAPE = (0, 0, 0, 0)


@dataclass(slots=True)
class Node:
    """One call in the draft.

    op: its primitive, or None while it is not known to be a node of the result. operands: for each value that
    flows in, the nodes it comes from. slots: (parameter, role) that ride on it. lost: (parameter, reason) that it
    uses in a way no rule covers. classifies: its weight can be that of a classifier. axes: of its weight, see
    `ghn.axes`. fqn: of the parameter that it stands for, if it does. path: of the module that it ran in.
    """

    kind: Kind
    op: Primitive | None
    operands: list[set[int]]
    fqn: str = ""
    path: str = ""
    shape: tuple[int, int, int, int] = NO_SHAPE
    slots: list[tuple[int, Role]] = field(default_factory=list)
    lost: list[tuple[int, str]] = field(default_factory=list)
    classifies: bool = False
    axes: str = ""

    @property
    def preds(self) -> set[int]:
        return set().union(*self.operands)

    @property
    def name(self) -> str:
        """The parameter's path, else the module's with the primitive."""
        label = self.op.label if self.op is not None else self.kind.name.lower()
        return self.fqn or (f"{self.path}.{label}" if self.path else label)


class Draft:
    """Nodes by number, in the order of execution; `input` is number 0."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {INPUT: Node(Kind.JOIN, Primitive.INPUT, [])}
        self.consumers: dict[int, set[int]] = {INPUT: set()}
        self.outputs: set[int] = set()
        self._next = 1

    def add(self, node: Node) -> int:
        """The number of the node, now last in the order of execution."""
        number, self._next = self._next, self._next + 1
        self._insert(number, node)
        return number

    def add_source(self, node: Node) -> int:
        """The number of a node that depends on nothing: negative, so that it comes before all calls."""
        number = min(min(self.nodes), 0) - 1
        self._insert(number, node)
        return number

    def _insert(self, number: int, node: Node) -> None:
        self.nodes[number] = node
        self.consumers[number] = set()
        for p in node.preds:
            self.consumers[p].add(number)

    def connect(self, u: int, v: int) -> None:
        """Adds the edge u -> v as a further operand of v."""
        self.nodes[v].operands.append({u})
        self.consumers[u].add(v)

    def dissolve(self, x: int) -> None:
        """Removes x, joining its predecessors to its consumers. Its slots move to a neighbour.

        Offsets go down, to the first node that their values flow into; scales go up, to the last node whose output
        they scale.
        """
        node = self.nodes.pop(x)
        preds = node.preds or {INPUT}
        below = self.consumers.pop(x)
        for p in node.preds:
            self.consumers[p].discard(x)
        for c in below:
            self.nodes[c].operands = [(o - {x}) | preds if x in o else o for o in self.nodes[c].operands]
        for p in preds:
            self.consumers[p] |= below
        if x in self.outputs:
            self.outputs = (self.outputs - {x}) | preds
        for slot in node.slots:
            down = slot[1] is not Role.SCALE and below
            self.nodes[min(below) if down else max(preds)].slots.append(slot)

    def remove(self, x: int) -> None:
        """Deletes x without joining its neighbours."""
        for p in self.nodes.pop(x).preds:
            if p in self.consumers:
                self.consumers[p].discard(x)
        for c in self.consumers.pop(x):
            if c in self.nodes:
                self.nodes[c].operands = [o - {x} for o in self.nodes[c].operands]

    def redirect(self, x: int, to: int) -> None:
        """Everything that read x reads `to` instead; x stays without consumers, and is removed."""
        for c in self.consumers[x]:
            self.nodes[c].operands = [(o - {x}) | {to} if x in o else o for o in self.nodes[c].operands]
        self.consumers[to] |= self.consumers[x]
        self.consumers[x] = set()
        if x in self.outputs:
            self.outputs = (self.outputs - {x}) | {to}
        self.remove(x)

    def ancestors(self, starts: Iterable[int]) -> set[int]:
        """The given nodes and all that they depend on."""
        seen: set[int] = set()
        todo = list(starts)
        while todo:
            x = todo.pop()
            if x not in seen:
                seen.add(x)
                for operand in self.nodes[x].operands:
                    todo.extend(operand)
        return seen
