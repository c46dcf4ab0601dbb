"""GPT-2-large, all 774,030,080 numbers, from its config on the meta device to disk: seconds and peak memory.

Run: python benchmarks/stream.py [--members logah-t logah-s] [--repeats 3] [--out benchmarks/results/stream.json]

The GHNs are not trained: what is measured does not depend on the numbers. Each repeat is a process of its own, in which
a small network goes first. Beside it, in the same process: the same bytes written plainly (one buffer of the largest
tensor's size, over and over, then fsync), which is the disk's own speed, and the same bytes filled in memory, which is
that of the memory. Peak memory is above what the process had before the large network came.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ghn
from ghn.adapters.zoo import example_input, resolve

CONFIG = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_layer": 36,
    "n_embd": 1280,
    "n_head": 20,
    "n_positions": 1024,
    "vocab_size": 50257,
}
NUMBERS = 774_030_080
MIB = 2**20


def measure(member: str, folder: Path) -> dict[str, Any]:
    """One prediction, and the floors, in this process."""
    torch.manual_seed(0)
    model = ghn.GHN(ghn.member(member))
    hyper = ghn.Hypernet(model, {"name": member}, 32, tuple(map(str, range(10))))
    for name, sizes in (("small", {"n_layer": 1, "n_embd": 64, "n_head": 2, "vocab_size": 500}), ("large", {})):
        (folder / f"{name}.json").write_text(json.dumps(CONFIG | sizes))
    _streamed(hyper, folder, "small")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    report = _streamed(hyper, folder, "large")
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert report.num_params == NUMBERS
    assert not report.skipped
    shutil.rmtree(folder / "large")
    largest = np.ones(CONFIG["vocab_size"] * CONFIG["n_embd"], np.float32)
    return {
        "wall": wall,
        "cpu": cpu,
        "stages": report.seconds,
        "peak_mib": peak,
        "largest_mib": largest.nbytes / MIB,
        "ghn_parameters": sum(p.numel() for p in model.parameters()),
        "nodes": report.nodes,
        "disk": _written(largest, folder / "plain"),
        "memory": _filled(largest),
    }


def _streamed(hyper: ghn.Hypernet, folder: Path, name: str) -> ghn.Report:
    model = resolve(f"transformers/{folder / name}.json", 10, 224)
    return hyper.stream(folder / name, model, example_input=example_input(model))


def _written(buffer: np.ndarray, path: Path) -> float:
    """Seconds to write as many bytes as the network has."""
    start, left = time.perf_counter(), 4 * NUMBERS
    with path.open("wb") as file:
        while left:
            left -= file.write(buffer.data.cast("B")[:left])
        file.flush()
        os.fsync(file.fileno())
    spent = time.perf_counter() - start
    path.unlink()
    return spent


def _filled(buffer: np.ndarray) -> float:
    """Seconds to fill as many numbers, in memory that has been touched before."""
    start = time.perf_counter()
    for _ in range(NUMBERS // buffer.size):
        buffer.fill(2)
    buffer[: NUMBERS % buffer.size].fill(2)
    return time.perf_counter() - start


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", nargs="+", default=["logah-t", "logah-s"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.child:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(args.child, Path(folder))))
        return
    results = {}
    for member in args.members:
        runs = []
        for _ in range(args.repeats):
            done = subprocess.run(
                [sys.executable, __file__, "--child", member], capture_output=True, text=True, check=True
            )
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        row = {key: spread([r[key] for r in runs]) for key in ("wall", "cpu", "peak_mib", "disk", "memory")}
        row["stages"] = {stage: spread([r["stages"][stage] for r in runs]) for stage in runs[0]["stages"]}
        row["per_second"] = spread([NUMBERS / r["wall"] for r in runs])
        row["over_disk"] = spread([r["wall"] / r["disk"] for r in runs])
        row |= {key: runs[0][key] for key in ("ghn_parameters", "nodes", "largest_mib")}
        results[member] = row
        print(
            f"{member}: {row['ghn_parameters']:,} parameters write {NUMBERS:,} in {row['wall']['median']:.1f} s "
            f"({row['cpu']['median']:.1f} CPU), {row['per_second']['median'] / 1e6:.0f} M/s, "
            f"{row['over_disk']['median']:.2f} times the disk's own {row['disk']['median']:.1f} s, "
            f"memory's {row['memory']['median']:.1f} s; peak {row['peak_mib']['median']:.0f} MiB, "
            f"largest tensor {row['largest_mib']:.0f} MiB",
            flush=True,
        )
    if args.out:
        import predict  # beside this file

        versions = {"python": platform.python_version(), "torch": torch.__version__, "cpu": predict.cpu()}
        args.out.write_text(json.dumps({"versions": versions, "threads": 1, "members": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
