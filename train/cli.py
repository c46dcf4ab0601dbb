"""The commands `ghn train` and `ghn data`."""

import argparse
import gc
from contextlib import ExitStack
from pathlib import Path

RECIPES = (
    *("ghn1_cifar10", "ghn2_cifar10", "ghn2_cifar10_cpu", "mlp_cifar10", "ghn2_imagenet"),
    *("ghn3_t_cifar10", "ghn3_t_cifar10_cpu", "ghn2_nasbench201_cpu", "smoke"),
)
NAMES = ("latest", "best", "steady")  # of checkpoints; both lists are here because this file must not wait for torch
DATA_HELP = """\
shows which image data is found, and how to point to a full set

The package brings 1,000 test images of CIFAR-10. Training, and tests on more, need a set that --data or the environment
variable GHN_DATA names. Its classes become those of the GHN and of the networks.

CIFAR-10, a folder with its training batches in any of these forms:
  batch_1.parquet .. batch_5.parquet       columns labels (bytes) and webp (lossless 800x1280 pictures of 25 x 40
                                           images), ten rows of 1,000 images each, in the official order
  data_batch_1.bin .. data_batch_5.bin     the "binary version": per image a label byte and 3072 pixel bytes
  data_batch_1 .. data_batch_5             the "python version": pickles, of which nothing but arrays is read
  Batches 1-4 train, but for the last 200 images of each class (2,000), which validate; batch 5 tests.
An image folder: a sub-folder of pictures per class, in train/, val/ and test/, or by itself.
  A missing part is split off by a hash of each file's path: a tenth of train/ validates, and val/ tests where there is
  no test/ (the protocol of ImageNet); without both, or without train/, the parts are 8 : 1 : 1.
torchvision:NAME:FOLDER, a dataset of torchvision that has been fetched before, as torchvision:CIFAR100:~/data.

Pictures are cut to their central square and decoded at the largest image size of the recipe; `--set
stages.0.image_size=null` takes their own. What fits into GHN_DATA_MEMORY GiB (default 4) is decoded once; larger sets
are decoded as they are used.
"""


TRAIN_EPILOG = """\
example: ghn train smoke --data ~/cifar10 --out runs/smoke --set lr=3e-4 --set stages.0.steps=10

Several processes, on one machine or more, are started by torchrun; they divide the networks of each meta-batch:
  torchrun --standalone --nproc-per-node 2 --no-python ghn train RECIPE ...
On CPUs give as many processes as cores. Processes of a machine take its GPUs in turn, and may share one. All of them
read the image data; the first one reads and writes the folder of the run. The result depends on the number of parts
that a meta-batch is divided into, which is the number of processes at the start or `--set parts=N`: with the same
parts any number of processes, also after --resume, gives the same bits on the same kind of processor; with others the
result differs by the rounding of sums."""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the commands of this package to the `ghn` command."""
    raw = argparse.RawDescriptionHelpFormatter
    train = subparsers.add_parser(
        "train",
        help="train a GHN by a recipe",
        formatter_class=raw,
        description="Trains a GHN by a recipe; a killed run goes on with --resume, bit for bit as if never stopped.",
        epilog=TRAIN_EPILOG,
    )
    train.add_argument("recipe", metavar="RECIPE", help=f"one of {', '.join(RECIPES)}")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a number of the recipe")
    train.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: runs/RECIPE)")
    train.add_argument("--resume", action="store_true", help="go on from a checkpoint in --out")
    train.add_argument(
        "--at",
        choices=NAMES,
        help="with --resume, which one: of the last step (the default), of the best validation accuracy, or from "
        "before the learning rate fell, to make a run with decay < 1 longer",
    )
    train.add_argument(
        "--init",
        type=Path,
        metavar="RUN",
        help="start from the averaged weights of another run, or from a GHN (a name of `ghn checkpoints`, a file)",
    )
    train.add_argument("--data", metavar="SET", help="image set (default: $GHN_DATA); see `ghn data --help`")
    train.add_argument(
        "--corpus", type=Path, metavar="DIR", help="train on the networks of this corpus (default: the recipe's split)"
    )
    train.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads per network (default: 1)")
    train.add_argument("--workers", type=int, default=1, metavar="N", help="networks that run at a time (default: 1)")
    train.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:NUMBER (default: a GPU where there is one)")
    train.add_argument("--wandb", action="store_true", help="log to wandb too: offline, or online if logged in to it")
    train.set_defaults(handler=run_train)
    data = subparsers.add_parser(
        "data",
        help="show which image data is found",
        formatter_class=raw,
        description=DATA_HELP,
        epilog="example: ghn data --data ~/flowers --check",
    )
    data.add_argument("--data", metavar="SET", help="the full image set (default: $GHN_DATA)")
    data.add_argument("--check", action="store_true", help="read every picture and name those that cannot be")
    data.set_defaults(handler=run_data)


def run_train(args: argparse.Namespace) -> int:
    """Trains, then writes the curves. Returns the exit code; a user's mistake is a GHNError."""
    from ghn.errors import GHNError
    from ghn.files import sole
    from train.recipes import recipe

    chosen = recipe(args.recipe).changed(args.set)
    for option in ("threads", "workers"):
        if getattr(args, option) < 1:
            raise GHNError(f"--{option} must be at least 1, got {getattr(args, option)}")
    if args.at and not args.resume:
        raise GHNError("--at says which checkpoint to go on from: give --resume, too")
    if args.resume and args.init:
        raise GHNError("--resume goes on with a run and --init starts one: give one of them")

    import torch

    from train import runs
    from train.distributed import leave, world

    gc.freeze()  # what is loaded stays: without it, every collection of a run takes 0.2 s to look at torch
    torch.set_num_threads(args.threads)
    folder = args.out or Path("runs") / chosen.name
    with world(args.device) as here, ExitStack() as held:
        here.from_first(lambda: held.enter_context(sole(folder)))
        trainer = runs.prepare(
            chosen,
            folder,
            args.set,
            resume=args.at or NAMES[0] if args.resume else None,
            init=args.init,
            data=args.data,
            corpus=args.corpus,
            workers=args.workers,
            world=here,
        )
        runs.run(trainer, folder, wandb=args.wandb)
    leave(here)
    return 0


def run_data(args: argparse.Namespace) -> int:
    """Prints what image data is found; the exit code is 0 although the full set may be missing."""
    from ghn.errors import DataError
    from train.data import describe, find, load_sample

    print(f"packaged sample: {len(load_sample())} test images")
    try:
        source = find(args.data)
    except DataError as error:
        if args.data:
            raise
        print(f"full set: {error}")
        return 0
    print(f"full set: {source}")
    for line in describe(source, check=args.check):
        print(f"  {line}", flush=True)
    return 0
