"""The 15,625 cells of NAS-Bench-201. Source: Dong & Yang, ICLR 2020."""

import ast
from collections.abc import Mapping
from functools import cache

from deepnets_gen.spaces.nasbench201 import EDGES, KERNELS, NONE, OPS, Nasbench201Genotype, cell_text, live_edges
from deepnets_gen.spaces.nasbench201 import num_params_published as published
from eval.evaluator import Arch
from eval.tables import NOTHING, Row, Table
from ghn.graph import ArchGraph
from search.space import SearchSpace, Variable

SKIP = OPS.index("skip_connect")
NASLIB_OPS = ("skip_connect", NONE, "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
NASLIB_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
SCORES = ("synflow", "grasp", "fisher", "grad_norm", "l2_norm", "plain", "nwot", "epe_nas", "jacov", "snip")
DEVICES = ("1080ti_1", "titan_rtx_1", "raspi4", "pixel3", "samsung_s7", "silver_4114", "gold_6226", "eyeriss", "fpga")


def _digits(row: Row) -> tuple[int, ...]:
    return tuple(map(int, row["ops"]))


def _from_arch(row: Row) -> tuple[int, ...]:
    named = [part.partition("~")[0] for part in row["arch"].replace("+", "").split("|") if part]
    return tuple(OPS.index(op) for op in named)


def _from_naslib(row: Row) -> tuple[int, ...] | None:
    if (row["space"], row["dataset"]) != ("nasbench201", "cifar10"):
        return None
    ops = dict(zip(NASLIB_EDGES, ast.literal_eval(row["arch"]), strict=True))
    return tuple(OPS.index(NASLIB_OPS[ops[edge]]) for edge in EDGES)


MAIN = Table(
    "nasbench201.parquet",
    "NAS-Bench-201: accuracies after 12 and 200 epochs, latencies",
    ("ops",),
    _digits,
    {
        **{f"{data}_valid_12": "val" for data in ("cifar10", "cifar100", "in16")},
        **{f"{data}_test_{epochs}": "test" for data in ("cifar10", "cifar100", "in16") for epochs in (12, 200)},
        **{f"cifar10_test_200_seed{seed}": "test" for seed in range(3)},
        **{f"lat_ms_{device}": NOTHING for device in DEVICES},
        "params_m_c10_formula": NOTHING,
        "macs_m_c10_formula": NOTHING,
    },
)
SUPERNETS = Table(
    "nasbench201_supernets.parquet",
    "accuracies of one-shot and few-shot supernets",
    ("arch",),
    _from_arch,
    {"one_shot_acc": "val", "few_shot_acc": "val"},
)
ZERO_COST = Table(
    "zerocost_scores.parquet",
    "zero-cost scores of 725 cells by NASLib, on training images of CIFAR-10",
    ("space", "dataset", "arch"),
    _from_naslib,
    {**dict.fromkeys(SCORES, "train"), **{f"{name}_s": NOTHING for name in SCORES}},
)


class Nasbench201(SearchSpace):
    """An operation for each of six edges. Cells whose output is cut off from the input are scored by the table alone:
    they make no module.

    cells, channels: of the networks that are built; the benchmark's own by default.
    """

    name = "nasbench201"
    variables = tuple(Variable(f"edge_{source}_{target}", OPS) for source, target in EDGES)
    tables = (MAIN, SUPERNETS, ZERO_COST)
    truth = "cifar10_test_200"

    def __init__(self, cells: int = 5, channels: int = 16) -> None:
        self.cells, self.channels = cells, channels

    def genotype(self, genes: tuple[int, ...]) -> Nasbench201Genotype:
        return Nasbench201Genotype(operations(genes), self.cells, self.channels)

    def identity(self, genes: tuple[int, ...]) -> str:
        return cell_identity(genes)

    def traits(self, arch: Arch) -> Mapping[str, float]:
        genotype = Nasbench201Genotype(operations(arch.genes)) if live_edges(operations(arch.genes)) else None
        paths = conv_paths(arch.genes)
        return {
            "params": published(genotype) if genotype else 0,
            "depth": max(paths, default=0),
            "paths": len(paths),
            "skips": arch.genes.count(SKIP),
        }

    def describe(self, arch: Arch) -> str:
        """The benchmark's text for the cell."""
        return cell_text(operations(arch.genes))

    def picture(self, arch: Arch) -> ArchGraph:
        import deepnets_gen

        return deepnets_gen.graph(Nasbench201Genotype(operations(arch.genes), cells=1))


def operations(genes: tuple[int, ...]) -> tuple[str, ...]:
    """The operations on the edges."""
    return tuple(OPS[gene] for gene in genes)


def conv_paths(genes: tuple[int, ...]) -> list[int]:
    """Convolutions on each path without 'none' from the cell's input to its output."""
    ops = operations(genes)
    counts: dict[int, list[int]] = {0: [0]}
    for op, (source, target) in zip(ops, EDGES, strict=True):  # sorted by target
        if op != NONE:
            counts.setdefault(target, []).extend(n + (op in KERNELS) for n in counts.get(source, []))
    return counts.get(EDGES[-1][1], [])


@cache
def cell_identity(genes: tuple[int, ...]) -> str:
    """Equal for cells that compute the same with the same layers, whatever node they stand at.

    Each layer is written as what it does to a sum of earlier ones, then beside each who reads it: two readers of one
    convolution are no reader each of two. (The benchmark's own strings leave that out, and count terms that are zero:
    6,466 different ones.)
    """
    ops = operations(genes)
    text: dict[int, str] = {}  # what each layer computes
    terms: dict[int, list[int]] = {0: [-1]}  # state -> the layers whose sum it is; -1 is the input
    for j in live_edges(ops):
        source, target = EDGES[j]
        if ops[j] == "skip_connect":
            terms[target] = terms.get(target, []) + terms[source]
        else:
            text[j] = f"{OPS.index(ops[j])}({'+'.join(sorted(text.get(t, 'x') for t in terms[source]))})"
            terms[target] = [*terms.get(target, []), j]
    out = terms.get(EDGES[-1][1], [])
    readers = {
        j: sorted([text[k] for k in text for t in terms[EDGES[k][0]] if t == j] + ["out"] * out.count(j)) for j in text
    }
    layers = sorted(f"{text[j]}>{','.join(readers[j])}" for j in text)
    return ";".join([f"out({'+'.join(sorted(text.get(t, 'x') for t in out))})", *layers]) if out else "none"
