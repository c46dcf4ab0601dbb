"""How evaluators rank NAS-Bench-201 and NAS-Bench-Macro: Kendall's tau with the true test accuracy, and what it costs.

Run: python benchmarks/rank_evaluators.py --tables DIR --data DIR [--only NAME ...] [--scores FILE] [--out FILE]

Each space's architectures are drawn at random once, and every row takes the first n of them; dear rows take fewer.
Truth is the mean test accuracy of the published trainings (200 epochs). Images are of the validation part, evenly by
class. Rows named 'small' score networks of one cell a stage on images of 16 pixels in place of five on 32. Variants of
a row, with other images or other ways, stand in it beside the plain scores of the same architectures. Columns of
published tables stand beside, on the same architectures or, of NASLib's scores, on all 725 that it has. One thread;
seconds are of the processor, so that other work on the machine does not count. Scores are kept in a file as they come:
a run that was cut off goes on, and those of an evaluator that has changed since are taken anew. Of rows without scores
there, such as those left out by --only, the lines stay that --out holds. The certificates that ship with the package
(search/data_files) are written from the rows.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from generate import versions

import deepnets_gen
from deepnets_gen.genotype import GenotypeError
from eval.certify import LEAST, TOP, Certificate, certify
from eval.evaluator import Arch, Cost, Evaluator, Result
from eval.images import SearchImages
from eval.predicted import Predicted
from eval.rank import kendall, percentiles, top
from eval.tabular import Tabular
from eval.wrap import Neighborhood, Standing
from search.certificates import SHIPPED
from search.evaluators import Resources
from search.options import traits_of
from search.space import SearchSpace
from search.spaces import make_space
from train.images import Images

SPACES = ("nasbench201", "macro")
COLUMNS = {
    "nasbench201": ("params_m_c10_formula", "cifar10_valid_12", "one_shot_acc", "few_shot_acc"),
    "macro": ("params", "flops"),
}
NASLIB = {"nasbench201": ("nwot", "synflow", "snip", "grad_norm", "jacov")}
SMALL: dict[str, Any] = {"side": 16, "proxy": {"cells": 1}}
OURS = "ghn2-nasbench201"
MOST = 1000  # architectures of a row


@dataclass(frozen=True)
class Variant:
    """A row's evaluator made otherwise, on the first `n` architectures. settings: of Resources, in place of the row's.

    wrap: makes it from that and the row's evaluator.
    """

    name: str
    n: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    wrap: Callable[[Evaluator, Resources], Evaluator] = lambda evaluator, resources: evaluator


@dataclass(frozen=True)
class Row:
    """One row of the table: an evaluator by its text, on the first `n` architectures. settings: of its Resources."""

    name: str
    spec: str
    n: int
    seeds: int = 1
    space: str = "nasbench201"
    settings: Mapping[str, Any] = field(default_factory=dict)
    variants: tuple[Variant, ...] = ()


def noisy(deviation: float) -> Callable[[Evaluator, Resources], Evaluator]:
    """`predicted` on the same images with normal noise. deviation: of pixels from 0 to 1."""

    def made(evaluator: Evaluator, resources: Resources) -> Evaluator:
        images = resources.val.images
        assert isinstance(images, Images)
        noise = torch.randn(images.pixels.shape, generator=torch.Generator().manual_seed(0)) * deviation * 255
        pixels = (images.pixels + noise).round().clamp(0, 255).to(torch.uint8)
        return Predicted(resources.hyper, resources.small, SearchImages(replace(images, pixels=pixels), "val"))

    return made


def elsewhere(place: int) -> Callable[[Evaluator, Resources], Evaluator]:
    """`predicted` on as many other validation images. place: 1 for those after the row's own, and so on."""

    def made(evaluator: Evaluator, resources: Resources) -> Evaluator:
        count = resources.images
        images = SearchImages.load(resources.data, "val", (place + 1) * count, resources.side).images
        others = images.take(torch.arange(place * count, (place + 1) * count))
        return Predicted(resources.hyper, resources.small, SearchImages(others, "val"))

    return made


def near(evaluator: Evaluator, resources: Resources) -> Evaluator:
    return Neighborhood(evaluator, resources.space, 6)


OTHER_IMAGES = tuple(Variant(f"{n} images", 300, {"images": n}) for n in (16, 128))
IDEAS = (
    *(Variant(f"{n:,} images", 300, {"images": n}) for n in (64, 1024)),
    *(Variant(f"other 256 images, {place}", 300, wrap=elsewhere(place)) for place in (1, 2, 3)),
    Variant("batches of 256", 300, {"batch": 256}),
    *(Variant(f"noise of {d}", 300, wrap=noisy(d)) for d in (0.1, 0.2)),
    Variant("images of 32 pixels", 300, {"side": 32}),
    Variant("mean with 6 neighbours", 300, wrap=near),
)


def rows(ours: str) -> list[Row]:
    """All rows, the cheapest first. ours: the GHN that was trained on the space."""
    small = {"images": 64, **SMALL}
    return [
        Row("params", "params", MOST),
        Row("predicted, small", "predicted", MOST, settings={"checkpoint": ours, **SMALL}, variants=IDEAS),
        Row("predicted by ghn2-cifar10, small", "predicted", 500, settings=SMALL),
        Row("flops", "flops", 300),
        Row("synflow, small", "synflow", MOST, 3, settings=small),
        *(
            Row(f"{s}, small", s, MOST, 3, settings=small, variants=OTHER_IMAGES)
            for s in ("naswot", "grad_norm", "snip", "jacov")
        ),
        Row("blend:jacov,params, small", "blend:jacov,params", MOST, settings=small),
        Row("predicted after 3 steps, small", "predicted:3", 500, settings={"checkpoint": ours, **SMALL}),
        Row("predicted", "predicted", 150, settings={"checkpoint": ours, "images": 128}),
        Row("naswot", "naswot", 150, settings={"images": 128}),
        Row("predicted by ghn2-cifar10", "predicted", 300, space="macro", settings={"side": 16}),
        *(
            Row(s, s, 300, space="macro", settings={"side": 16, "images": 64})
            for s in ("naswot", "synflow", "jacov", "snip", "grad_norm")
        ),
    ]


def measure(
    label: tuple[str, str, int], evaluator: Evaluator, archs: Sequence[Arch], scores: Path, done: dict[str, Result]
) -> None:
    """Scores what is not yet done, appending to the file of scores; `done` holds all of them afterwards, by genes.

    label: row, space and seed.
    """
    for genes in [g for g, r in done.items() if r.evaluator != evaluator.fingerprint]:
        del done[genes]
    with scores.open("a") as file:
        for arch in (a for a in archs if _key(a) not in done):
            began = time.process_time()
            (result,) = evaluator.evaluate([arch], label[2])
            seconds = time.process_time() - began
            record = dict(zip(("row", "space", "seed"), label, strict=True)) | {"genes": _key(arch)}
            record |= {"error": result.error, "seconds": round(seconds, 5), "metrics": result.metrics}
            file.write(json.dumps(record | {"evaluator": result.evaluator}) + "\n")
            file.flush()
            done[_key(arch)] = replace(result, cost=Cost(1, seconds=seconds))


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
    results: Sequence[Result],
    metric: str,
    truth: Tabular,
    name: str,
    others: Mapping[str, Sequence[Result]],
    traits: Mapping[str, Sequence[float]] | None = None,
) -> Certificate:
    return certify(
        results,
        [truth.values[r.arch.genes] for r in results],
        metric,
        name,
        lower_is_better=metric == "loss",
        traits=traits,
        variants=others,
    )


def plain(certificate: Certificate, **more: Any) -> dict[str, Any]:
    """What is kept of a certificate."""
    record = certificate.to_dict()
    for name in ("points", "bias", "evaluator", "made", "origin"):
        del record[name]
    return {**record, **more}


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    found |= {"seed": args.seed, "threads": 1, "machine": versions()}
    for name in SPACES:
        space = make_space(name)
        assert space.truth
        truth = Tabular(space.tables, space.truth, args.tables)
        archs = drawn(space, truth, args.seed)
        table: dict[str, Any] = found.get(name, {}).get("rows", {})
        for row in (r for r in rows(args.checkpoint) if r.space == name):
            table |= _lines(row, archs[: row.n], truth, args)
        table |= _columns(space, COLUMNS[name], archs[:MOST], truth, args.tables)
        table |= _columns(space, NASLIB.get(name, ()), archs, truth, args.tables)
        found[name] = {"truth": space.truth, "rows": table}
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    SHIPPED.write_text(json.dumps(args.certificates, separators=(",", ":")) + "\n")


def _lines(row: Row, archs: Sequence[Arch], truth: Tabular, args: argparse.Namespace) -> dict[str, Any]:
    """A line of the table for each of the row's metrics, of what is measured; none where that is hardly anything."""
    wanted = args.only is None or row.name in args.only
    resources = Resources(make_space(row.space), args.tables, args.data, **row.settings)
    evaluator = resources.make(row.spec) if wanted else None
    runs = [kept((row.name, row.space, seed), evaluator, archs, args.scores) for seed in range(row.seeds)]
    runs = [run for run in runs if len(run) == len(runs[0])]
    if len(runs[0]) < LEAST:
        return {}
    variants = {}
    for v in row.variants:
        other = Resources(make_space(row.space), args.tables, args.data, **{**row.settings, **v.settings})
        made = v.wrap(other.make(row.spec), other) if wanted else None
        variants[v.name] = kept((f"{row.name}; {v.name}", row.space, 0), made, archs[: v.n], args.scores)
    lines, traits = {}, traits_of(resources.space, [r.arch for r in runs[0]])
    for metric in next(r for r in runs[0] if r.metrics).metrics:
        others = {f"seed {seed}": run for seed, run in enumerate(runs) if seed}
        certificate = certified(runs[0], metric, truth, truth.metrics[0], others, traits)
        name = row.name if metric == row.spec.partition(":")[0] else f"{row.name}: {metric}"
        beside = {v: _beside(run, runs[0], metric, truth) for v, run in variants.items() if len(run) >= LEAST}
        lines[name] = plain(certificate, seed_spread=certificate.seed_spread, made_otherwise=beside)
        lines |= _with_size(name, runs[0], metric, truth)
        shipped = replace(certificate, points=(), made=resources.options(row.spec))
        args.certificates[f"{row.space} {name}"] = _rounded(shipped.to_dict())
        print(f"{row.space} {name}: {certificate}", flush=True)
        print(*(f"  {v}: {found}" for v, found in beside.items()), sep="\n", flush=True)
    return lines


def kept(label: tuple[str, str, int], evaluator: Evaluator | None, archs: Sequence[Arch], scores: Path) -> list[Result]:
    """The results of these architectures, as far as they are; all of them where the evaluator is given."""
    done = _known(scores, label, archs)
    if evaluator:
        measure(label, evaluator, archs, scores, done)
    return [done[_key(a)] for a in archs if _key(a) in done]


def _known(scores: Path, label: tuple[str, str, int], archs: Sequence[Arch]) -> dict[str, Result]:
    """What the file of scores holds under this label, by genes: what the evaluator that came last found."""
    wanted = {_key(a): a for a in archs}
    records = (json.loads(line) for line in scores.read_text().splitlines()) if scores.exists() else ()
    mine = [r for r in records if (r["row"], r["space"], r["seed"]) == label]
    return {
        r["genes"]: _result(r, wanted[r["genes"]])
        for r in mine
        if r["genes"] in wanted and r["evaluator"] == mine[-1]["evaluator"]
    }


def _beside(run: Sequence[Result], base: Sequence[Result], metric: str, truth: Tabular) -> dict[str, Any]:
    """Tau, overall and in the best tenth, of a variant, of the plain scores of the same architectures, and of the mean
    of both."""
    sign = -1 if metric == "loss" else 1
    by_genes = {r.arch.genes: r for r in base}
    rows = [(r, by_genes[r.arch.genes]) for r in run if r.metrics and by_genes[r.arch.genes].metrics]
    real = np.array([truth.values[r.arch.genes] for r, _ in rows])
    new, old = (np.array([sign * pair[i].metrics[metric] for pair in rows]) for i in range(2))
    best = top(real, round(TOP * len(real)))
    found: dict[str, Any] = {"n": len(rows), "seconds": round(statistics.median(r.cost.seconds for r, _ in rows), 4)}
    for name, scores in (("variant", new), ("plain", old), ("mean", percentiles(new) + percentiles(old))):
        found[name] = [round(kendall(scores, real), 4), round(kendall(scores[best], real[best]), 4)]
    return found


def _rounded(value: Any) -> Any:
    """Floats to four digits, wherever they stand."""
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


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
    args.certificates = json.loads(SHIPPED.read_text()) if SHIPPED.exists() else {}
    return args


if __name__ == "__main__":
    main()
