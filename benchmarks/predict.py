"""Wall and CPU seconds per stage, and peak memory, of predicting all weights of six torchvision models.

Run: python benchmarks/predict.py [--repeats 7] [--threads 1] [--out benchmarks/results/predict.json]
     python benchmarks/predict.py --members mlp ghn1 ghn2 ghn3-t ... --models resnet50 [--out ...]

Members of the family other than GHN-2 are not trained: no time depends on the numbers. From GHN-3-S on the literal way
is left out: it decodes each tensor whole, minutes a network.

Three ways are timed in turn, A B C A B C ..., in one process per model: `fresh` (a model never seen: trace,
propagate, decode, write), `cached` (its graph is at hand), and `literal` (tests/literal.py behind the same trace:
node by node, every message recomputed, each tensor decoded whole, everything rebuilt at each call). The floor is
what no implementation can avoid: touching the bytes of the weights once, and the decoders' multiply-adds at the
rate that this machine's matrix product reaches. Peak memory comes from a process that predicts once.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import literal  # noqa: E402

import ghn  # noqa: E402
from ghn.adapters.zoo import resolve  # noqa: E402
from ghn.family import MEMBERS, GHNConfig  # noqa: E402
from ghn.fit import Head  # noqa: E402
from ghn.graph import ArchGraph  # noqa: E402
from ghn.model import GHN  # noqa: E402
from ghn.plan import DecodePlan, Group  # noqa: E402
from ghn.tracing.memory import forget  # noqa: E402

MODELS = ("resnet50", "vit_b_16", "convnext_tiny", "densenet121", "efficientnet_b0", "mobilenet_v3_large")
LARGE = ("ghn3-s", "ghn3-l", "ghn3-xl", "logah-s")
MIB = 2**20


def hypernet(member: str) -> ghn.Hypernet:
    """The shipped GHN-2, or another member with arbitrary numbers."""
    if member == "ghn2":
        return ghn.load("ghn2-cifar10")
    with torch.device("meta"):
        model = GHN(MEMBERS[member])
    model.load_state_dict(
        {name: torch.empty(value.shape).uniform_(-0.05, 0.05) for name, value in model.state_dict().items()},
        assign=True,
    )
    return ghn.Hypernet(model, {"name": member}, 32, tuple(map(str, range(10))))


def timed(run: Callable[[], Any]) -> dict[str, float]:
    """Wall and CPU seconds of one call; its result is dropped after the clock stops."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = run()
    spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    del result
    return spent


def forgetting(hyper: ghn.Hypernet, network: torch.nn.Module) -> Any:
    """A prediction for which the network is traced, whatever was traced before."""
    forget()
    return hyper.predict(network)


def literally(model: GHN, network: torch.nn.Module) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        forget()
        return literal.predict(model, ghn.trace(network))


def floor(model: GHN, graph: ArchGraph) -> dict[str, float]:
    """Bytes and multiply-adds, and the seconds that this machine needs for as many in the barest form."""
    size = sum(s.numel for s in graph.slots)
    plan = DecodePlan.build(model.collate([graph]), model.decoder)
    macs = sum(multiply_adds(model.config, group) for group in plan.groups[Head.KERNEL])
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    rate = 20 * 512**3 / min(timed(lambda: [a @ b for _ in range(20)])["cpu"] for _ in range(3))
    touch = min(timed(lambda: np.empty(size, np.float32).fill(1))["cpu"] for _ in range(5))
    return {"bytes": 4.0 * size, "macs": float(macs), "write_cpu": touch, "decode_cpu": macs / rate}


def multiply_adds(config: GHNConfig, group: Group) -> int:
    """What the kernel decoder needs for a group."""
    (out, inp, h, w), d, r = group.shape, config.hid, config.rank
    kinds = {
        "conv": h * w * (36 * d * d + 8 * d * out * inp),
        "mlp": 2 * d * d + 2 * d * out * inp * h * w,
        "lowrank": 36 * d * d + 16 * d * r * r + (out * h + inp * w) * r * r + out * h * inp * w * r,
    }
    return len(group.nodes) * kinds["conv" if config.decoder == "centred" else config.decoder]


def measure(member: str, name: str, repeats: int) -> dict[str, Any]:
    """All timings of one model; medians, with the least and the most."""
    hyper = hypernet(member)
    network = resolve(name, 10, 224, device="cpu")
    graph = ghn.trace(network)
    ways = {
        "fresh": lambda: forgetting(hyper, network),
        "cached": lambda: hyper.predict(graph=graph),
        "literal": lambda: literally(hyper.model, network),
    }
    if member in LARGE:
        del ways["literal"]
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    stages: dict[str, dict[str, list[float]]] = {"wall": {}, "cpu": {}}
    for way in ways.values():
        way()
    for i in range(repeats):
        for way, run in ways.items():
            if way != "literal" or i < 3:  # seconds a call; three show that it is steady
                runs[way].append(timed(run))
        report = forgetting(hyper, network)[1]
        for clock, seconds in (("wall", report.seconds), ("cpu", report.cpu_seconds)):
            for stage, spent in seconds.items():
                stages[clock].setdefault(stage, []).append(spent)
    ratios = [b["cpu"] / a["cpu"] for a, b in zip(runs["fresh"], runs.get("literal", ()), strict=False)]
    return {
        "ghn_parameters": sum(p.numel() for p in hyper.model.parameters()),
        "params": graph.num_params,
        "nodes": len(graph),
        **{f"{way}_{k}": spread([r[k] for r in rs]) for way, rs in runs.items() for k in ("cpu", "wall")},
        **({"literal_over_fresh": spread(ratios)} if ratios else {}),
        "stages": {clock: {stage: spread(s) for stage, s in by.items()} for clock, by in stages.items()},
        "floor": floor(hyper.model, graph),
    }


def peak_memory(member: str, name: str) -> float:
    """MiB above the loaded model and GHN that one prediction needs, in this process, the weights included.

    A small model goes first, so that code and tables that every prediction shares are not counted.
    """
    hyper = hypernet(member)
    hyper.predict(resolve("squeezenet1_1", 10, 224, device="cpu"))
    network = resolve(name, 10, 224, device="cpu")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weights, _ = hyper.predict(network)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert weights
    return (after - before) / 1024


def cpu() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def child(*args: str) -> Any:
    """What another process of this script prints."""
    done = subprocess.run([sys.executable, __file__, *args], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="rows of other members and networks that it holds are kept")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--members", nargs="+", default=["ghn2"], choices=MEMBERS)
    parser.add_argument("--child", choices=("time", "memory"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        pair = args.members[0], args.models[0]
        print(json.dumps(measure(*pair, args.repeats) if args.child == "time" else peak_memory(*pair)))
        return
    print("CPU seconds: fresh = graph + propagation + decoding + writing; peak memory in MiB, weights included")
    titles = ("fresh", "graph", "prop.", "dec.", "writ.", "cached", "literal", "ratio", "floor", "peak", "weights")
    print(f"{'':28s}" + "".join(f"{t:>9s}" for t in titles))
    versions = {"python": platform.python_version(), "torch": torch.__version__, "cpu": cpu()}
    record: dict[str, Any] = {"versions": versions, "threads": args.threads}
    results = kept(args.out, record)
    for member in args.members:
        for name in args.models:
            common = ["--members", member, "--models", name, "--threads", str(args.threads)]
            row = child("--child", "time", "--repeats", str(args.repeats), *common)
            row["peak_mib"] = child("--child", "memory", *common)
            print(f"{member:8s}{name:20s}{line(row)}", flush=True)
            results.setdefault(member, {})[name] = row
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps(record | {"members": results}, indent=1) + "\n")


def kept(out: Path | None, record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows that the file holds, by member and network, where they are of the same machine and versions."""
    found = json.loads(out.read_text()) if out and out.exists() else {}
    return found.pop("members", {}) if {key: found.get(key) for key in record} == record else {}


def line(row: dict[str, Any]) -> str:
    """The numbers of the table."""
    bare = row["floor"]["write_cpu"] + row["floor"]["decode_cpu"]
    seconds = [row["fresh_cpu"], *row["stages"]["cpu"].values(), row["cached_cpu"]]
    text = "".join(f"{s['median']:9.3f}" for s in seconds)
    if "literal_cpu" in row:
        text += f"{row['literal_cpu']['median']:9.2f}{row['literal_over_fresh']['median']:9.1f}"
    else:
        text += f"{'-':>9s}{'-':>9s}"
    return text + f"{bare:9.3f}{row['peak_mib']:9.0f}{row['floor']['bytes'] / MIB:9.0f}"


if __name__ == "__main__":
    main()
