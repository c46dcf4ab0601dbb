"""Scores of every distinct network of NAS-Bench-201 by evaluators that look at networks: what whole searches are
studied with (benchmarks/search_tables.py) without scoring a cell anew in each of hundreds of them.

Run: python benchmarks/score_cells.py --data DIR [--only NAME ...] [--out benchmarks/results/cell_scores.parquet]

15,625 cells make 5,424 networks; cells that make the same have the same score. One row a network: `cell` has the
operations (six digits) of the first of its cells, and of each evaluator there are its metrics and the processor seconds
that it took, on one thread. Nothing of the benchmark's results is read. Columns that the file holds are kept; a run
that was cut off goes on from its scratch file.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from eval.evaluator import Arch, Evaluator
from search.evaluators import Resources
from search.spaces import make_space

SMALL: dict[str, Any] = {"side": 16, "proxy": {"cells": 1}}  # one cell a stage in place of five, half the pixels
OURS = "ghn2-nasbench201"
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


def scored(name: str, evaluator: Evaluator, archs: Mapping[str, Arch], scratch: Path) -> dict[str, list[float | None]]:
    """The columns of one evaluator, in the order of `archs`; None where it failed. scratch: keeps what is done."""
    label = {"name": name, "evaluator": evaluator.fingerprint}
    records = map(json.loads, scratch.read_text().splitlines()) if scratch.exists() else ()
    done = {r["cell"]: r for r in records if {key: r[key] for key in label} == label}
    with scratch.open("a") as file:
        for count, (cell, arch) in enumerate((c, a) for c, a in archs.items() if c not in done):
            began = time.process_time()
            (result,) = evaluator.evaluate([arch])
            record = {**label, "cell": cell, **result.metrics, "seconds": time.process_time() - began}
            file.write(json.dumps(record) + "\n")
            done[cell] = record
            if count % 500 == 0:
                print(f"{name}: {len(done)} of {len(archs)}", flush=True)
    columns = {f"{name}.{metric}" if len(evaluator.metrics) > 1 else metric: metric for metric in evaluator.metrics}
    return {
        column: [done[cell].get(metric) for cell in archs]
        for column, metric in {**columns, f"{name}.s": "seconds"}.items()
    }


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
            table |= scored(column.name, evaluator, archs, scratch)
            partial = args.out.with_suffix(".part")
            pq.write_table(pa.table(table), partial, compression="zstd")
            os.replace(partial, args.out)
    scratch.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
