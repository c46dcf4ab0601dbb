"""The `ghn` command: argument parsing and words. Handlers import what they need, so that --help comes at once.

Other packages add commands through entry points in the group `ghn.commands`: each is a function that is called with
the subparsers, and sets `handler`, a function of the parsed arguments that returns an exit code.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Generator, Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import ghn
from ghn.errors import CheckpointError, GHNError, ModelError, TraceError
from ghn.files import writable, write

if TYPE_CHECKING:
    from torch import Tensor

    from ghn.hyper import Hypernet, Report

GROUP = "ghn.commands"
DEFAULT = "ghn2-cifar10"
ZOOS = "torchvision,timm,transformers"
CLASSES, SIZE = 10, 32  # what `inspect` assumes: those of the default checkpoint

DESCRIPTION = """\
Predict every weight of a neural network in one forward pass of a graph hypernetwork (GHN-2), without training it.
A network is turned into a graph of primitives; the GHN reads the graph and writes the weights, in a second on a CPU."""
EXAMPLES = """\
examples:
  ghn inspect resnet50                                    the graph that the GHN reads
  ghn predict resnet50 --out weights.safetensors          all its weights
  ghn predict my_package.nets:make_net --num-classes 10   the same for a network of your own
  ghn coverage timm/resnet50 transformers/bert            how much of these would be predicted"""
MODELS = """\
MODEL is one of
  resnet50, torchvision/resnet50      torchvision's classification networks
  timm/NAME, transformers/TYPE        those of timm and transformers, where installed
  transformers/FILE.json              the network of a config.json of transformers, in its sizes
  deepnets/SPLIT/INDEX                a generated network, e.g. deepnets/test/0
  package.module:factory              your function, which returns a torch.nn.Module; the current directory is
  FILE.py:factory                     searched first; it gets num_classes and image_size if it accepts them
At 64 pixels and below, the stems of torchvision's networks are adjusted: less downsampling in the first layers."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose help keeps its line breaks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", partial(argparse.RawDescriptionHelpFormatter, max_help_position=28))
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see `{self.prog} --help`)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, 2 where the input is at fault (one sentence on stderr), 130 when interrupted."""
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except GHNError as error:
        print(f"ghn: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ghn: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has seen enough; spare it the complaint at shutdown
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as stop:  # help, or an error that argparse has told
        return int(stop.code or 0)
    return args.handler(args)


def build_parser() -> Parser:
    """The parser with our commands and those of every installed package that adds some."""
    parser = Parser(prog="ghn", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"ghn {ghn.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_checkpoints(commands)
    _add_inspect(commands)
    _add_predict(commands)
    _add_convert(commands)
    _add_coverage(commands)
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        entry.load()(commands)
    return parser


def _add_checkpoints(commands: Any) -> None:
    p = commands.add_parser(
        "checkpoints",
        help="the trained GHNs that can be used by name",
        description="List the trained GHNs found in $GHN_CHECKPOINTS, in the package and in the checkout: what each\n"
        "was trained on, for how long, and what it reaches.",
        epilog="example:\n  ghn checkpoints",
    )
    p.set_defaults(handler=run_checkpoints)


def _add_inspect(commands: Any) -> None:
    p = commands.add_parser(
        "inspect",
        help="a network's graph in numbers, as a table, as a picture",
        description=f"Show the graph that a GHN reads of MODEL.\n\n{MODELS}",
        epilog="example:\n  ghn inspect resnet50 --svg resnet50.svg\n  ghn inspect vit_b_16 --image-size 224 --table",
    )
    _add_model(p, f"default {CLASSES}", f"default {SIZE}")
    p.add_argument("--svg", metavar="FILE", help="draw the graph to this file")
    p.add_argument("--table", action="store_true", help="show every node, not only the first and last")
    p.add_argument("--json", action="store_true", help="print JSON instead of text: the numbers and the whole graph")
    p.set_defaults(handler=run_inspect)


def _add_predict(commands: Any) -> None:
    p = commands.add_parser(
        "predict",
        help="all weights of a network in one forward pass",
        description=f"Predict every parameter of MODEL with a trained GHN; --out saves them.\n\n{MODELS}",
        epilog="example:\n  ghn predict resnet50 --out weights.safetensors\nthen, in Python:\n"
        '  model.load_state_dict(safetensors.torch.load_file("weights.safetensors"), strict=False)',
    )
    _add_model(p, "default: the checkpoint's", "default: the checkpoint's")
    p.add_argument("--checkpoint", default=DEFAULT, metavar="GHN", help=f"name, folder, file or hf:... ({DEFAULT})")
    p.add_argument("--out", metavar="FILE", help="write the weights to this safetensors file")
    p.add_argument("--stream", action="store_true", help="write them to the folder --out, each tensor as it is made")
    p.add_argument("--partial", action="store_true", help="skip parameters that no rule covers, instead of refusing")
    p.add_argument("--json", action="store_true", help="print JSON instead of text")
    p.set_defaults(handler=run_predict)


def _add_convert(commands: Any) -> None:
    p = commands.add_parser(
        "convert",
        help="a trained GHN of any format as one safetensors file",
        description="Write a GHN to one safetensors file that `--checkpoint` takes. OLD is the name or folder of one\n"
        "of ours, a file of ppuda or ghn3 (no code in it is run), or hf:OWNER/NAME[/FILE] on the Hugging Face hub.",
        epilog="example:\n  ghn convert ghn3tm8.pt ghn3-t.safetensors",
    )
    p.add_argument("old", metavar="OLD", help="what to convert")
    p.add_argument("new", metavar="NEW.safetensors", help="the file to write")
    p.set_defaults(handler=run_convert)


def _add_coverage(commands: Any) -> None:
    p = commands.add_parser(
        "coverage",
        help="which networks of the libraries can be predicted, and how much of each",
        description="Trace networks of the installed libraries, at the size they are made for, and say how much of\n"
        "each would be predicted, and why the rest would not.\n\n"
        "torchvision: classifiers, segmentation, video, the backbones of detectors. timm: one of each family; every\n"
        "one with --every, in minutes. transformers: the most used.",
        epilog="examples:\n  ghn coverage --zoo torchvision --html coverage.html\n"
        "  ghn coverage timm/resnet50 transformers/bert",
    )
    p.add_argument("models", metavar="MODEL", nargs="*", help="these networks, in place of whole libraries")
    p.add_argument("--zoo", default=ZOOS, metavar="LIBRARIES", help=f"comma-separated (default {ZOOS})")
    p.add_argument("--every", action="store_true", help="every network of timm, not one a family")
    p.add_argument("--html", metavar="FILE", help="write a page with the table and the graphs to this file")
    p.add_argument("--markdown", metavar="FILE", help="write the table to this file")
    p.add_argument("--json", action="store_true", help="print JSON instead of text")
    p.set_defaults(handler=run_coverage)


def _add_model(p: argparse.ArgumentParser, classes: str, size: str) -> None:
    p.add_argument("model", metavar="MODEL", help="the network; see above")
    p.add_argument("--num-classes", type=positive, metavar="N", help=f"outputs of the network ({classes})")
    p.add_argument("--image-size", type=positive, metavar="S", help=f"side of its images in pixels ({size})")


def positive(text: str) -> int:
    """The whole number above 0 that an argument gives."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def above_zero(text: str) -> float:
    """The finite number above 0 that an argument gives."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def run_predict(args: argparse.Namespace) -> int:
    """Handler of `ghn predict`."""
    from ghn.stream import SHARDS

    out = _folder(args.out) if args.stream else writable(args.out)
    with _progress() as say:
        say(f"loading {args.checkpoint}")
        hyper = ghn.load(args.checkpoint)
        classes, size = args.num_classes or len(hyper.classes), args.image_size or hyper.image_size
        say(f"predicting {args.model}")
        record: dict[str, Any] = {
            "model": args.model,
            "checkpoint": args.checkpoint,
            "num_classes": classes,
            "image_size": size,
            "out": None,
        }
        model, example = _resolved(args.model, classes, size)
        options: dict[str, Any] = {"example_input": example, "strict": not args.partial}
        with _sized(args.model, size):
            if out and args.stream:
                options |= {"metadata": _origin(record, hyper), "progress": lambda done: say(f"{out}: {done:.0%}")}
                report = hyper.stream(out, model, **options)
                record["out"] = {"file": str(out), "bytes": sum(f.stat().st_size for f in out.glob(SHARDS))}
            else:
                weights, report = hyper.predict(model, **options)
        if out and not args.stream:
            say(f"writing {out}")
            record["out"] = {"file": str(out), "bytes": _write_weights(out, weights, record, hyper)}
    print(json.dumps(record | report.to_dict()) if args.json else _predicted_text(record, report))
    return 0


def _folder(name: str | None) -> Path:
    """The folder to stream to; it need not exist, its parent must. Raises GHNError."""
    if name is None:
        raise GHNError("--stream needs a folder to write to: --out DIR")
    path = Path(name)
    if path.is_dir():
        return path
    if path.exists():
        raise GHNError(f"cannot stream to {path}: it is a file; give a folder")
    return writable(name) or path


def _resolved(name: str, classes: int, size: int) -> tuple[Any, Any]:
    """The network, and what to trace it with."""
    from ghn.adapters.zoo import example_input, resolve

    model = resolve(name, classes, size)
    return model, example_input(model)


def _predicted_text(record: dict[str, Any], report: "Report") -> str:
    head = "{model}: {num_classes} classes, {image_size} x {image_size} pixels, by {checkpoint}".format_map(record)
    lines = [head, str(report)]
    if record["out"]:
        lines.append(f"{record['out']['file']}: {record['out']['bytes'] / 1e6:.1f} MB")
    return "\n".join(lines)


def _write_weights(path: Path, weights: "dict[str, Tensor]", record: dict[str, Any], hyper: "Hypernet") -> int:
    """Bytes of the safetensors file that now holds the weights, whole or not at all. Its metadata says whence."""
    from safetensors.torch import save

    content = save(weights, metadata=_origin(record, hyper) | {"format": "pt"})
    write(path, content)
    return len(content)


def _origin(record: dict[str, Any], hyper: "Hypernet") -> dict[str, str]:
    """Whence weights are: the network, and the GHN with the checksum that is in its config."""
    import hashlib

    from safetensors.torch import save

    fingerprint = hashlib.sha256(save(hyper.model.state_dict())).hexdigest()
    return {k: str(record[k]) for k in ("model", "checkpoint", "num_classes", "image_size")} | {
        "checkpoint_sha256": fingerprint
    }


def run_convert(args: argparse.Namespace) -> int:
    """Handler of `ghn convert`."""
    out = writable(args.new)
    assert out is not None
    if out.suffix != ".safetensors":
        raise GHNError(f"{out} must end in .safetensors, the format that is written")
    with _progress() as say:
        say(f"converting {args.old}")
        hyper = ghn.convert(args.old, out)
    config = hyper.model.config
    numbers = sum(p.numel() for p in hyper.model.parameters())
    print(
        f"{out}: {config.propagation} propagation, {config.decoder} decoder, width {config.hid}, "
        f"{numbers:,} parameters, {config.num_classes} classes, {out.stat().st_size / 1e6:.1f} MB"
    )
    return 0


def run_inspect(args: argparse.Namespace) -> int:
    """Handler of `ghn inspect`."""
    out = writable(args.svg)
    with _progress() as say:
        say(f"tracing {args.model}")
        from ghn.adapters.zoo import example_input, resolve
        from ghn.picture import svg
        from ghn.summary import SHOWN, Summary, table

        size = args.image_size or SIZE
        model = resolve(args.model, args.num_classes or CLASSES, size)
        with _sized(args.model, size):
            graph = ghn.trace(model, example_input(model))
        if out:
            write(out, svg(graph).encode())
        summary = Summary.of(graph)
    if args.json:
        print(json.dumps({"model": args.model, **summary.to_dict(), "graph": graph.to_dict()}))
        return 0
    print(f"{args.model}: {summary}\n\n{table(graph, None if args.table else SHOWN)}")
    if out:
        print(f"\n{out}: {out.stat().st_size / 1e3:.0f} kB")
    return 0


def run_coverage(args: argparse.Namespace) -> int:
    """Handler of `ghn coverage`."""
    from tqdm import tqdm

    from ghn.adapters.zoo import catalogue
    from ghn.survey import TITLES, Totals, cells, html, markdown, survey

    page, document = writable(args.html), writable(args.markdown)
    names = args.models or [n for zoo in args.zoo.split(",") for n in catalogue(zoo.strip(), args.every)]
    found = []
    if not args.json:
        print("\t".join(TITLES))
    with tqdm(total=len(names), unit="network", file=sys.stderr, disable=None) as bar:
        for row, graph in survey(names):
            bar.update()
            found.append((row, graph if page else None))
            if not args.json:
                bar.write("\t".join(cells(row)), file=sys.stdout)
    rows = [row for row, _ in found]
    if page:
        write(page, html(found).encode())
    if document:
        write(document, markdown(rows).encode())
    print(json.dumps([row.to_dict() for row in rows]) if args.json else f"{Totals.of(rows)}")
    return 0


def run_checkpoints(args: argparse.Namespace) -> int:
    """Handler of `ghn checkpoints`."""
    with _progress() as say:
        say("looking for checkpoints")
        from ghn.io import checkpoints, folders

        found = checkpoints()
    if not found:
        places = ", ".join(map(str, folders()))
        print(f"no checkpoints in {places}; train one (`ghn train --help`) or name their folder in $GHN_CHECKPOINTS")
    for name, folder in found.items():
        print(f"{name}: {_checkpoint_text(folder)}")
    return 0


def _checkpoint_text(folder: Path) -> str:
    from ghn.io import TENSORS, read_config

    try:
        config = read_config(folder / "config.json")
        size = (folder / TENSORS).stat().st_size
    except (CheckpointError, OSError) as error:
        return f"unusable: {error}"
    card = config["card"]
    facts = [f"{len(config['classes'])} classes", f"{config['image_size']} pixels", f"{size / 1e6:.1f} MB"]
    facts += [f"{card['steps']:,} steps"] if isinstance(card.get("steps"), int) else []
    metrics = card.get("metrics")
    lines = [", ".join(facts), f"  {folder}"]
    if isinstance(metrics, dict):
        lines += [f"  {key}: {value}" for key, value in metrics.items()]
    return "\n".join(lines)


@contextlib.contextmanager
def _sized(name: str, size: int) -> Generator[None, None, None]:
    """Within the block, a network that cannot be traced is reported with its name and the size it was given."""
    try:
        yield
    except TraceError as error:
        raise ModelError(f"{name} ({size} x {size} pixels): {error}") from error


class _Line:
    """A line on a terminal's stderr that is overwritten; nothing where stderr is not a terminal."""

    def __call__(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end=" ..." if text else "", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _progress() -> Generator[_Line, None, None]:
    """A callable that says what is going on; the line is gone when the block ends."""
    line = _Line()
    try:
        yield line
    finally:
        line("")
