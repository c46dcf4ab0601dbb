"""The generator's distribution against the original's: its recorded draws, its published table, its node counts.

Run: python benchmarks/distribution.py [--records FILE] [--scale 1] [--out benchmarks/results/distribution.json]

Four questions. Are our draws and the original's (800 of train, 200 of bnfree, 100 of deep, 120 of dense, with their
arguments) draws of one distribution? The graphs of both sides are derived by our rules, so that only the draws differ.
Do the means agree with the published ones? Does our graph of every recorded network explain its recorded node and
parameter counts to the last node? Does keeping each split to its own part of all topologies shift any distribution?
The tables go into docs/distribution.md, too.
"""

import argparse
import json
import math
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from peer_count import noticed, recorded_nodes  # noqa: E402

from deepnets_gen import families  # noqa: E402
from deepnets_gen.axes import Axes  # noqa: E402
from deepnets_gen.compare import against, compare, compare_numbers  # noqa: E402
from deepnets_gen.genotype import Genotype  # noqa: E402
from deepnets_gen.layout import num_params  # noqa: E402
from deepnets_gen.published import PUBLISHED  # noqa: E402
from deepnets_gen.sample import candidate, small_enough  # noqa: E402
from deepnets_gen.splits import Part  # noqa: E402
from deepnets_gen.stats import Counts, Table, table  # noqa: E402
from deepnets_gen.stats_cli import read_records, records_table  # noqa: E402
from deepnets_gen.stream import generate  # noqa: E402
from ghn.files import write_atomic  # noqa: E402
from ghn.primitives import Primitive  # noqa: E402

COUNTS = {"train": 4000, "val": 2000, "test": 2000, "wide": 1000, "deep": 1000, "dense": 1000, "bnfree": 2000}
RECORDED = {"train": "train", "val": "train", "test": "train", "deep": "deep", "dense": "dense", "bnfree": "bnfree"}
COUNTED = 500  # of our networks, counted as the original counts them
PARTED = 8000  # candidates of a pool drawn without regard to parts
POOLS = (0, 1)  # their seeds: what one shows by chance, the other does not
PERMUTATIONS = 9999
SIDES = {"cifar10": 32, "imagenet": 224}
DOCUMENT = ROOT / "docs" / "distribution.md"
MARKS = ("<!-- tables: benchmarks/distribution.py writes them -->", "<!-- end of tables -->")


def entries(genotypes: Iterable[Genotype]) -> Table:
    """The networks in columns."""
    return table((genotype, families.graph(genotype)) for genotype in genotypes)


def explained(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Of recorded networks: how many node and parameter counts ours account for, and what they lack."""
    found: Counter[str] = Counter()
    for record in records:
        genotype = Genotype.from_dict(record)
        ops = families.sketch(genotype).ops
        special = {p: ops.count(p.value) for p in (Primitive.CSE, Primitive.MSA)}
        kept = noticed(genotype)
        found["networks"] += 1
        found["without attention and squeeze-excite"] += not sum(special.values())
        found["of these, our count is the recorded one"] += (
            not sum(special.values()) and len(ops) == record["num_nodes"]
        )
        found["predicted exactly"] += recorded_nodes(genotype) == record["num_nodes"]
        found["parameters exact"] += all(
            num_params(genotype, 10, side, everything=True) == record["num_params"][name]
            for name, side in SIDES.items()
        )
        found["cse nodes"] += special[Primitive.CSE]
        found["cse nodes recorded"] += kept[0]
        found["msa nodes"] += special[Primitive.MSA]
        found["msa nodes recorded"] += kept[1]
        found["nodes"] += len(ops)
        found["nodes recorded"] += record["num_nodes"]
    return dict(found)


def recorded(split: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Our draws, counted as the original would, against the counts that it recorded."""
    ours = np.array([recorded_nodes(genotype) for genotype in islice(generate(split, COUNTED), COUNTED)])
    return asdict(compare_numbers(ours, np.array([record["num_nodes"] for record in records])))


def parts(seed: int, count: int) -> dict[str, Any]:
    """Networks of each part of all topologies against those of the other parts, from one pool drawn regardless."""
    source, axes, rng = Random(seed), Axes(), np.random.default_rng(seed)
    drawn = (candidate(source, axes) for _ in range(count))
    pool = [(g, families.graph(g)) for g in drawn if g is not None and small_enough(g, axes)]
    member = np.array([Part.of(graph.topology).name for _, graph in pool])
    everything = table(pool)
    return {
        part.name.lower(): compare(
            chosen(everything, member == part.name), chosen(everything, member != part.name), rng, PERMUTATIONS
        ).to_dict()
        for part in Part
    }


def chosen(everything: Table, which: np.ndarray) -> Table:
    """The networks of a table for which this is true; every quantity must be there for every network."""
    return Table(
        int(which.sum()),
        {name: values[which] for name, values in everything.numbers.items()},
        {name: values[which] for name, values in everything.traits.items()},
        {name: Counts(counts.labels, counts.rows[which]) for name, counts in everything.counts.items()},
    )


def significances(comparison: dict[str, Any]) -> list[tuple[float, str]]:
    """(p, quantity) of all tests, least first."""
    return sorted((test["p"], name) for kind in ("numbers", "counts") for name, test in comparison[kind].items())


def measure(records_file: Path, scale: float) -> dict[str, Any]:
    """Everything that the tables show. scale: of all sample sizes."""
    rng = np.random.default_rng(0)
    out: dict[str, Any] = {"original": {}, "published": {}, "counts": {}, "recorded": {}}
    tables = {}
    for split, count in COUNTS.items():
        print(split, file=sys.stderr, flush=True)
        tables[split] = entries(generate(split, math.ceil(count * scale)))
        out["published"][split] = asdict(against(tables[split], PUBLISHED[split]))
    for split, name in RECORDED.items():
        theirs = records_table(read_records(records_file, name))
        out["original"][split] = compare(tables[split], theirs, rng, PERMUTATIONS).to_dict()
    for name in dict.fromkeys(RECORDED.values()):
        print(name, "as recorded", file=sys.stderr, flush=True)
        records = [dict(record) for record in read_records(records_file, name)]
        out["counts"][name] = explained(records)
        out["recorded"][name] = recorded(name, records)
    print("parts", file=sys.stderr, flush=True)
    out["parts"] = {f"pool {seed}": parts(seed, math.ceil(PARTED * scale)) for seed in POOLS}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ROOT.parent / "shared" / "reference" / "deepnets1m_stats.json"
    parser.add_argument("--records", type=Path, default=default, metavar="FILE", help="the original's draws")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="of all sample sizes (default: 1)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/distribution.json", metavar="FILE")
    args = parser.parse_args()
    start = time.process_time()
    found = measure(args.records, args.scale)
    found = {"python": platform.python_version(), "cpu_seconds": round(time.process_time() - start), **found}
    write_atomic(args.out, (json.dumps(found, indent=1) + "\n").encode())
    text = markdown(found)
    print(text)
    if args.scale == 1 and DOCUMENT.exists():
        before, _, rest = DOCUMENT.read_text().partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        write_atomic(DOCUMENT, f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}".encode())


def markdown(found: dict[str, Any]) -> str:
    """The tables."""
    sections = [_original(found["original"]), _published(found["published"]), _counts(found), _parts(found["parts"])]
    return "\n\n".join(sections)


def _original(found: dict[str, Any]) -> str:
    everything = [p for comparison in found.values() for p, _ in significances(comparison)]
    below = sum(p < 0.05 for p in everything)
    note = (
        f"{len(everything)} comparisons, {below} of them with p < 0.05, where draws of one distribution would give "
        f"about {0.05 * len(everything):.0f}; the least p is {min(everything):.4f}, times the number of comparisons "
        f"{min(1.0, min(everything) * len(everything)):.2f}. Effects are Cohen's d for numbers, Cramér's V for kinds."
    )
    sizes = [_pair(comparison["numbers"]["nodes"]["networks"]) for comparison in found.values()]
    rows: list[list[Any]] = [["networks, ours / theirs", *sizes]]
    for name in next(iter(found.values()))["numbers"]:
        tests = [comparison["numbers"][name] for comparison in found.values()]
        rows.append([name, *(f"d {t['d']:+.3f}, KS {t['ks']:.3f}, p {t['p']:.2f}" for t in tests)])
    for name in next(iter(found.values()))["counts"]:
        tests = [comparison["counts"][name] for comparison in found.values()]
        rows.append([name, *(f"V {t['v']:.3f}, p {t['p']:.2f}" for t in tests)])
    return f"### Our draws and the original's\n\n{note}\n\n{_table(['', *found], rows)}"


def _published(found: dict[str, Any]) -> str:
    heads = [
        "split",
        "networks",
        "nodes here",
        "nodes published",
        "difference / its error",
        "path here",
        "path published",
    ]
    rows = [
        [
            split,
            _pair(a["networks"]),
            *(f"{m:.1f} ± {s:.1f}" for m, s in zip(a["nodes"], a["nodes_sd"], strict=True)),
            f"{a['z']:+.1f}",
            f"{a['path'][0]:.2f} (error {a['path_error']:.2f})",
            f"{a['path'][1]:.1f}",
        ]
        for split, a in found.items()
    ]
    return f"### Our draws and the published table\n\n{_table(heads, rows)}"


def _counts(found: dict[str, Any]) -> str:
    counts = found["counts"]
    labels = list(next(iter(counts.values())))
    rows = [[label, *(f"{counts[split][label]:,}" for split in counts)] for label in labels]
    text = f"### The recorded node counts\n\n{_table(['', *counts], rows)}"
    heads = ["split", "networks", "recorded nodes, ours", "the original's", "d", "KS", "p"]
    rows = []
    for split, t in found["recorded"].items():
        sides = [f"{m:.1f} ± {s:.1f}" for m, s in zip(t["mean"], t["sd"], strict=True)]
        rows.append([split, _pair(t["networks"]), *sides, f"{t['d']:+.3f}", f"{t['ks']:.3f}", f"{t['p']:.3f}"])
    return f"{text}\n\nOur own draws, counted as the original counts:\n\n{_table(heads, rows)}"


def _parts(found: dict[str, Any]) -> str:
    heads = ["part", "networks in, out", "nodes in", "nodes out", "largest effects", "the three least p", "of tests"]
    rows = []
    for part, comparison in ((f"{pool}, {part}", c) for pool, parts in found.items() for part, c in parts.items()):
        t = comparison["numbers"]["nodes"]
        d = max(abs(x["d"]) for x in comparison["numbers"].values())
        v = max(x["v"] for x in comparison["counts"].values())
        sides = [f"{m:.1f} ± {s:.1f}" for m, s in zip(t["mean"], t["sd"], strict=True)]
        tests = significances(comparison)
        least = ", ".join(f"{p:.4f} {name}" for p, name in tests[:3])
        rows.append([part, _pair(t["networks"]), *sides, f"d {d:.3f}, V {v:.3f}", least, len(tests)])
    return f"### Parts\n\n{_table(heads, rows)}"


def _pair(networks: Iterable[int]) -> str:
    return " / ".join(f"{n:,}" for n in networks)


def _table(heads: list[str], rows: list[list[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


if __name__ == "__main__":
    main()
