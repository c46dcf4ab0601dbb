"""The cells of DARTS: a normal and a reduction cell of four steps. Source: Liu et al., ICLR 2019, section 3.1."""

import ast
from collections.abc import Mapping
from itertools import combinations

from deepnets_gen.connect import Edge
from deepnets_gen.genotype import Genotype
from eval.evaluator import Arch
from eval.tables import NOTHING, Row, Table
from search.space import SearchSpace, Variable

STEPS = 4
KINDS = ("normal", "reduce")
OPS = (
    *("max_pool_3x3", "avg_pool_3x3", "skip_connect"),
    *("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
)
SKIP = OPS.index("skip_connect")
CONCAT = tuple(range(2, STEPS + 2))
PER_STEP = 3  # variables: which two states it reads, and what it does to each


def _variables() -> tuple[Variable, ...]:
    found = []
    for kind in KINDS:
        for i in range(STEPS):
            pairs = tuple(combinations(range(i + 2), 2))
            found.append(Variable(f"{kind}_{i}_inputs", pairs))
            found += [Variable(f"{kind}_{i}_{place}", OPS) for place in ("first", "second")]
    return tuple(found)


VARIABLES = _variables()


def genes_of(cells: Mapping[str, list[Edge]]) -> tuple[int, ...]:
    """The genes of two cells, each a list of two (operation, source) a step, as in published genotypes."""
    genes: list[int] = []
    for kind in KINDS:
        for i in range(STEPS):
            one, other = sorted(cells[kind][2 * i : 2 * i + 2], key=lambda edge: edge[1])
            pairs = VARIABLES[PER_STEP * (KINDS.index(kind) * STEPS + i)].choices
            genes += [pairs.index((one[1], other[1])), OPS.index(one[0]), OPS.index(other[0])]
    return tuple(genes)


def _parsed(row: Row) -> tuple[int, ...] | None:
    """Of a row with the text 'Genotype(normal=[...], ..., reduce=[...], ...)'; None where a step reads a state twice.

    Those are 378 of 545 rows: DARTS keeps two different states.
    """
    call = ast.parse(row["architecture"], mode="eval").body
    if not isinstance(call, ast.Call):
        return None
    cells = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg in KINDS}
    try:
        return genes_of(cells)
    except ValueError:
        return None


TABLE = Table(
    "darts545_oncenas.parquet",
    "OnceNAS-Bench: DARTS cells after 10 and 50 epochs on CIFAR-10, latencies",
    ("architecture",),
    _parsed,
    {
        "valid_acc10": "val",
        "valid_acc50": "val",
        "test_acc50": "test",
        **dict.fromkeys(("flop", "params", "gpu_latency", "rasp_latency", "fpga_latency", "mcu_latency"), NOTHING),
    },
)


class Darts(SearchSpace):
    """Per cell and step two different earlier states, and an operation for each; no 'none'.

    cells, channels: of the networks that are built. DARTS trains 20 cells of 36 channels; the default is its search
    network.
    """

    name = "darts"
    variables = VARIABLES
    tables = (TABLE,)
    truth = "test_acc50"

    def __init__(self, cells: int = 8, channels: int = 16) -> None:
        self.cells, self.channels = cells, channels

    def genotype(self, genes: tuple[int, ...]) -> Genotype:
        normal, reduce = (self._cell(genes, place) for place in range(len(KINDS)))
        return Genotype(normal, reduce, CONCAT, CONCAT, self.cells, self.channels, c_mult=2, norm="bnorm")

    def traits(self, arch: Arch) -> Mapping[str, float]:
        ops = [g for i, g in enumerate(arch.genes) if i % PER_STEP]
        pairs = [v.choices[g] for v, g in zip(self.variables, arch.genes, strict=True) if v.name.endswith("inputs")]
        from_inputs = sum(source < 2 for pair in pairs for source in pair)
        return {**super().traits(arch), "skips": ops.count(SKIP), "from_inputs": from_inputs}

    def _cell(self, genes: tuple[int, ...], kind: int) -> tuple[Edge, ...]:
        edges: list[Edge] = []
        for i in range(STEPS):
            at = PER_STEP * (kind * STEPS + i)
            one, other = self.variables[at].choices[genes[at]]
            edges += [(OPS[genes[at + 1]], one), (OPS[genes[at + 2]], other)]
        return tuple(edges)
