"""Graphs per second and bytes per graph of making an architecture corpus, and reads per second of one.

Run: python benchmarks/generate.py [--quick] [--rounds 20] [--count 100000] [--peer DIR]
         [--out benchmarks/results/generate.json]

Three ways of making graphs take turns, A B C A B C ..., on one thread of one process, and CPU seconds are counted:
`literal` (benchmarks/literal_generator.py: real weights, a forward pass, a walk along autograd's graph, networkx
distances, HDF5), `traced` (our genotypes, our modules without weights, ghn.trace, distances, HDF5) and `ours` (whole
shards of unique graphs on disk, nothing built); with --peer, `peer` as well: the original generator, where the folder
is a checkout of facebookresearch/ppuda. A ratio's interval is the middle 95% of the ratios of 2,000 resamplings of the
rounds. Then `ghn generate` runs as a user runs it, on --workers processes, and what it wrote is read at random places
beside the HDF5 file of the literal way, in turn again: what that file holds (`peer_arrays`) and what a GHN needs, which
takes the network as well, for its shapes (`peer_tensors`). The stages are what one unique graph costs in each step, the
candidates that are left out included.
"""

import argparse
import gc
import importlib
import io
import itertools
import json
import os
import platform
import random
import runpy
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import literal_generator as literally
import numpy as np
import torch
from peer_store import PeerStore
from predict import cpu

import ghn
from deepnets_gen import families, stream
from deepnets_gen.corpus import Corpus
from deepnets_gen.shards import Encoder, decode
from deepnets_gen.splits import Part, named
from deepnets_gen.write import dictionary, write_corpus
from ghn.identity import identities
from ghn.sketch import Arrays

SPLIT = "train"
MILLION = 1_000_000
PUBLISHED = {"graphs_per_cpu_second": 4.9, "bytes_per_graph": 42_800, "published_bytes_per_graph": 10_300, "reads": 190}
COMMAND = "import sys; from ghn.cli import main; sys.exit(main())"


def seconds(run: Callable[[], Any]) -> float:
    """CPU seconds of one call, this process's children not counted; its result is dropped after the clock stops."""
    start = time.process_time()
    result = run()
    spent = time.process_time() - start
    del result
    return spent


def spread(values: list[float]) -> dict[str, float]:
    """Median, quartiles and number of the values."""
    low, middle, high = np.percentile(values, [25, 50, 75]).tolist()
    return {"median": middle, "q1": low, "q3": high, "n": len(values)}


def bootstrap(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Total of `slow` over total of `fast`, with its 95% interval over resampled rounds; both per graph."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(slow), size=(2000, len(slow)))
    ratios = np.array(slow)[picks].sum(axis=1) / np.array(fast)[picks].sum(axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5]).tolist()
    return {"ratio": sum(slow) / sum(fast), "low": low, "high": high}


def literal_round(networks: Iterator[literally.Literal], store: PeerStore, count: int) -> None:
    for _ in range(count):
        network = next(networks)
        store.add(network.genotype, network.paths, network.rows)


def traced_round(genotypes: Iterator[Any], store: PeerStore, count: int) -> None:
    for _ in range(count):
        genotype = next(genotypes)
        graph = ghn.trace(families.build(genotype, device="meta"), image_size=32)
        shapes = [tuple(shape) for shape in graph.shapes.tolist()]
        rows = store.tables.rows(graph.ops.tolist(), list(graph.names), shapes)
        store.add(genotype, graph.distances, rows)


def peer(checkout: Path, folder: Path) -> Callable[[int], None]:
    """DeepNets-1M's own generator, to be called with a number of graphs; each call draws other ones.

    checkout: of ppuda, whose requirements (einops, torchvision) must be installed.
    """
    ghn.import_torchvision()
    sys.path.insert(0, str(checkout))
    script = str(checkout / "experiments" / "net_generator.py")
    importlib.import_module("ppuda.utils").set_seed = lambda seed: None  # it would draw the same networks every time
    calls = itertools.count()

    def run(count: int) -> None:
        out = folder / f"peer{next(calls)}"
        with patch.object(sys, "argv", [script, SPLIT, str(count), str(out)]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with redirect_stdout(io.StringIO()):
                runpy.run_path(script, run_name="__main__")

    return run


def making(
    folder: Path, rounds: int, counts: dict[str, int], checkout: Path | None
) -> tuple[dict[str, Any], PeerStore]:
    """CPU seconds per graph of every way, interleaved, and the store that the literal one filled."""
    stores = {way: PeerStore(folder / f"{way}.hdf5") for way in ("literal", "traced")}
    networks = literally.generate(np.random.default_rng(0), stores["literal"].tables)
    genotypes = stream.generate(SPLIT, MILLION, seed_offset=1)
    shards, size = iter(range(2, rounds + 3)), counts["ours"]

    def ours() -> None:
        offset = next(shards)
        write_corpus(SPLIT, size, folder / f"ours{offset}", workers=1, shard_size=size, seed_offset=offset)

    ways: dict[str, Callable[[], None]] = {
        "literal": lambda: literal_round(networks, stores["literal"], counts["literal"]),
        "traced": lambda: traced_round(genotypes, stores["traced"], counts["traced"]),
        "ours": ours,
    }
    if checkout is not None:
        theirs = peer(checkout, folder)
        ways = {"peer": lambda: theirs(counts["peer"]), **ways}
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for way in ways.values():  # once unmeasured: imports, caches, the first pages of memory
        way()
    gc.collect()
    gc.freeze()  # what the libraries hold is no part of any way's garbage
    for _ in range(rounds):
        for way, run in ways.items():
            spent[way].append(seconds(run) / counts[way])
    size_of = {way: store.bytes_per_graph for way, store in stores.items()}
    corpora = [Corpus(path) for path in folder.glob("ours*")]
    files = list(folder.glob("peer*/*.hdf5"))
    size_of["peer"] = sum(f.stat().st_size for f in files) / max(len(files) * counts["peer"], 1)
    size_of["ours"] = sum(c.manifest.bytes for c in corpora) / sum(len(c) for c in corpora)
    result = {
        way: {
            "graphs_per_cpu_second": spread([1 / s for s in spent[way]]),
            "graphs": counts[way] * rounds,
            "bytes_per_graph": size_of[way],
        }
        for way in ways
    }
    ratios = {f"ours_over_{way}": bootstrap(spent[way], spent["ours"]) for way in ways if way != "ours"}
    return {**result, **ratios}, stores["literal"]


def stages(blocks: int, size: int = stream.HELD) -> dict[str, float]:
    """CPU microseconds per unique graph in every step of making and reading, over so many blocks of candidates."""
    split, typical = named(SPLIT), dictionary(SPLIT)
    encoder, spent, unique = Encoder(typical), Counter[str](), 0

    def stage(name: str, run: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        start = time.process_time()
        results = [run(item) for item in items]
        spent[name] += time.process_time() - start
        return results

    gc.disable()  # as the stream does
    for start in range(0, blocks * size, size):
        drawn = stage("draw", lambda i: split.draw(random.Random(i), i), range(start, start + size))
        valid = [g for g in drawn if g is not None]
        fits = stage("limit", split.small, valid)
        small = [g for g, fit in zip(valid, fits, strict=True) if fit]
        sketches = stage("sketch", families.sketch, small)
        (found,) = stage("identity", identities, [sketches])
        parts = stage("part", Part.of, [identity.topology for identity in found])
        kept = [(g, i.key) for g, i, part in zip(small, found, parts, strict=True) if part is split.part]
        unique += len({key for _, key in kept})
        records = stage("encode", lambda pair: encoder(families.to_record(pair[0])), kept)
        plain = stage("read: inflate, parse", lambda data: decode(data, typical), records)
        genotypes = stage("read: genotype", families.from_record, plain)
        graphs = stage("read: graph", families.graph, genotypes)
        stage("read: distances", lambda graph: graph.distances, graphs)
        again = stage("read: sketch alone", families.sketch, genotypes)
        stage("read: arrays with distances", lambda sketch: tensors(sketch.arrays()), again)
    gc.enable()
    return {name: 1e6 * s / unique for name, s in spent.items()}


def tensors(arrays: Arrays) -> tuple[torch.Tensor, ...]:
    """Types, edges, shapes and distances of a graph, for torch."""
    return tuple(torch.from_numpy(array) for array in arrays)


def reading(corpus: Corpus, store: PeerStore, rounds: int, count: int) -> dict[str, Any]:
    """Random reads per CPU second of every kind, interleaved, each round at other places."""
    rng = random.Random(0)
    peers = h5py.File(store.path, "r")
    ours, theirs = len(corpus), len(store)
    kinds: dict[str, tuple[int, int, Callable[[int], Any]]] = {
        "genotype": (ours, count, corpus.genotype),
        "graph": (ours, count, corpus.graph),
        "graph_with_distances": (ours, count, lambda i: corpus.graph(i).distances),
        "tensors": (ours, count, lambda i: tensors(corpus.arrays(i))),
        "peer_arrays": (theirs, count, lambda i: store.arrays(peers, i)),
        "peer_tensors": (theirs, count // 20, lambda i: store.tensors(peers, i)),  # 20 times as slow
    }
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, (size, times, read) in kinds.items():
            places = [rng.randrange(size) for _ in range(times)]
            rates[kind].append(times / seconds(lambda read=read, places=places: deque(map(read, places), 0)))
    peers.close()
    return {kind: spread(values) for kind, values in rates.items()}


def command(out: Path, count: int, workers: int) -> dict[str, Any]:
    """Wall and CPU seconds, rate and peak memory in MiB of `ghn generate` as a user runs it."""
    options = ["generate", "--split", SPLIT, "--count", str(count), "--out", str(out), "--workers", str(workers)]
    before, start = os.times(), time.perf_counter()
    peaks: dict[int, float] = {}
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *options], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        for pid in (process.pid, *_descendants(process.pid)):
            peaks[pid] = max(peaks.get(pid, 0.0), _peak(pid))
        time.sleep(0.2)
    wall, after = time.perf_counter() - start, os.times()
    if process.returncode:
        raise SystemExit(f"ghn {' '.join(options)} failed with exit code {process.returncode}")
    parent = peaks.pop(process.pid)
    return {
        "count": count,
        "workers": workers,
        "wall_seconds": wall,
        "cpu_seconds": after.children_user - before.children_user + after.children_system - before.children_system,
        "unique_per_wall_second": count / wall,
        "million_minutes": MILLION / count * wall / 60,
        "parent_peak_mib": parent,
        "worker_peak_mib": sorted(peaks.values())[-workers:],
        "funnel": Corpus(out).manifest.to_dict()["funnel"],
        "bytes_per_graph": sum(f.stat().st_size for f in out.iterdir()) / count,
    }


def _descendants(pid: int) -> list[int]:
    """Children of a process and theirs, as far as they are still there."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        found += [p for child in children for p in (child, *_descendants(child))]
    return found


def _peak(pid: int) -> float:
    """MiB that a process had at most in memory until now; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def versions() -> dict[str, Any]:
    """Where and with what this was measured."""
    root = Path(__file__).resolve().parents[1]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True)
    return {
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "cpu": cpu(),
        "load": os.getloadavg()[0],
    }


def report(results: dict[str, Any]) -> None:
    """The figures in words."""
    make, run = results["making"], results["command"]
    print("making, one thread: graphs per CPU second, median (quartiles); bytes a graph")
    ways = [way for way in ("peer", "literal", "traced", "ours") if way in make]
    for way in ways:
        r = make[way]["graphs_per_cpu_second"]
        print(f"  {way:8s}{r['median']:9.1f} ({r['q1']:.1f}-{r['q3']:.1f}){make[way]['bytes_per_graph']:10.0f}")
    print(f"  peer    {PUBLISHED['graphs_per_cpu_second']:9.1f} (measured before){PUBLISHED['bytes_per_graph']:10d}")
    for way in ways[:-1]:
        r = make[f"ours_over_{way}"]
        print(f"  ours is {r['ratio']:.0f} times as fast as {way} ({r['low']:.0f}-{r['high']:.0f})")
    print(f"one unique graph, CPU microseconds: {', '.join(f'{k} {v:.0f}' for k, v in results['stages'].items())}")
    print(
        f"ghn generate, {run['count']:,} graphs, {run['workers']} workers: {run['wall_seconds']:.1f} s wall, "
        f"{run['unique_per_wall_second']:.0f} a second, a million in {run['million_minutes']:.1f} minutes; "
        f"parent {run['parent_peak_mib']:.0f} MiB, workers {max(run['worker_peak_mib']):.0f} MiB"
    )
    print("random reads per CPU second")
    for kind, rate in results["reading"].items():
        print(f"  {kind:22s}{rate['median']:9.0f} ({rate['q1']:.0f}-{rate['q3']:.0f})")
    print(f"  peer's loader         {PUBLISHED['reads']:9d} (measured before)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--count", type=int, default=100_000, help="graphs that the command makes")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--peer", type=Path, metavar="DIR", help="a checkout of ppuda, to be timed as well")
    parser.add_argument("--quick", action="store_true", help="a smoke run of seconds; its figures mean nothing")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rounds, count = (2, 300) if args.quick else (args.rounds, args.count)
    slow, fast = (2, 100) if args.quick else (12, 2000)
    counts = {"peer": slow, "literal": slow, "traced": slow, "ours": fast}
    with tempfile.TemporaryDirectory() as folder:
        made, store = making(Path(folder), rounds, counts, args.peer)
        run = command(Path(folder) / "corpus", count, args.workers)
        read = reading(Corpus(Path(folder) / "corpus"), store, rounds, 40 if args.quick else 500)
    results = {
        "making": made,
        "stages": stages(1 if args.quick else 10),
        "command": run,
        "reading": read,
        "peer": PUBLISHED,
    }
    report(results)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        record = {"versions": versions(), "threads": 1, **results}
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
