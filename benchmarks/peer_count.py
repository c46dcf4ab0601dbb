"""How many nodes the original generator records for a DeepNets-1M network, and why fewer than there are.

Its graph comes from autograd's: in the topological order of all of autograd's functions, a product counts as
squeeze-excite only where the second function before it is a Hardswish, a copy as attention only where the eleventh
before it is a softmax. The first holds for a block on its own; where other branches are computed meanwhile, their
functions come between, and the node is lost. The second fits no block on its own, for there the copy is the tenth: only
blocks with just one function of another branch in between are noticed. This file writes down the functions of such a
network as autograd records them, without torch, orders them as the original does and applies the two rules; all else
equals our graph.
Source: facebookresearch/ppuda, the behaviour of its `Graph`; autograd's functions as PyTorch 2.13 records them.
"""

from collections.abc import Sequence

from deepnets_gen.families import sketch
from deepnets_gen.genotype import Genotype
from ghn.primitives import Primitive

PRODUCT, COPY, HARDSWISH, SOFTMAX = "Mul", "Clone", "Hardswish", "Softmax"
WEIGHT = "linear.weight"  # autograd reaches it through a transpose, so the original rewires it
BEFORE_PRODUCT, BEFORE_COPY = 2, 11


def recorded_nodes(genotype: Genotype) -> int:
    """The node count that the original generator records: ours, with only those msa and cse nodes that it notices."""
    found = sketch(genotype).ops
    lost = sum(found.count(primitive.value) for primitive in (Primitive.MSA, Primitive.CSE))
    return len(found) - lost + sum(noticed(genotype))


def noticed(genotype: Genotype) -> tuple[int, int]:
    """How many products and copies the original takes for squeeze-excite and for attention."""
    order = Tape(genotype).order()
    products = {i for i, name in enumerate(order) if name == PRODUCT and order[i - BEFORE_PRODUCT] == HARDSWISH}
    order = [name for i, name in enumerate(order) if name != PRODUCT or i in products]
    return len(products), sum(name == COPY and order[i - BEFORE_COPY] == SOFTMAX for i, name in enumerate(order))


class Tape:
    """What autograd records while a network is computed in training mode: functions and what they read, in order.

    A function with parameters stands for them; those of a norm's bias are left out, as in the original.
    """

    def __init__(self, genotype: Genotype) -> None:
        self.genotype = genotype
        self.names: list[str] = []
        self.reads: list[tuple[int, ...]] = []
        self.output = self._network()

    def order(self) -> list[str]:
        """The functions that the output depends on, in the original's topological order, the input first."""
        index = self._walk()
        names = [self.names[f] for f in index]
        sources: list[set[int]] = [{index[g] for g in self.reads[f]} for f in index]
        _rewire(names, sources)
        return ["input", *(names[i] for i in _generations(sources))]

    def _walk(self) -> dict[int, int]:
        """function -> number, in the order in which a depth-first search from the output meets them."""
        index: dict[int, int] = {}
        stack = [self.output]
        while stack:
            function = stack.pop()
            if function not in index:
                index[function] = len(index)
                stack.extend(reversed(self.reads[function]))
        return index

    def _add(self, name: str, *reads: int) -> int:
        self.names.append(name)
        self.reads.append(reads)
        return len(self.names) - 1

    def _chain(self, x: int, *names: str) -> int:
        for name in names:
            x = self._add(name, x)
        return x

    def _normed(self, x: int) -> int:
        return x if self.genotype.norm is None else self._add("norm", x)

    def _linear(self, x: int) -> int:
        return self._add("bias", x, self._add(WEIGHT))

    def _network(self) -> int:
        g = self.genotype
        s0, s1 = self._stem()
        for k in range(g.n_cells):
            s0, s1 = s1, self._cell(k, s0, s1)
        assert s1 is not None, "a connected network has an output"
        x = self._add("Mean", s1) if g.glob_avg else s1
        x = self._linear(self._add("View", x))
        for _ in range(g.fc_layers - 1):
            x = self._linear(self._chain(x, "Relu", PRODUCT))  # the product is dropout's
        return x

    def _stem(self) -> tuple[int | None, int | None]:
        g = self.genotype
        if g.is_vit:
            x = self._add("position", self._add("conv"))
            return x, x
        x = self._normed(self._add("conv"))
        if g.stem_type == 0:
            x = self._add("MaxPool", x) if g.stem_pool else x
            return x, x
        x = self._normed(self._chain(x, "Relu", "conv"))
        x = self._add("Relu", x)  # in place: the first cell reads its result, too
        return x, self._normed(self._add("conv", x))

    def _cell(self, k: int, s0: int | None, s1: int | None) -> int | None:
        kind = self.genotype.stack[k]
        states = [None if s0 is None else self._first(k, s0), None if s1 is None else self._preprocessed(s1)]
        for j in range(0, len(kind.edges), 2):
            terms = []
            for op, source in kind.edges[j : j + 2]:
                x = states[source]
                stride = k in self.genotype.reductions and source < 2 and not self.genotype.is_vit
                if op != "none" and x is not None:
                    terms.append(self._operation(op, x, stride))
            states.append(self._add("Add", *terms) if len(terms) == 2 else terms[0] if terms else None)
        outputs = [states[i] for i in kind.concat]
        present = [x for x in outputs if x is not None]
        if not present:
            return None
        if len(present) < len(outputs):
            blank = self._add(PRODUCT, present[0])  # zeros are made as a product with 0
            present = [blank if x is None else x for x in outputs]
        return self._add("Cat", *present)

    def _first(self, k: int, x: int) -> int:
        if not self.genotype.halves(k):
            return self._preprocessed(x)
        return self._factorized_reduce(x) if self.genotype.preproc else self._chain(x, "Slice", "Slice")

    def _preprocessed(self, x: int) -> int:
        return self._normed(self._chain(x, "Relu", "conv")) if self.genotype.preproc else x

    def _operation(self, op: str, x: int, stride: bool) -> int:
        family = op.rpartition("_")[0]
        match family:
            case "max_pool" | "avg_pool":
                return self._add("Pool", x)
            case "skip":
                return self._factorized_reduce(x) if stride else x
            case "conv":
                return self._normed(self._chain(x, "Relu", "conv"))
            case "conv_7x1":
                return self._normed(self._chain(x, "Relu", "conv", "conv"))
            case "sep_conv":
                x = self._normed(self._chain(x, "Relu", "conv", "conv"))
                return self._normed(self._chain(x, "Relu", "conv", "conv"))
            case "dil_conv":
                return self._normed(self._chain(x, "Relu", "conv", "conv"))
        return self._transformer(x) if op == "msa" else self._squeeze_excite(x, stride)

    def _factorized_reduce(self, x: int) -> int:
        x = self._add("Relu", x)
        return self._normed(self._add("Cat", self._add("conv", x), self._chain(x, "Slice", "Slice", "conv")))

    def _squeeze_excite(self, x: int, stride: bool) -> int:
        gate = self._linear(self._chain(x, "View", "Mean"))
        gate = self._linear(self._add("Relu", gate))
        y = self._add(PRODUCT, x, self._chain(gate, HARDSWISH, "View"))
        return self._chain(y, "Slice", "Slice") if stride else y

    def _transformer(self, x: int) -> int:
        """Attention by einsum, and rearrangements by einops: most functions only change the shape."""
        x = self._chain(x, "View", "Permute")
        qkv = self._add("Mm", self._chain(x, "norm", "View"), self._add(WEIGHT))
        parts = self._chain(qkv, "UnsafeView", "Split")
        q, k, v = (
            self._chain(parts, "Reshape", "Permute", "Unsqueeze", "Permute", "Permute", "Reshape") for _ in range(3)
        )
        scores = self._chain(self._add("Bmm", q, k), "View", "Permute", "View", PRODUCT, SOFTMAX)
        scores = self._chain(scores, "Unsqueeze", "Permute", "Permute", "View")
        y = self._chain(self._add("Bmm", scores, v), "View", "Permute", "View", "Permute", COPY, "UnsafeView", "View")
        x = self._add("Add", self._add("View", self._linear(y)), x)
        y = self._chain(self._linear(self._chain(x, "norm", "View")), "View", "Gelu", "View")
        return self._chain(self._add("Add", self._add("View", self._linear(y)), x), "Permute", "View")


def _rewire(names: Sequence[str], sources: list[set[int]]) -> None:
    """Puts the weight of a linear layer between the layer's sources and what autograd has in its place."""
    for i, name in enumerate(names):
        if name == WEIGHT:
            for reader in [v for v, read in enumerate(sources) if i in read]:
                sources[i] |= sources[reader] - {i}
                sources[reader] = {i}


def _generations(sources: Sequence[set[int]]) -> list[int]:
    """Topological order as networkx gives it: all nodes that are free at a time, then all that these set free."""
    readers: list[list[int]] = [[] for _ in sources]
    for v, read in enumerate(sources):
        for u in read:
            readers[u].append(v)
    waiting = [len(read) for read in sources]
    order = [v for v, count in enumerate(waiting) if not count]
    for u in order:  # grows while it is read: a queue
        for v in readers[u]:
            waiting[v] -= 1
            if not waiting[v]:
                order.append(v)
    return order
