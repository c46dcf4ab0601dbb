"""How evaluators rank NAS-Bench-201 and NAS-Bench-Macro: Kendall's tau with the true test accuracy, and what it costs.

Run: python benchmarks/rank_evaluators.py --tables DIR --data DIR [--only NAME ...] [--scores FILE] [--out FILE]

Each space's architectures are drawn at random once, and every row takes the first n of them; dear rows take fewer.
Truth is the mean test accuracy of the published trainings (200 epochs). Images are of the validation part, evenly by
class. Rows named 'small' score networks of one cell a stage on images of 16 pixels in place of five on 32. Columns of
published tables stand beside, on the same architectures or, of NASLib's scores, on all 725 that it has. One thread;
seconds are of the processor, so that other work on the machine does not count. Scores are kept in a file as they come:
a run that was cut off goes on.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from generate import versions

import deepnets_gen
from deepnets_gen.genotype import GenotypeError
from eval.certify import LEAST, Certificate, certify
from eval.evaluator import Arch, Cost, Result
from eval.tabular import Tabular
from eval.wrap import Standing
from search.evaluators import Resources
from search.space import SearchSpace
from search.spaces import make_space

TRUTH = {"nasbench201": "cifar10_test_200", "macro": "test_acc_mean"}
COLUMNS = {
    "nasbench201": ("params_m_c10_formula", "cifar10_valid_12", "one_shot_acc", "few_shot_acc"),
    "macro": ("params", "flops"),
}
NASLIB = {"nasbench201": ("nwot", "synflow", "snip", "grad_norm", "jacov")}
SMALL: dict[str, Any] = {"side": 16, "proxy": {"cells": 1}}
OURS = "ghn2-nasbench201"
MOST = 1000  # architectures of a row


@dataclass(frozen=True)
class Row:
    """One row of the table: an evaluator by its text, on the first `n` architectures. settings: of its Resources."""

    name: str
    spec: str
    n: int
    seeds: int = 1
    space: str = "nasbench201"
    settings: Mapping[str, Any] = field(default_factory=dict)


def rows(ours: str) -> list[Row]:
    """All rows, the cheapest first. ours: the GHN that was trained on the space."""
    small = {"images": 64, **SMALL}
    return [
        Row("params", "params", MOST),
        Row("predicted, small", "predicted", MOST, settings={"checkpoint": ours, **SMALL}),
        Row("predicted by ghn2-cifar10, small", "predicted", 500, settings=SMALL),
        Row("flops", "flops", 300),
        *(Row(f"{s}, small", s, MOST, 3, settings=small) for s in ("naswot", "synflow", "grad_norm", "snip", "jacov")),
        Row("predicted after 3 steps, small", "predicted:3", 500, settings={"checkpoint": ours, **SMALL}),
        Row("predicted", "predicted", 150, settings={"checkpoint": ours, "images": 128}),
        Row("naswot", "naswot", 150, settings={"images": 128}),
        Row("predicted by ghn2-cifar10", "predicted", 300, space="macro", settings={"side": 16}),
        *(Row(s, s, 300, space="macro", settings={"side": 16, "images": 64}) for s in ("naswot", "synflow")),
    ]


def measure(row: Row, archs: Sequence[Arch], seed: int, args: argparse.Namespace, done: dict[str, Result]) -> None:
    """Scores what is not yet done, appending to the file of scores; `done` holds all of them afterwards, by genes."""
    missing = [a for a in archs if _key(a) not in done]
    if not missing:
        return
    evaluator = Resources(make_space(row.space), args.tables, args.data, **row.settings).make(row.spec)
    with args.scores.open("a") as file:
        for arch in missing:
            began = time.process_time()
            (result,) = evaluator.evaluate([arch], seed)
            seconds = time.process_time() - began
            record = {"row": row.name, "space": row.space, "seed": seed, "genes": _key(arch), "error": result.error}
            record |= {"seconds": round(seconds, 5), "metrics": result.metrics, "evaluator": result.evaluator}
            file.write(json.dumps(record) + "\n")
            file.flush()
            done[_key(arch)] = _result(record, arch)


def _key(arch: Arch) -> str:
    return "".join(map(str, arch.genes))


def _result(record: Mapping[str, Any], arch: Arch) -> Result:
    cost = Cost(1, seconds=record["seconds"])
    return Result(arch, record["metrics"], cost, record["evaluator"], record["seed"], record["error"])


def drawn(space: SearchSpace, truth: Tabular, seed: int) -> list[Arch]:
    """All architectures of the table in random order."""
    genes = sorted(truth.values)
    return [space.arch(g) for g in Random(f"rank {seed}").sample(genes, len(genes))]


def certified(
    results: Sequence[Result], metric: str, truth: Tabular, name: str, others: Mapping[str, Sequence[Result]]
) -> Certificate:
    return certify(
        results,
        [truth.values[r.arch.genes] for r in results],
        metric,
        name,
        lower_is_better=metric == "loss",
        variants=others,
    )


def plain(certificate: Certificate, **more: Any) -> dict[str, Any]:
    """What is kept of a certificate."""
    record = certificate.to_dict()
    del record["points"], record["bias"], record["evaluator"]
    return {**record, **more}


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"seed": args.seed, "threads": 1, "machine": versions()}
    for name, truth_name in TRUTH.items():
        space = make_space(name)
        truth = Tabular(space.tables, truth_name, args.tables)
        archs = drawn(space, truth, args.seed)
        table: dict[str, Any] = {}
        for row in (r for r in rows(args.checkpoint) if r.space == name):
            table |= _lines(row, archs[: row.n], truth, args)
        table |= _columns(space, COLUMNS[name], archs[:MOST], truth, args.tables)
        table |= _columns(space, NASLIB.get(name, ()), archs, truth, args.tables)
        found[name] = {"truth": truth_name, "rows": table}
    args.out.write_text(json.dumps(found, indent=1) + "\n")


def _lines(row: Row, archs: Sequence[Arch], truth: Tabular, args: argparse.Namespace) -> dict[str, Any]:
    """A line of the table for each of the row's metrics, of what is measured; none where that is hardly anything."""
    runs = []
    for seed in range(row.seeds):
        done = _known(args.scores, row, seed, archs)
        if args.only is None or row.name in args.only:
            measure(row, archs, seed, args, done)
        runs.append([done[_key(a)] for a in archs if _key(a) in done])
    runs = [run for run in runs if len(run) == len(runs[0])]
    if len(runs[0]) < LEAST:
        return {}
    lines = {}
    for metric in next(r for r in runs[0] if r.metrics).metrics:
        others = {f"seed {seed}": run for seed, run in enumerate(runs) if seed}
        certificate = certified(runs[0], metric, truth, truth.metrics[0], others)
        name = row.name if metric == row.spec else f"{row.name}: {metric}"
        lines[name] = plain(certificate, seed_spread=certificate.seed_spread)
        lines |= _with_size(name, runs[0], metric, truth)
        print(f"{row.space} {name}: {certificate}", flush=True)
    return lines


def _known(scores: Path, row: Row, seed: int, archs: Sequence[Arch]) -> dict[str, Result]:
    """What the file of scores holds of this row and seed, by genes."""
    wanted = {_key(a): a for a in archs}
    records = (json.loads(line) for line in scores.read_text().splitlines()) if scores.exists() else ()
    return {
        r["genes"]: _result(r, wanted[r["genes"]])
        for r in records
        if (r["row"], r["space"], r["seed"]) == (row.name, row.space, seed) and r["genes"] in wanted
    }


def _columns(
    space: SearchSpace, names: Sequence[str], archs: Sequence[Arch], truth: Tabular, folder: str
) -> dict[str, Any]:
    """Lines of these columns of published tables, each on those of the architectures that it has."""
    lines = {}
    for column in names:
        table = Tabular(space.tables, column, folder)
        results = table.evaluate([a for a in archs if a.genes in table.values])
        lines[f"column {column}"] = plain(certified(results, column, truth, truth.metrics[0], {}))
        lines |= _with_size(f"column {column}", results, column, truth)
    return lines


def _with_size(name: str, results: Sequence[Result], metric: str, truth: Tabular) -> dict[str, Any]:
    """The line of the same scores blended with the parameters of live layers, of NAS-Bench-201's networks."""
    if results[0].arch.space != "nasbench201" or "param" in metric:
        return {}
    sign = -1 if metric == "loss" else 1
    sizes = {r.arch.genes: _size(r.arch) for r in results if r.metrics}
    kept = [r for r in results if sizes.get(r.arch.genes) is not None]
    ranks = Standing([sign * r.metrics[metric] for r in kept]), Standing([sizes[r.arch.genes] or 0 for r in kept])
    places = {r.arch.genes: ranks[0].of(sign * r.metrics[metric]) + ranks[1].of(sizes[r.arch.genes] or 0) for r in kept}
    blended = [
        replace(r, metrics={"blend": places[r.arch.genes]})
        if r.arch.genes in places
        else replace(r, metrics={}, error="none")
        for r in results
    ]
    return {f"{name} + live parameters": plain(certified(blended, "blend", truth, truth.metrics[0], {}))}


def _size(arch: Arch) -> int | None:
    """Parameters of the layers that lead somewhere; None of a cell that is cut off."""
    try:
        return deepnets_gen.sketch(make_space("nasbench201").genotype(arch.genes)).num_params
    except GenotypeError:
        return None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables")
    parser.add_argument("--data")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="measure these rows; others come from the scores")
    parser.add_argument("--checkpoint", default=OURS, help=f"the GHN for NAS-Bench-201 (default {OURS})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scores", type=Path, default=Path("runs/rank_scores.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/rank_evaluators.json"))
    args = parser.parse_args()
    args.scores.parent.mkdir(parents=True, exist_ok=True)
    return args


if __name__ == "__main__":
    main()
