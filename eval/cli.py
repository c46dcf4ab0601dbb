"""The commands `ghn score`, `ghn evaluate`, `ghn demo` and `ghn accept`. Heavy imports wait inside the handlers."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from eval import finetune_cli
from ghn.cli import DEFAULT, above_zero, positive

if TYPE_CHECKING:
    from torch import nn

    from eval.benchmark import Finish
    from eval.score import Score
    from ghn.hyper import Hypernet
    from train.data import ImageSet

# Splits of image classifiers that nothing trains on, told without importing them.
TASKS = (
    *("val", "test", "wide", "deep", "dense", "bnfree", "search"),
    *("predefined", "vit", "mobile", "nasbench201"),
)


def register(commands: Any) -> None:
    """Adds the commands to the subparsers of `ghn`."""
    _register_score(commands)
    _register_evaluate(commands)
    _register_demo(commands)
    _register_accept(commands)
    finetune_cli.register(commands)


def _register_score(commands: Any) -> None:
    p = commands.add_parser(
        "score",
        help="one-shot accuracy of predicted weights on real images",
        description="Predict every weight of MODEL and measure its top-1 accuracy on real test images, without any "
        "training. Batch normalisation uses the statistics of each batch. Without --data the packaged 1,000 CIFAR-10 "
        "test images are used.",
        epilog="example:\n  ghn score resnet50 --baseline\n  ghn score my_package.nets:make_net --data ~/cifar10",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("model", metavar="MODEL", help="as in `ghn predict`")
    _common(p)
    p.add_argument("--image-size", type=int, help="side of the images in pixels (default: what the GHN was trained on)")
    p.add_argument("--baseline", action="store_true", help="score random initialisation and the untrained GHN too")
    p.add_argument("--seed", type=int, default=0, help="of the random baselines (default 0)")
    p.add_argument("--record", action="store_true", help="put the result on the checkpoint's card")
    _sustain(p)
    p.set_defaults(handler=run_score)


def _register_evaluate(commands: Any) -> None:
    p = commands.add_parser(
        "evaluate",
        help="mean one-shot accuracy over a split of unseen generated networks",
        description="Score a GHN on the first N networks of a held-out split: one prediction each, no training.",
        epilog="example:\n  ghn evaluate --split test --count 50 --data ~/cifar10 --out test.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--split", choices=TASKS, default="test", help="which networks (default test)")
    p.add_argument("--count", type=positive, default=50, help="how many networks (default 50)")
    p.add_argument("--image-size", type=int, help="side of the images in pixels (default: what the GHN was trained on)")
    _common(p)
    _sustain(p)
    p.add_argument("--out", metavar="FILE", help="also write every network's score to this JSON file")
    p.add_argument("--record", action="store_true", help="put the summary on the checkpoint's card")
    p.set_defaults(handler=run_evaluate)


def _register_demo(commands: Any) -> None:
    p = commands.add_parser(
        "demo",
        help="the main job: all weights of ResNet-50 in one forward pass, judged on real images",
        description="Predict all weights of ResNet-50 with the shipped GHN, show the time of each stage, and score the "
        "network on the packaged real CIFAR-10 test images next to random initialisation and the untrained GHN.",
        epilog="example:\n  ghn demo\n  ghn demo --images 200",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--model", default="resnet50", help="another network (default resnet50)")
    p.add_argument("--seed", type=int, default=0, help="of the random baselines (default 0)")
    _common(p)
    p.set_defaults(handler=run_demo)


def _register_accept(commands: Any) -> None:
    p = commands.add_parser(
        "accept",
        help="check a published GHN against the parameter norms that its authors give",
        description="Predict torchvision's networks with a published GHN (ghn2.pt, ghn3tm8.pt, ghn3xlm16.pt of ghn3)\n"
        "and compare the norm of all parameters with the published one, of 74 networks, to 0.01, the authors' own\n"
        "tolerance. The exit code is 1 where one differs.\n\n"
        "One number a network, of four decimals, is all that is published, no tensor's own: a wrong row of a small\n"
        "embedding can hide below 0.01. Look at all 74, at the largest difference that is said at the end, and at\n"
        "--tolerance 0.001, at which fewer errors hide (docs/family.md has which); arithmetic leaves 0.0001.",
        epilog="examples:\n  ghn accept ghn3tm8.pt\n  ghn accept ghn3tm8.pt --models resnet50 --tolerance 0.001",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("checkpoint", metavar="GHN", help="name, folder, file or hf:OWNER/NAME/FILE")
    p.add_argument("--models", nargs="+", metavar="MODEL", help="only these networks (default: all 74)")
    p.add_argument("--tolerance", type=above_zero, metavar="X", help="largest difference of a norm (default 0.01)")
    p.add_argument("--json", action="store_true", help="print JSON instead of text")
    p.set_defaults(handler=run_accept)


def _common(p: argparse.ArgumentParser) -> None:
    p.add_argument("--checkpoint", default=DEFAULT, metavar="GHN", help=f"name, folder or .pt file (default {DEFAULT})")
    p.add_argument(
        "--data", metavar="SET", help="full image set to test on, of the GHN's classes (see `ghn data --help`)"
    )
    p.add_argument("--images", type=positive, metavar="N", help="use only the first N images")
    p.add_argument("--json", action="store_true", help="print JSON instead of text")


def _sustain(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--sustain",
        action="store_true",
        help="first scale up convolutions whose output fades on 64 training images of --data, which helps deep "
        "networks without normalisation (ghn.sustain_variance)",
    )


def run_score(args: argparse.Namespace) -> int:
    """Handler of `ghn score`."""
    import ghn

    hyper = ghn.load(args.checkpoint)
    images = _test_images(hyper, args.data, args.images, args.image_size)
    finish = _finish(args, images.side)
    rows, report = _compare(hyper, args.model, images, args.seed, baselines=args.baseline, finish=finish)
    if args.record:
        result = rows[-1][1]
        told = f"{result.accuracy:.2%} ± {result.standard_error:.2%}"
        _record(args.checkpoint, args.model + " (sustained)" * args.sustain, images, told)
    _print_rows(args, rows, report.to_dict(), str(report))
    return 0


def run_demo(args: argparse.Namespace) -> int:
    """Handler of `ghn demo`."""
    import ghn

    hyper = ghn.load(args.checkpoint)
    images = _test_images(hyper, args.data, args.images)
    rows, report = _compare(hyper, args.model, images, args.seed, baselines=True)
    _print_rows(args, rows, report.to_dict(), f"{args.model}: {report}")
    return 0


def run_evaluate(args: argparse.Namespace) -> int:
    """Handler of `ghn evaluate`."""
    from tqdm import tqdm

    import ghn
    from eval.benchmark import Summary, score_split
    from ghn.files import writable, write

    out = writable(args.out)
    hyper = ghn.load(args.checkpoint)
    images = _test_images(hyper, args.data, args.images, args.image_size)
    finish = _finish(args, images.side)
    with tqdm(total=args.count, unit="network", file=sys.stderr, disable=None) as bar:
        results = score_split(hyper, args.split, args.count, images, finish=finish, progress=lambda _: bar.update())
    summary = Summary.of([r.score.accuracy for r in results])
    record = {
        "checkpoint": args.checkpoint,
        "split": args.split,
        "images": len(images),
        "image_size": images.side,
        "sustained": args.sustain,
        "summary": summary.to_dict(),
        "networks": [{"index": r.index, "params": r.params, **r.score.to_dict()} for r in results],
    }
    if out:
        write(out, (json.dumps(record, indent=1) + "\n").encode())
    if args.record:
        subject = f"{len(results)} networks of {args.split}" + " (sustained)" * args.sustain
        _record(args.checkpoint, subject, images, str(summary))
    how = ", variance sustained" * args.sustain
    text = f"{args.split}, {len(images):,} images of {images.side} px{how}: {summary}"
    print(json.dumps(record) if args.json else text)
    return 0


def _test_images(hyper: "Hypernet", data: str | None, count: int | None, size: int | None = None) -> "ImageSet":
    """The first `count` test images of the set, or of the packaged sample, at the size that the GHN was trained on.

    Raises DataError where they are of other classes than the GHN's. Names of its own that a GHN has from a file without
    any ('class 0') are not compared.
    """
    import torch

    from ghn.errors import DataError
    from train.data import load, load_sample

    side = size or hyper.image_size
    how = hyper.card.get("recipe", {}).get("augmentation", "cifar")  # ImageNet's protocol cuts a margin off
    images = load("test", data, side=side, augmentation=how) if data else load_sample()
    named = not hyper.classes[0].startswith("class ")
    if len(images.classes) != len(hyper.classes) or (named and images.classes != hyper.classes):
        raise DataError(
            f"the test images are of {len(images.classes)} classes ({', '.join(images.classes[:3])}, ...), the GHN was "
            f"trained for {len(hyper.classes)} ({', '.join(hyper.classes[:3])}, ...); give its own set with --data"
        )
    images = images.take(torch.arange(min(count, len(images)))) if count else images
    return images.resized(side)


def _finish(args: argparse.Namespace, side: int) -> "Finish | None":
    """What --sustain does to a network with predicted weights, in place. Raises DataError where --data is missing."""
    from eval.benchmark import sustaining
    from ghn.errors import DataError
    from train.data import load

    if not args.sustain:
        return None
    if not args.data:
        raise DataError("--sustain looks at training images, and the packaged ones are of the test set: add --data SET")
    return sustaining(load("train", args.data, side=side).resized(side))


def _record(checkpoint: str, subject: str, images: "ImageSet", result: str) -> None:
    from ghn.io import add_metrics

    add_metrics(checkpoint, {f"{subject}, top-1 on {len(images):,} test images of {images.side} px": result})


def _compare(
    hyper: "Hypernet",
    name: str,
    images: "ImageSet",
    seed: int,
    *,
    baselines: bool,
    finish: "Finish | None" = None,
) -> tuple[list[tuple[str, "Score"]], Any]:
    """Scores of the network with each kind of weights, and the report of the trained GHN's prediction.

    finish: what is done to the predicted weights for one kind more.
    """
    from eval.benchmark import seeded
    from ghn.adapters.zoo import resolve
    from ghn.assign import load

    def fresh() -> "nn.Module":
        return seeded(lambda: resolve(name, len(hyper.classes), images.side, device="cpu"), seed)

    model = fresh()
    weights, report = hyper.predict(model)
    kinds: list[tuple[str, Callable[[], nn.Module]]] = []
    if baselines:
        kinds += [("random initialisation", fresh), ("untrained GHN", lambda: hyper.untrained(seed).init(fresh()))]
    kinds.append(("predicted by the GHN", lambda: load(model, weights)))
    if finish:
        kinds.append(("the same, sustained", lambda: finish(model)))
    return [(kind, _score_shown(kind, make(), images)) for kind, make in kinds], report


def _score_shown(kind: str, model: "nn.Module", images: "ImageSet") -> "Score":
    from tqdm import tqdm

    from eval.score import score

    with tqdm(total=len(images), unit="image", desc=kind, file=sys.stderr, disable=None, leave=False) as bar:
        return score(model, images, progress=lambda done: bar.update(done - bar.n))


def _print_rows(args: argparse.Namespace, rows: list[tuple[str, "Score"]], report: dict[str, Any], text: str) -> None:
    if args.json:
        scores = {kind: s.to_dict() for kind, s in rows}
        print(json.dumps({"model": args.model, "checkpoint": args.checkpoint, "report": report, "scores": scores}))
        return
    print(text)
    for kind, s in rows:
        print(
            f"{kind:24s} {s.accuracy:6.1%} ± {s.standard_error:.1%} top-1, loss {s.loss:.3f}  "
            f"({s.images:,} real test images, batches of {s.batch}, {s.seconds:.1f} s)"
        )


def run_accept(args: argparse.Namespace) -> int:
    """Handler of `ghn accept`."""
    import ghn
    from eval.accept import accept, published_norms
    from ghn.errors import ModelError

    hyper = ghn.load(args.checkpoint)
    name, norms, tolerance = published_norms(hyper)
    for model in args.models or ():
        if model not in norms:
            raise ModelError(f"no norm is published for {model!r}; there are those of {', '.join(norms)}")
    norms = {model: norms[model] for model in args.models or norms}
    tolerance = args.tolerance or tolerance
    good, largest = 0, 0.0
    for verdict in accept(hyper, norms):
        right = verdict.within(tolerance)
        good += right
        largest = max(largest, abs(verdict.found - verdict.published))  # of those that could be predicted: not of nan
        record = {"model": verdict.model, "published": verdict.published, "found": verdict.found, "right": right}
        said = verdict.error or ("" if right else f"  differs by {verdict.found - verdict.published:+.4f}")
        line = f"{verdict.model:24s}{verdict.published:12.4f}{verdict.found:12.4f}{said}"
        print(json.dumps(record | {"error": verdict.error}) if args.json else line, flush=True)
    if not args.json:
        print(
            f"{good} of {len(norms)} networks have the published norm of {name}, to {tolerance}; "
            f"the largest difference is {largest:.4f}"
        )
    return 0 if good == len(norms) else 1
