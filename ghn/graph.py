"""ArchGraph: a network's architecture as a frozen, validated, hashable DAG of primitives."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ghn import kinds
from ghn.axes import outputs_first
from ghn.errors import GraphError
from ghn.identity import Identity, identities
from ghn.primitives import Primitive, Role

FORMAT = 1  # of the JSON form
FAR = 256  # distances are stored in a byte; anything farther is as good as not connected


class ParamSlot(NamedTuple):  # not a dataclass: a graph has hundreds, and these are made six times faster
    """One parameter of the network and the node that stands for it.

    fqn: its path in `named_parameters()`. shape: its true shape. node: index into the graph.
    aliases: further paths of the very same tensor (tied weights), predicted once.
    axes: what each dimension of a weight is: 'o' outputs, 'i' inputs, 'k' positions of a kernel; '' for 'oikk...'. The
    matrix W of x @ W has 'io', so has a transposed convolution with 'kk' after it, and '/4' where it has 4 groups; a
    stack of matrices 'ooi'.
    """

    fqn: str
    role: Role
    shape: tuple[int, ...]
    node: int
    aliases: tuple[str, ...] = ()
    axes: str = ""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def fan_in(self) -> int:
        """Inputs of one output unit, in/groups * kernel size; 1 for vectors."""
        return math.prod(self.outputs_first[1:])

    @property
    def outputs_first(self) -> tuple[int, ...]:
        """The shape (out, in, *kernel) of a weight, whatever the order of its own axes."""
        return outputs_first(self.shape, self.axes)


@dataclass(frozen=True)
class Uncovered:
    """A parameter that got no slot, and why. `used` is False where it cannot influence the output."""

    fqn: str
    shape: tuple[int, ...]
    reason: str
    used: bool


@dataclass(frozen=True, eq=False)
class ArchGraph:
    """A network as a DAG in topological order, `input` first.

    ops: (N,) uint8, values of `Primitive`.
    edges: (E, 2) int32, u -> v with u < v, unique, sorted.
    shapes: (N, 4) int32, the (out, in, h, w) that the shape encoder sees; zeros where a node has none.
    slots: every parameter that a node stands for, in the order of `named_parameters()`.
    names: (N,) labels for people, e.g. 'layer1.0.conv1.weight'.
    outputs: nodes whose value leaves the network.
    uncovered: parameters without a slot.

    Raises GraphError where an invariant is broken.
    """

    ops: np.ndarray
    edges: np.ndarray
    shapes: np.ndarray
    slots: tuple[ParamSlot, ...] = ()
    names: tuple[str, ...] = ()
    outputs: tuple[int, ...] = ()
    uncovered: tuple[Uncovered, ...] = field(default=())

    def __post_init__(self) -> None:
        # Copies: the caller's arrays stay writable, and writing to them does not reach the graph.
        ops = np.array(self.ops, dtype=np.uint8, order="C")
        edges = np.array(self.edges, dtype=np.int32, order="C").reshape(-1, 2)
        shapes = np.array(self.shapes, dtype=np.int32, order="C").reshape(-1, 4)
        edges = _sorted(edges, len(ops))
        names = tuple(self.names) or tuple(Primitive(o).label for o in ops)
        for array in (ops, edges, shapes):
            array.setflags(write=False)
        set_ = object.__setattr__  # the one way to normalise the fields of a frozen dataclass
        set_(self, "ops", ops)
        set_(self, "edges", edges)
        set_(self, "shapes", shapes)
        set_(self, "names", names)
        set_(self, "slots", tuple(self.slots))
        set_(self, "outputs", tuple(self.outputs) or (len(ops) - 1,))
        set_(self, "uncovered", tuple(self.uncovered))
        self._validate()

    def _validate(self) -> None:
        n = len(self.ops)
        if n == 0 or self.ops[0] != Primitive.INPUT:
            raise GraphError(f"node 0 of a graph must be 'input'; got {n} nodes, ops {self.ops[:3].tolist()}...")
        if self.ops.max() >= len(Primitive):
            raise GraphError(f"node {int(self.ops.argmax())} has type {int(self.ops.max())}, known are 0..14")
        if len(self.shapes) != n or len(self.names) != n:
            raise GraphError(f"{n} nodes but {len(self.shapes)} shapes and {len(self.names)} names")
        if len(self.edges):
            u, v = self.edges[:, 0], self.edges[:, 1]
            wrong = (u >= v) | (u < 0) | (v >= n)
            if wrong.any():
                bad = np.flatnonzero(wrong)
                raise GraphError(f"edge {self.edges[bad[0]].tolist()} does not point forward within {n} nodes")
        for fqn, node in [(s[0], s[3]) for s in self.slots if not 0 <= s[3] < n]:
            raise GraphError(f"parameter {fqn!r} is on node {node} of a graph of {n} nodes")
        for node in self.outputs:
            if not 0 <= node < n:
                raise GraphError(f"output {node} is no node of a graph of {n} nodes")
        if len({s[0] for s in self.slots}) != len(self.slots):
            names = [s.fqn for s in self.slots]
            twice = next(x for x in names if names.count(x) > 1)
            raise GraphError(f"parameter {twice!r} has two slots")

    def __len__(self) -> int:
        return len(self.ops)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ArchGraph) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.key)

    @cached_property
    def distances(self) -> np.ndarray:
        """(N, N) uint8: length of the shortest directed path u -> v; 0 where none, on the diagonal, or beyond 255."""
        out = shortest_paths(self.predecessors)
        out.setflags(write=False)
        return out

    @cached_property
    def predecessors(self) -> tuple[tuple[int, ...], ...]:
        """For each node, the nodes with an edge to it."""
        return _neighbours(len(self), self.edges[:, ::-1])

    @cached_property
    def successors(self) -> tuple[tuple[int, ...], ...]:
        """For each node, the nodes it has an edge to."""
        return _neighbours(len(self), self.edges)

    @cached_property
    def levels(self) -> np.ndarray:
        """(N,) int: length of the longest path from a source. Every ancestor of a node has a lower level."""
        level = np.zeros(len(self), dtype=np.int64)
        for v, preds in enumerate(self.predecessors):
            if preds:
                level[v] = 1 + max(level[u] for u in preds)
        level.setflags(write=False)
        return level

    @property
    def num_params(self) -> int:
        """Numbers in all parameters, covered or not; a tied tensor counts once."""
        return sum(s.numel for s in self.slots) + sum(math.prod(u.shape) for u in self.uncovered)

    @cached_property
    def identity(self) -> Identity:
        """`key` and `topology`."""
        return identities([_Nodes(kinds.numbers(self.ops, self.shapes), self.predecessors, self.levels.tolist())])[0]

    @property
    def key(self) -> str:
        """Identity of the architecture: equal for isomorphic graphs, whatever the order of their nodes.

        Parameter names do not count, types and shapes do.
        """
        return self.identity.key

    @property
    def topology(self) -> str:
        """Identity of the architecture whatever its widths: as `key`, but channel counts do not count either."""
        return self.identity.topology

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready data; `from_dict` gives the same graph back."""
        return {
            "format": FORMAT,
            "ops": [Primitive(o).label for o in self.ops],
            "edges": self.edges.tolist(),
            "shapes": self.shapes.tolist(),
            "names": list(self.names),
            "outputs": list(self.outputs),
            "slots": [
                {
                    "fqn": s.fqn,
                    "role": s.role.value,
                    "shape": list(s.shape),
                    "node": s.node,
                    "aliases": list(s.aliases),
                    **({"axes": s.axes} if s.axes else {}),
                }
                for s in self.slots
            ],
            "uncovered": [
                {"fqn": u.fqn, "shape": list(u.shape), "reason": u.reason, "used": u.used} for u in self.uncovered
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ArchGraph":
        """The graph that `to_dict` wrote. Raises GraphError on another format or missing fields."""
        if not isinstance(data, Mapping):
            raise GraphError(f"not a graph: a {type(data).__name__} in place of a record")
        if data.get("format") != FORMAT:
            raise GraphError(f"graph format {data.get('format')!r} is not the {FORMAT} that this version reads")
        try:
            return cls(
                ops=np.array([Primitive[name.upper()] for name in data["ops"]]),
                edges=np.array(data["edges"], dtype=np.int32).reshape(-1, 2),
                shapes=np.array(data["shapes"], dtype=np.int32).reshape(-1, 4),
                names=tuple(data["names"]),
                outputs=tuple(data["outputs"]),
                slots=tuple(
                    ParamSlot(
                        s["fqn"], Role(s["role"]), tuple(s["shape"]), s["node"], tuple(s["aliases"]), s.get("axes", "")
                    )
                    for s in data["slots"]
                ),
                uncovered=tuple(
                    Uncovered(u["fqn"], tuple(u["shape"]), u["reason"], u["used"]) for u in data["uncovered"]
                ),
            )
        except GraphError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise GraphError(f"not a graph: {type(error).__name__} {error}") from error

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "ArchGraph":
        """The graph that `to_json` wrote. Raises GraphError on anything else."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise GraphError(f"not a graph: {error}") from error
        return cls.from_dict(data)


def encoder_shape(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """The (out, in, h, w) that the shape encoder sees for a parameter of this shape.

    1-D (c) -> (c, 1, 1, 1); 2-D (o, i) -> (o, i, 1, 1); position (1, P, C) -> (1, C, s, s) with s = floor(sqrt(P));
    other 3-D (a, b, c) -> (a, b, c, 1); 4-D as is; 5-D folds its last two dimensions. Source: ppuda, spec section 4.
    """
    if len(shape) == 3 and shape[0] == 1 and min(shape[1:]) > 1:
        side = math.isqrt(shape[1])
        return 1, shape[2], side, side
    out, inp, height, width, *more = (*shape, 1, 1, 1, 1)
    return out, inp, height, width * more[0] if len(shape) == 5 else width


class _Nodes(NamedTuple):
    kinds: Sequence[int]
    preds: Sequence[tuple[int, ...]]
    levels: Sequence[int]


def shortest_paths(preds: Sequence[Sequence[int]]) -> np.ndarray:
    """(N, N) uint8, [u, v]: length of the shortest directed path u -> v; 0 where none, for u = v, or beyond 255.

    preds: the nodes before each, all with lower numbers. A node's distances are one more than the least of those of
    its predecessors, a row at a time.
    """
    n = len(preds)
    # Beyond reach stays beyond reach however often 1 is added to it, without overflow.
    away, kind = (2**14, np.int16) if n < 2**14 else (2**30, np.int32)
    before = np.full((n, n), away, dtype=kind)  # [v, u]: distance less 1, so that -1 is no distance
    rows, ones = list(before), np.ones(n, dtype=kind)
    for v, (row, sources) in enumerate(zip(rows, preds, strict=True)):
        if len(sources) == 1:
            np.add(rows[sources[0]], ones, out=row)
        elif sources:
            np.minimum(rows[sources[0]], rows[sources[1]], out=row)
            for u in sources[2:]:
                np.minimum(row, rows[u], out=row)
            np.add(row, ones, out=row)
        row[v] = -1
    np.minimum(before, FAR - 1, out=before)
    out = before.T.astype(np.uint8, order="C")
    out += 1  # -1, as a byte 255, becomes 0, and so does FAR
    return out


def _sorted(edges: np.ndarray, n: int) -> np.ndarray:
    """The edges by source, then target, each once."""
    if len(edges) < 2 or edges.min() < 0 or edges.max() >= n:  # the latter are refused later on
        return edges
    number = edges[:, 0].astype(np.int64) * n + edges[:, 1]
    if (number[1:] > number[:-1]).all():
        return edges
    return edges[np.unique(number, return_index=True)[1]]


def _neighbours(n: int, edges: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """For each node, where its edges lead; ascending, since edges are sorted either way."""
    lists: list[list[int]] = [[] for _ in range(n)]
    for u, v in edges.tolist():
        lists[u].append(v)
    return tuple(map(tuple, lists))
