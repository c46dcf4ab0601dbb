"""CPU seconds to turn a module into a graph: ours, again, and the peers' way, over torchvision's and timm's networks.

Run: python benchmarks/trace.py [--largest 60] [--repeats 3] [--models NAME ...] [--out benchmarks/results/trace.json]

On the same module, built on the CPU at its own image size, in turn: `ours` (ghn.trace with nothing remembered), `again`
(ghn.trace of an architecture seen before), and `walk` (a real forward pass in evaluation with one image, then a walk
over the autograd graph that names each parameter: what the peers' tracers begin with, before they make nodes and
edges of it, match and repair).
The least of the repeats of each, after one that is not counted. Networks: torchvision's classifiers and one of each
of timm's families, up to --largest million parameters. A process of its own traces a Llama of 70 billion parameters
from its config.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from predict import cpu  # noqa: E402
from zoo import torchvision_classifiers  # noqa: E402

import ghn  # noqa: E402
from ghn.adapters.zoo import catalogue, resolve  # noqa: E402
from ghn.tracing import forget  # noqa: E402

LLAMA_70B = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


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


def measure(name: str, repeats: int) -> dict[str, Any]:
    model = resolve(name, 1000, None, device="cpu").eval()
    size: Any = model.expected_input_sz
    image = torch.rand(1, *(size if isinstance(size, tuple | list) else (3, size, size)))
    ways = {"ours": lambda: fresh(model), "again": lambda: ghn.trace(model), "walk": lambda: walk(model, image)}
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(repeats + 1):
        for way, run in ways.items():
            took = seconds(run)
            if repeat:
                spent[way].append(took)
    graph = ghn.trace(model)
    row = {way: min(values) for way, values in spent.items()}
    found, met = walk(model, image)
    return row | {
        "nodes": len(graph),
        "parameters": len(graph.slots) + len(graph.uncovered),
        "covered": len(graph.slots),
        "covered_by_walk": len(found),
        "autograd_nodes": met,
        "ratio": row["walk"] / row["ours"],
        "ratio_again": row["walk"] / row["again"],
    }


def names(largest: float) -> Iterator[str]:
    """Those of the zoo that are small enough to be run for real."""
    for name in [*torchvision_classifiers(), *catalogue("timm")]:
        if sum(p.numel() for p in resolve(name, 1000, None).parameters()) <= largest:
            yield name


def llama() -> dict[str, float]:
    """Of this process: seconds from config to graph, peak memory in MiB, what was covered."""
    from ghn.adapters.zoo import example_input, transformer

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
        "build_seconds": built - start,
        "trace_seconds": done - built,
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=float, default=60, help="million parameters, of what is run for real")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--models", nargs="+", help="these, in place of the zoos")
    parser.add_argument("--llama", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if args.llama:
        print(json.dumps(llama()))
        return
    rows = {}
    for name in args.models or names(1e6 * args.largest):
        rows[name] = row = measure(name, args.repeats)
        print(f"{name:44s}{row['ours']:8.3f}{row['again']:8.4f}{row['walk']:8.3f}{row['ratio']:7.1f}", flush=True)
    summary = {
        key: spread([row[key] for row in rows.values()]) for key in ("ours", "again", "walk", "ratio", "ratio_again")
    }
    done = subprocess.run([sys.executable, __file__, "--llama"], capture_output=True, text=True, check=True)
    large = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(summary, indent=1), json.dumps(large, indent=1), sep="\n")
    if args.out:
        versions = {"python": platform.python_version(), "torch": torch.__version__, "cpu": cpu()}
        record = {"versions": versions, "repeats": args.repeats, "summary": summary, "llama_70b": large, "models": rows}
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
