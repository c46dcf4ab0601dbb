"""Test accuracy against steps of fine-tuning, from several initialisations, on real CIFAR-10.

Run: python benchmarks/finetune.py --data DIR --work DIR [--only NAME] [--out FILE]

few_shot: a ResNet-10 (timm's resnet10t) on the first 100 training images of each class. mirrored: the same, from two
of the starts, with images that are mirrored but not shifted. full: a network of DeepNets-1M's test split on all 38,000,
300 steps. Images of 32 pixels, for which the GHN is. Each initialisation takes the best of three learning rates, by
1,000 validation images and the first seed; the curves are of 1,000 test images, three seeds, which give all
initialisations the same batches. One thread; a run that was cut off goes on from --work.
"""

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from generate import versions

import ghn
from eval.finetune import FEW_SHOT, Parts, Start, Subject, finetune
from eval.finetune_report import summary
from ghn.adapters.zoo import resolve

SIDE, IMAGES, SEEDS = 32, 1000, (0, 1, 2)
FEW: dict[str, Any] = {
    "network": "timm/resnet10t",
    "shots": 100,
    "inits": ("kaiming", "orthogonal", "predicted", "predicted-orth"),
    "rates": (0.01, 0.03, 0.1),
    "schedule": replace(FEW_SHOT, epochs=6),
    "augmentation": "cifar",
}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "few_shot": FEW,
    "mirrored": {**FEW, "inits": ("kaiming", "predicted"), "augmentation": "mirror"},
    "full": {
        "network": "deepnets/test/0",
        "shots": None,
        "inits": ("kaiming", "predicted"),
        "rates": (0.01, 0.03, 0.1),
        "schedule": replace(FEW_SHOT, steps=300, batch=64, weight_decay=3e-4),
        "augmentation": "cifar",
    },
}


def measured(name: str, data: str, work: Path) -> dict[str, Any]:
    """Settings, rates, curves and their summary of one experiment."""
    e, hyper = EXPERIMENTS[name], ghn.load("ghn2-cifar10")
    how = e["augmentation"]
    parts = Parts.load(data, shots=e["shots"], side=SIDE, val=IMAGES, test=IMAGES, augmentation=how)
    subject = Subject.of(e["network"], partial(resolve, e["network"], 10, SIDE, device="cpu"))
    starts = [Start(init, hyper) for init in e["inits"]]
    began = time.process_time()
    found = finetune(
        subject,
        starts,
        parts,
        e["schedule"],
        rates=e["rates"],
        seeds=SEEDS,
        folder=work / name,
        progress=lambda curve, step: step % 50 or print(curve.name, step, flush=True),
    )
    return {
        "network": e["network"],
        "params": subject.graph.num_params,
        "shots": e["shots"],
        "image_size": SIDE,
        "augmentation": how,
        "steps": e["schedule"].total(len(parts.train)),
        "batch": e["schedule"].batch,
        "cpu_seconds_of_this_call": round(time.process_time() - began, 1),
        **summary(found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", choices=EXPERIMENTS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/finetune.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    record = json.loads(args.out.read_text()) if args.out.exists() else {}
    record["versions"] = versions()
    for name in [args.only] if args.only else EXPERIMENTS:
        record[name] = measured(name, args.data, args.work)
        args.out.write_text(json.dumps(record, indent=1) + "\n")
        for init, row in record[name]["summary"].items():
            print(name, init, row["rate"], row["mean"], row["deviation"], flush=True)


if __name__ == "__main__":
    main()
