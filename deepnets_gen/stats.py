"""A corpus in numbers: what its networks are like, one by one (`Table`) and all together (`Table.summary`).

Works on any iterable of (genotype, graph); what only networks of cells have (cells, steps, operations of edges) is
counted over those of a corpus that are. No torch.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepnets_gen.genotype import OPS, Genotype
from ghn.graph import ArchGraph
from ghn.primitives import Primitive
from ghn.summary import average_path

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LABELS = tuple(p.label for p in Primitive)
STEMS = ("patches", "one convolution", "one convolution, pool", "three convolutions")
NORMS = ("batch norm", "none")
NORMAL, REDUCTION, NODES, STEM, NORM = "normal cell", "reduction cell", "nodes by primitive", "stem", "norm"


@dataclass(frozen=True)
class Counts:
    """How many of each kind every network has. rows: (networks, labels)."""

    labels: tuple[str, ...]
    rows: np.ndarray

    @property
    def share(self) -> dict[str, float]:
        """Of all that the networks have together."""
        return dict(zip(self.labels, (self.rows.sum(axis=0) / max(self.rows.sum(), 1)).tolist(), strict=True))


@dataclass(frozen=True)
class Table:
    """Networks in columns.

    numbers: by quantity, a value for each network that has it: nodes, edges, parameters, depth (edges of the longest
    path), degree and path (averages of the undirected graph, as Knyazev et al. 2021 report them), cells, steps.
    traits: by trait, whether each network has it, read off the graph: attention, squeeze-excite, no batch norm,
    no global pooling. counts: edges of the normal and the reduction cell by operation, as the genotype has them, dead
    ones too; nodes by primitive; the kind of stem; the norm asked for.
    """

    size: int
    numbers: Mapping[str, np.ndarray]
    traits: Mapping[str, np.ndarray]
    counts: Mapping[str, Counts]

    def summary(self) -> dict[str, Any]:
        """JSON-ready: of numbers range, mean, standard deviation and quantiles; of all else shares."""
        return {
            "networks": self.size,
            "numbers": {name: summarise(values) for name, values in self.numbers.items()},
            "traits": {name: float(values.mean()) for name, values in self.traits.items()},
            "counts": {name: counts.share for name, counts in self.counts.items()},
        }


def table(entries: Iterable[tuple[Any, ArchGraph]]) -> Table:
    """The networks in columns. entries: (genotype, graph); genotypes of any family."""
    numbers: dict[str, list[float]] = {}
    traits: dict[str, list[bool]] = {}
    rows: dict[str, list[list[int]]] = {}
    labels: dict[str, Sequence[str]] = {}
    size = 0
    for genotype, graph in entries:
        size += 1
        count = Counter(graph.ops.tolist())
        for name, value in (_numbers(graph) | _cell_numbers(genotype)).items():
            numbers.setdefault(name, []).append(value)
        for name, value in _traits(count).items():
            traits.setdefault(name, []).append(value)
        for name, (kinds, row) in ({NODES: (LABELS, [count[p] for p in Primitive])} | _kinds(genotype)).items():
            rows.setdefault(name, []).append(row)
            labels[name] = kinds
    return Table(
        size,
        {name: np.array(values) for name, values in numbers.items()},
        {name: np.array(values) for name, values in traits.items()},
        {name: Counts(tuple(labels[name]), np.array(values)) for name, values in rows.items()},
    )


def summarise(values: np.ndarray) -> dict[str, Any]:
    """Range, mean, standard deviation (of the sample) and quantiles."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    points = np.quantile(values, QUANTILES).tolist()
    return {
        "networks": len(values),
        "min": values.min().item(),
        "max": values.max().item(),
        "mean": float(values.mean()),
        "sd": spread,
        "quantiles": {f"{q:g}": point for q, point in zip(QUANTILES, points, strict=True)},
    }


def spread_out(total: int, wanted: int) -> list[int]:
    """At most `wanted` indices below `total`, evenly spread, in order."""
    if wanted >= total:
        return list(range(total))
    return [i * total // wanted for i in range(wanted)]


def text(found: Mapping[str, Any]) -> str:
    """A summary as a table to read."""
    low, *inner, high = QUANTILES
    heads = ["min", f"{low:.0%}", *(f"{q:.0%}" for q in inner), f"{high:.0%}", "max", "mean", "sd"]
    lines = [f"{found['networks']:,} networks", f"{'':12}" + "".join(f"{head:>12}" for head in heads)]
    for name, s in found["numbers"].items():
        values = [s["min"], *s["quantiles"].values(), s["max"], s["mean"], s["sd"]]
        note = f"   of {s['networks']:,}" if s["networks"] != found["networks"] else ""
        lines.append(f"{name:12}" + "".join(f"{readable(v):>12}" for v in values) + note)
    lines += ["", "share of networks: " + ", ".join(f"{name} {v:.1%}" for name, v in found["traits"].items())]
    for name, shares in found["counts"].items():
        parts = ", ".join(f"{label} {share:.1%}" for label, share in shares.items() if share)
        lines.append(f"{name}: {parts}")
    return "\n".join(lines)


def readable(value: float) -> str:
    """A number in few characters: 12,345,678 as 12.35M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"


def _numbers(graph: ArchGraph) -> dict[str, float]:
    return {
        "nodes": len(graph),
        "edges": len(graph.edges),
        "parameters": graph.num_params,
        "depth": int(graph.levels.max()),
        "degree": 2 * len(graph.edges) / len(graph),
        "path": average_path(graph),
    }


def _cell_numbers(genotype: Any) -> dict[str, float]:
    return {"cells": genotype.n_cells, "steps": genotype.steps} if isinstance(genotype, Genotype) else {}


def _traits(count: Counter[int]) -> dict[str, bool]:
    return {
        "attention": count[Primitive.MSA] > 0,
        "squeeze-excite": count[Primitive.CSE] > 0,
        "no batch norm": not count[Primitive.BN],
        "no global pooling": not count[Primitive.GLOB_AVG],
    }


def _kinds(genotype: Any) -> dict[str, tuple[Sequence[str], list[int]]]:
    """Labels and counts of what a genotype of cells is made of; nothing of another."""
    if not isinstance(genotype, Genotype):
        return {}
    out = {}
    for name, edges in ((NORMAL, genotype.normal), (REDUCTION, genotype.reduce)):
        found = Counter(op for op, _ in edges)
        out[name] = (OPS, [found[op] for op in OPS])
    out[STEM] = (STEMS, _one_hot(len(STEMS), _stem(genotype)))
    out[NORM] = (NORMS, _one_hot(len(NORMS), int(genotype.norm is None)))
    return out


def _stem(genotype: Genotype) -> int:
    if genotype.is_vit:
        return 0
    return 3 if genotype.stem_type else 1 + int(genotype.stem_pool)


def _one_hot(size: int, index: int) -> list[int]:
    return [int(i == index) for i in range(size)]
