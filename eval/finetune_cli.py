"""The command `ghn finetune`: what predicted weights are worth as a start. Heavy imports wait inside the handler."""

import argparse
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghn.cli import DEFAULT, above_zero, positive
from ghn.files import in_sole_folder

if TYPE_CHECKING:
    from eval.finetune import Curve, Start, Subject
    from train.sgd import Schedule

INITS = ("own", "kaiming", "orthogonal", "predicted", "predicted-noise", "predicted-orth")  # told without torch
DESCRIPTION = """\
Train MODEL from several initialisations, on few images a class or on all, and draw accuracy against steps.

Initialisations, or a .safetensors file with all parameters (as of `ghn predict --out`):
  own               what the network's author chose
  kaiming           normal, variance 2 / fan-in
  orthogonal        random orthonormal rows or columns
  predicted         by the GHN
  predicted-noise   the same with a little noise, so that equal filters do not stay equal
  predicted-orth    the same, then made orthonormal
Each takes the learning rate at which it does best on validation images; a seed gives all of them the same images in the
same order. Accuracy is that on test images, which play no part in training or choosing."""
EPILOG = """\
examples:
  ghn finetune timm/resnet10t --shots 100 --data ~/cifar10 --out runs/few
  ghn finetune runs/deep/winner/network.py:Network --inits own runs/deep/winner/weights.safetensors \\
      --steps 500 --data ~/cifar10 --out runs/winner
The same command goes on where a killed one stopped. It leaves report.html, curves.json, and in training/ the final
weights of each start as safetensors."""


def register(commands: Any) -> None:
    """Adds the command to the subparsers of `ghn`."""
    p = commands.add_parser(
        "finetune",
        help="accuracy against steps of training, from predicted and other weights",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("model", metavar="MODEL", help="as in `ghn predict`")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    p.add_argument("--data", metavar="SET", help="image set (default: $GHN_DATA; see `ghn data --help`)")
    p.add_argument("--inits", nargs="+", default=["kaiming", "orthogonal", "predicted", "predicted-orth"], metavar="I")
    p.add_argument("--shots", type=positive, metavar="K", help="the first K training images of each class (all)")
    p.add_argument(
        "--augmentation",
        choices=("cifar", "mirror"),
        default="cifar",
        help="of training images: shifted and mirrored, or mirrored (default cifar)",
    )
    p.add_argument("--epochs", type=positive, metavar="N", help="of training (default 50)")
    p.add_argument("--steps", type=positive, metavar="N", help="of training, in place of epochs")
    p.add_argument("--batch", type=positive, default=96, metavar="B", help="images a step (default 96)")
    p.add_argument(
        "--rates", nargs="+", type=above_zero, default=[0.01, 0.03, 0.1], metavar="LR", help="to choose from"
    )
    p.add_argument("--weight-decay", type=float, default=1e-3, metavar="W", help="default 0.001")
    p.add_argument("--seeds", type=positive, default=3, metavar="N", help="trainings of each start (default 3)")
    p.add_argument("--images", type=positive, metavar="N", help="test images, evenly by class (default: all)")
    p.add_argument("--val-images", type=positive, metavar="N", help="validation images (default: all)")
    p.add_argument("--image-size", type=positive, metavar="S", help="side in pixels (default: the GHN's)")
    p.add_argument("--checkpoint", default=DEFAULT, metavar="GHN", help=f"name, folder, file or hf:... ({DEFAULT})")
    p.add_argument("--noise", type=float, default=3e-5, metavar="BETA", help="of predicted-noise, -orth (3e-5)")
    p.add_argument("--from-layer", type=int, default=0, metavar="L", help="weights before the L-th stay as predicted")
    p.add_argument("--partial", action="store_true", help="leave what no rule covers as the network has it")
    p.add_argument("--threads", type=positive, metavar="N", help="of the CPU (default: all)")
    p.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:NUMBER (default: a GPU where there is one)")
    p.add_argument("--json", action="store_true", help="print JSON instead of text")
    p.set_defaults(handler=in_sole_folder(run_finetune))


def run_finetune(args: argparse.Namespace) -> int:
    """Handler of `ghn finetune`."""
    from eval.finetune import Parts, finetune
    from eval.finetune_report import finetune_page, summary
    from ghn.files import write
    from train.distributed import chosen_device

    _prepare(args)
    device = chosen_device(args.device)
    starts, side = _starts(args)
    parts = Parts.load(
        args.data,
        shots=args.shots,
        side=side,
        val=args.val_images,
        test=args.images,
        augmentation=args.augmentation,
    )
    subject = _subject(args, len(parts.train.classes), side)
    schedule = _schedule(args)
    total = schedule.total(len(parts.train)) * len(starts) * (len(args.rates) + args.seeds - 1)
    with closing(Steps(total)) as bar:
        found = finetune(
            subject,
            starts,
            parts,
            schedule,
            rates=args.rates,
            seeds=range(args.seeds),
            folder=args.out / "training",
            device=device,
            progress=bar,
        )
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "handler"}
    record: dict[str, Any] = {"settings": settings, "params": subject.graph.num_params, "classes": parts.train.classes}
    record |= {"images": len(parts.train), "test_images": len(parts.shown), "image_size": side, **summary(found)}
    write(args.out / "curves.json", (json.dumps(record, indent=1) + "\n").encode())
    shown = f"{subject.graph.num_params:,} parameters, {len(parts.train):,} images of {side} pixels to train on, "
    shown += f"{schedule.total(len(parts.train)):,} steps of {args.batch}; {len(parts.shown):,} images to test on."
    write(args.out / "report.html", finetune_page(f"Fine-tuning {args.model}", shown, found).encode())
    print(json.dumps(record) if args.json else f"{args.model}: {shown}\n{_text(record['summary'], args.out)}")
    return 0


def _prepare(args: argparse.Namespace) -> None:
    import torch

    from ghn.errors import GHNError, ModelError

    if args.epochs and args.steps:
        raise GHNError("--epochs and --steps both say how long to train; give one")
    for init in args.inits:
        if init not in INITS and not Path(init).is_file():
            raise ModelError(f"no initialisation {init!r}; there are {', '.join(INITS)}, or give a .safetensors file")
    names = [Path(init).stem for init in args.inits]
    if len({*names}) < len(names):
        raise GHNError(f"--inits names {max(names, key=names.count)} twice; give each once, files of different names")
    if args.threads:
        torch.set_num_threads(args.threads)


def _starts(args: argparse.Namespace) -> "tuple[list[Start], int]":
    """The initialisations and the side of the images; the GHN is loaded only where something is asked of it."""
    import ghn
    from eval.finetune import Start

    predicting = any(init.startswith("predicted") for init in args.inits)
    hyper = ghn.load(args.checkpoint) if predicting or args.image_size is None else None
    side = args.image_size or (hyper.image_size if hyper else 32)
    hyper = hyper if predicting else None
    return [Start(init, hyper, args.noise, args.from_layer, not args.partial) for init in args.inits], side


def _subject(args: argparse.Namespace, classes: int, side: int) -> "Subject":
    from eval.finetune import Subject
    from ghn.adapters.zoo import resolve
    from ghn.errors import ModelError, TraceError

    try:
        return Subject.of(args.model, lambda: resolve(args.model, classes, side, device="cpu"))
    except TraceError as error:
        raise ModelError(f"{args.model} ({side} x {side} pixels): {error}") from error


def _schedule(args: argparse.Namespace) -> "Schedule":
    from dataclasses import replace

    from eval.finetune import FEW_SHOT

    epochs = args.epochs or FEW_SHOT.epochs
    return replace(FEW_SHOT, epochs=epochs, steps=args.steps, batch=args.batch, weight_decay=args.weight_decay)


class Steps:
    """Progress on stderr over so many steps of all trainings, with the one under way."""

    def __init__(self, total: int) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=total, unit="step", file=sys.stderr, disable=None)

    def __call__(self, curve: "Curve", step: int) -> None:
        self._bar.set_postfix_str(curve.name, refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


def _text(rows: dict[str, Any], out: Path) -> str:
    """Accuracy at a few marks, a line for each initialisation."""
    steps = next(iter(rows.values()))["steps"]
    shown = sorted({0, *(i for i, s in enumerate(steps) if str(s).startswith("1")), len(steps) - 1})
    lines = ["initialisation        rate  after " + "".join(f"{steps[i]:>15,}" for i in shown)]
    for init, row in rows.items():
        cells = "".join(f"{row['mean'][i]:>8.1%} ± {row['deviation'][i]:4.1%}" for i in shown)
        lines.append(f"{init:20s}{row['rate']:>6g}        {cells}")
    return "\n".join([*lines, f"{out / 'report.html'} shows the curves, {out / 'curves.json'} has them"])
