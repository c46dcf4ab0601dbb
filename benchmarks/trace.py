"""CPU seconds to turn a module into a graph: ours, again, and the peers' ways, over torchvision's and timm's networks.

Run: python benchmarks/trace.py [--largest 60] [--every 1] [--repeats 2] [--models NAME ...] [--ppuda DIR [--ghn3 DIR]]
         [--out benchmarks/results/trace.json [--resume]]

On the same module, built on the CPU at its own image size, in turn: `ours` (ghn.trace with nothing remembered),
`distances` (the same with the distances between nodes, which GHN-2 and GHN-3 read), `again` (ghn.trace of an
architecture seen before), `walk` (a real forward pass in evaluation with one image, then a walk over the autograd
graph that names each parameter, without making a graph of it), and with checkouts of facebookresearch/ppuda and
SamsungSAILMontreal/ghn3, `ppuda` and `ghn3`: their own Graph(model), to the graph, and with their distances.
The least of the repeats of each, after one that is not counted; ours and again are the mean of several calls each time.
A ratio is the other way's seconds over ours, for the same result, over the networks of which that way makes a graph.
Networks: torchvision's classifiers and one of each of timm's families, up to --largest million parameters, every
--every'th of them. Rows are written as they come. A process of its own traces a Llama of 70 billion parameters from
its config.
"""

import argparse
import itertools
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import peer_graph  # noqa: E402
from predict import cpu  # noqa: E402
from zoo import torchvision_classifiers  # noqa: E402

import ghn  # noqa: E402
from ghn.adapters.zoo import catalogue, resolve  # noqa: E402
from ghn.files import replacing  # noqa: E402
from ghn.tracing import forget  # noqa: E402

LLAMA_70B = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


CALLS = {"ours": 5, "distances": 2, "again": 10, "walk": 1}  # in one measurement
Peers = dict[str, Callable[[nn.Module], peer_graph.Timed]]


def seconds(run: Callable[[], Any], calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        run()
    return (time.process_time() - start) / calls


def walk(model: nn.Module, image: torch.Tensor) -> tuple[set[str], int]:
    """The parameters met, and how many autograd nodes were."""
    names = {id(p): name for name, p in model.named_parameters()}
    out = model(image)
    todo = [out.grad_fn if isinstance(out, torch.Tensor) else out[0].grad_fn]
    seen, found = set(), set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(names.get(id(node.variable), ""))
        todo += [n for n, _ in node.next_functions]
    return found, len(seen)


def fresh(model: nn.Module) -> ghn.ArchGraph:
    forget()
    return ghn.trace(model)


def measure(name: str, repeats: int, peers: Peers) -> dict[str, Any]:
    model = resolve(name, 1000, None, device="cpu").eval()
    size: Any = model.expected_input_sz
    image = torch.rand(1, *(size if isinstance(size, tuple | list) else (3, size, size)))
    ways = {
        "ours": lambda: fresh(model),
        "distances": lambda: fresh(model).distances,
        "again": lambda: ghn.trace(model),
        "walk": lambda: walk(model, image),
    }
    spent: dict[str, list[float]] = {way: [] for way in ways}
    theirs: dict[str, list[peer_graph.Timed]] = {peer: [] for peer in peers}
    for repeat in range(repeats + 1):
        for way, run in ways.items():
            took = seconds(run, CALLS[way] if repeat else 1)
            if repeat:
                spent[way].append(took)
        for peer, make in peers.items():
            if not any(timed.failure for timed in theirs[peer]):
                theirs[peer].append(make(model))
    graph = ghn.trace(model)
    row: dict[str, Any] = {way: min(values) for way, values in spent.items()}
    found, met = walk(model, image)
    row |= {
        "nodes": len(graph),
        "parameters": len(graph.slots) + len(graph.uncovered),
        "covered": len(graph.slots),
        "covered_by_walk": len(found),
        "autograd_nodes": met,
        "walk_over_ours": row["walk"] / row["ours"],
        "walk_over_again": row["walk"] / row["again"],
    }
    for peer, timed in theirs.items():
        row |= _compared(peer, timed, row)
    return row


def _compared(peer: str, timed: Sequence[peer_graph.Timed], row: dict[str, Any]) -> dict[str, Any]:
    """The peer's columns: seconds and ratios, or why it makes no graph."""
    if timed[-1].failure:
        return {f"{peer}_failure": timed[-1].failure}
    graph, whole = (min(values) for values in zip(*((t.graph, t.whole) for t in timed[1:]), strict=True))
    return {
        peer: graph,
        f"{peer}_distances": whole,
        f"{peer}_nodes": timed[-1].nodes,
        f"{peer}_over_ours": graph / row["ours"],
        f"{peer}_over_ours_distances": whole / row["distances"],
        f"{peer}_over_again": graph / row["again"],
    }


def names(largest: float) -> Iterator[str]:
    """Those of the zoo that are small enough to be run for real."""
    for name in [*torchvision_classifiers(), *catalogue("timm")]:
        if sum(p.numel() for p in resolve(name, 1000, None).parameters()) <= largest:
            yield name


def llama() -> dict[str, float]:
    """Of this process: seconds from config to graph, peak memory in MiB, what was covered."""
    from ghn.adapters.zoo import example_input, transformer

    begun = time.perf_counter()
    transformer("llama/AutoModelForCausalLM", **LLAMA_70B | {"num_hidden_layers": 1})  # imports transformers
    start = time.perf_counter()
    model = transformer("llama/AutoModelForCausalLM", **LLAMA_70B)
    built = time.perf_counter()
    graph = ghn.trace(model, example_input(model))
    done = time.perf_counter()
    return {
        "parameters": graph.num_params,
        "tensors": len(graph.slots),
        "uncovered": len(graph.uncovered),
        "nodes": len(graph),
        "import_seconds": start - begun,
        "build_seconds": built - start,
        "trace_seconds": done - built,
        "cpu_seconds": time.process_time(),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "p95": ordered[int(0.95 * (len(ordered) - 1))],
        "min": ordered[0],
        "max": ordered[-1],
        "n": len(ordered),
    }


def summary(rows: dict[str, dict[str, Any]], peers: Iterable[str]) -> dict[str, Any]:
    keys = ["ours", "distances", "again", "walk", "walk_over_ours", "walk_over_again"]
    for peer in peers:
        ratios = (f"{peer}_over_{what}" for what in ("ours", "ours_distances", "again"))
        keys += [peer, f"{peer}_distances", *ratios]
    found: dict[str, Any] = {
        key: spread([row[key] for row in rows.values() if key in row])
        for key in keys
        if any(key in row for row in rows.values())
    }
    return found | {f"{peer}_failures": sum(f"{peer}_failure" in row for row in rows.values()) for peer in peers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=float, default=60, help="million parameters, of what is run for real")
    parser.add_argument("--every", type=int, default=1, help="take every n-th network only")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", action="store_true", help="keep the rows that --out has")
    parser.add_argument("--models", nargs="+", help="these, in place of the zoos")
    parser.add_argument("--ppuda", type=Path, metavar="DIR", help="a checkout of ppuda, to be timed as well")
    parser.add_argument("--ghn3", type=Path, metavar="DIR", help="a checkout of ghn3, which needs --ppuda")
    parser.add_argument("--llama", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if args.llama:
        print(json.dumps(llama()))
        return
    peers: Peers = {}
    if args.ppuda:
        peers["ppuda"] = peer_graph.ppuda(args.ppuda)
    if args.ghn3:
        peers["ghn3"] = peer_graph.ghn3(args.ghn3, args.ppuda)
    record: dict[str, Any] = {"models": {}}
    if args.resume and args.out.exists():
        record = json.loads(args.out.read_text())
    rows = record["models"]
    record["versions"] = {"python": platform.python_version(), "torch": torch.__version__, "cpu": cpu()}
    record["repeats"] = args.repeats
    wanted = args.models or itertools.islice(names(1e6 * args.largest), 0, None, args.every)
    for name in wanted:
        if name not in rows:
            rows[name] = row = measure(name, args.repeats, peers)
            print(name, {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
            record["summary"] = summary(rows, peers)
            _save(record, args.out)
    if "llama_70b" not in record:
        done = subprocess.run([sys.executable, __file__, "--llama"], capture_output=True, text=True, check=True)
        record["llama_70b"] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(record["summary"], indent=1), json.dumps(record["llama_70b"], indent=1), sep="\n")
    _save(record, args.out)


def _save(record: dict[str, Any], out: Path | None) -> None:
    if out:
        with replacing(out) as file:
            file.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
