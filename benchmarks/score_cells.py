"""Scores of every distinct network of NAS-Bench-201 by evaluators that look at networks: what whole searches are
studied with (benchmarks/search_tables.py) without scoring a cell anew in each of hundreds of them.

Run: python benchmarks/score_cells.py --data DIR [--only NAME ...] [--out benchmarks/results/cell_scores.parquet]

15,625 cells make 5,424 networks; cells that make the same have the same score. One row a network: `cell` has the
operations (six digits) of the first of its cells, and of each evaluator there are its metrics and the processor seconds
that it took, on one thread. Nothing of the benchmark's results is read. Columns that the file holds are kept; a run
that was cut off goes on from its scratch file.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rank_evaluators import OURS, SMALL, kept

from eval.evaluator import Arch, Result
from search.evaluators import Resources
from search.spaces import make_space

OUT = Path("benchmarks/results/cell_scores.parquet")


@dataclass(frozen=True)
class Scored:
    """An evaluator by its text, and the settings of its Resources."""

    name: str
    spec: str
    settings: Mapping[str, Any] = field(default_factory=dict)


COLUMNS = (
    Scored("predicted", "predicted", {"checkpoint": OURS, **SMALL}),
    *(Scored(s, s, {"images": 64, **SMALL}) for s in ("synflow", "naswot", "jacov")),
    Scored("params", "params"),
)


def networks() -> dict[str, Arch]:
    """The first cell of each distinct network that has one, by its operations."""
    space = make_space("nasbench201")
    first: dict[str, Arch] = {}
    for genes in product(*(range(len(v.choices)) for v in space.variables)):
        arch = space.arch(genes)
        first.setdefault(arch.key, arch)
    nothing = space.arch((0,) * len(space.variables)).key  # cells that are cut off make no module
    return {"".join(map(str, a.genes)): a for key, a in first.items() if key != nothing}


def columns(name: str, results: Sequence[Result], metrics: Sequence[str]) -> dict[str, list[float | None]]:
    """The columns of one evaluator, None where it failed; its seconds are NAME.s."""
    names = {f"{name}.{metric}" if len(metrics) > 1 else metric: metric for metric in metrics}
    found: dict[str, list[float | None]] = {c: [r.metrics.get(m) for r in results] for c, m in names.items()}
    return found | {f"{name}.s": [r.cost.seconds for r in results]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="CIFAR-10 (see `ghn data --help`)")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="score by these evaluators; others are kept")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    archs = networks()
    table: dict[str, Any] = pq.read_table(args.out).to_pydict() if args.out.exists() else {"cell": list(archs)}
    scratch = args.out.with_suffix(".scratch.jsonl")
    for column in COLUMNS:
        if args.only is None or column.name in args.only:
            evaluator = Resources(make_space("nasbench201"), data=args.data, **column.settings).make(column.spec)
            results = kept(("cells: " + column.name, "nasbench201", 0), evaluator, list(archs.values()), scratch)
            table |= columns(column.name, results, evaluator.metrics)
            partial = args.out.with_suffix(".part")
            pq.write_table(pa.table(table), partial, compression="zstd")
            os.replace(partial, args.out)
    scratch.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
