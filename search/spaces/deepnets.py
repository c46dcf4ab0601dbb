"""DeepNets-1M as a space to search: the networks that GHNs of this project were trained for.

Source: Knyazev et al., NeurIPS 2021, appendix A.2.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations

from deepnets_gen.axes import Axes, NormPolicy
from deepnets_gen.connect import Edge
from deepnets_gen.genotype import OPS, Genotype, GenotypeError
from deepnets_gen.sample import allowed, small_enough
from search.space import SearchSpace, Variable

AXES = Axes(norm=NormPolicy.ALWAYS)
STEPS = AXES.steps[1]
KINDS = ("normal", "reduce")
STACK = (
    Variable("cells", tuple(range(AXES.cells[0], AXES.cells[1] + 1))),
    Variable("steps", tuple(range(AXES.steps[0], STEPS + 1))),
    Variable("c_mult", (1, 2)),
    Variable("stem_kernel", (3, 5, 7)),
    Variable("stem_type", (0, 1)),
    Variable("stem_pool", (False, True)),
    Variable("fc_layers", (1, 2)),
)
PER_STEP = 3


def _variables() -> tuple[Variable, ...]:
    found = list(STACK)
    for kind in KINDS:
        for i in range(STEPS):
            found.append(Variable(f"{kind}_{i}_inputs", tuple(permutations(range(i + 2), 2))))
            found += [Variable(f"{kind}_{i}_{place}", OPS) for place in ("first", "second")]
    return tuple(found)


class DeepNets(SearchSpace):
    """Number of cells, steps, stem and classifier; per cell and step two earlier states and an operation for each.

    All networks are normalised and have at most the 10 million parameters of the corpus. channels: of the first cell.
    """

    name = "deepnets"
    variables = _variables()

    def __init__(self, channels: int = 32) -> None:
        self.channels = channels

    def active(self, genes: tuple[int, ...]) -> Sequence[bool]:
        steps = STACK[1].choices[genes[1]]
        stem_pool = STACK[4].choices[genes[4]] == 0
        flags = [i != 5 or stem_pool for i in range(len(STACK))]
        return flags + [i < steps for _ in KINDS for i in range(STEPS) for _ in range(PER_STEP)]

    def valid(self, genes: tuple[int, ...]) -> bool:
        return _genotype(genes, self.channels) is not None

    def genotype(self, genes: tuple[int, ...]) -> Genotype:
        found = _genotype(genes, self.channels)
        if found is None:
            raise GenotypeError(f"genes {list(genes)} make no network of DeepNets-1M")
        return found


@lru_cache(4096)
def _genotype(genes: tuple[int, ...], channels: int) -> Genotype | None:
    """The network; None where the corpus would not hold it, or nothing connects it."""
    cells, steps, c_mult, kernel, stem_type, stem_pool, fc_layers = (
        v.choices[gene] for v, gene in zip(STACK, genes, strict=False)
    )
    normal, reduce = (_cell(genes, kind, steps) for kind in range(len(KINDS)))
    if not allowed(normal, reduce) or (steps == 1 and any(op == "none" for op, _ in (*normal, *reduce))):
        return None
    concat = tuple(range(2, steps + 2))
    try:
        found = Genotype(
            normal,
            reduce,
            concat,
            concat,
            cells,
            channels,
            ks=kernel,
            stem_type=stem_type,
            stem_pool=stem_pool,
            c_mult=c_mult,
            fc_layers=fc_layers,
        )
    except GenotypeError:
        return None
    return found if small_enough(found, AXES) else None


def _cell(genes: tuple[int, ...], kind: int, steps: int) -> tuple[Edge, ...]:
    edges: list[Edge] = []
    for i in range(steps):
        at = len(STACK) + PER_STEP * (kind * STEPS + i)
        one, other = DeepNets.variables[at].choices[genes[at]]
        edges += [(OPS[genes[at + 1]], one), (OPS[genes[at + 2]], other)]
    return tuple(edges)
