"""A run in a folder: recipe.json, log.csv, curves.png and .html, checkpoints/ and, at its end, the GHN in ghn/."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ghn
from deepnets_gen.corpus import Corpus
from ghn.errors import CheckpointError, DataError
from ghn.files import write_atomic
from ghn.io import save
from ghn.model import GHN, GHNConfig
from train import checkpoint
from train.config import Recipe, RecipeError
from train.data import CIFAR10, CLASSES, ImageSet, load
from train.distributed import ALONE, World
from train.log import CSVLog, Log, Progress, WandbLog, draw_curves
from train.loop import Trainer

CHECKPOINTS = "checkpoints"
SPLITS = ("train", "val")


def prepare(
    recipe: Recipe,
    folder: Path,
    changes: Sequence[str] = (),
    *,
    resume: str | None = None,
    init: Path | None = None,
    data: str | Path | None = None,
    corpus: Path | None = None,
    workers: int = 1,
    world: World = ALONE,
) -> Trainer:
    """The trainer of a run in `folder`, fresh or where the checkpoint named `resume` left it.

    init: another run, whose averaged weights are begun with, or a GHN as `ghn.load` takes it.
    A resumed run keeps the recipe that it was started with, after `changes`. A fresh one refuses a folder in use.
    world: the processes that share the run. The first one alone reads and writes the folder.
    """
    recipe, saved, weights = world.from_first(lambda: _start(recipe, folder, changes, resume=resume, init=init))
    images, held_out = (load(s, data, side=recipe.image_size, augmentation=recipe.augmentation) for s in SPLITS)
    _same_classes(images, held_out, saved.state if saved else {})
    trainer = Trainer(
        recipe, images, held_out, folder / CHECKPOINTS, workers, Corpus(corpus) if corpus else None, world
    )
    if saved:
        trainer.restore(saved)
    if weights:
        trainer.start_from(weights)
    if world.first:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "recipe.json", json.dumps(trainer.recipe.to_dict(), indent=1).encode())
    return trainer


def _start(
    recipe: Recipe, folder: Path, changes: Sequence[str], *, resume: str | None, init: Path | None
) -> tuple[Recipe, checkpoint.Checkpoint | None, dict[str, Tensor]]:
    """The recipe that is followed, the checkpoint that is gone on with, and the weights to begin with, if any."""
    checkpoints = folder / CHECKPOINTS
    if resume:
        saved = checkpoint.load(checkpoint.named_folder(checkpoints, resume))
        if saved.state["recipe"]["name"] != recipe.name:
            raise RecipeError(
                f"the run in {folder} is of recipe {saved.state['recipe']['name']!r}, not {recipe.name!r}"
            )
        return Recipe.from_dict(saved.state["recipe"]).changed(changes), saved, {}
    if (checkpoints / checkpoint.LATEST).exists():
        raise CheckpointError(f"{folder} already holds a run; go on with it by --resume, or choose another --out")
    return recipe, None, _weights(init) if init else {}


def _weights(init: Path) -> dict[str, Tensor]:
    """The averaged weights of a run, finished or not, or those of a GHN."""
    if (init / CHECKPOINTS).exists():
        return checkpoint.load(checkpoint.latest(init / CHECKPOINTS)).tensors["average"]
    return dict(ghn.load(init).model.state_dict())


def _same_classes(images: ImageSet, held_out: ImageSet, state: Mapping[str, Any]) -> None:
    """Raises DataError where the images to validate with, or those of a resumed run, have other classes."""
    known = tuple(state.get("data", {}).get("classes", images.classes))
    for classes, which in ((held_out.classes, "images to validate with"), (known, "images that the run began with")):
        if classes != images.classes:
            raise DataError(
                f"the {which} are of {len(classes)} classes ({', '.join(classes[:3])}, ...), those to train on of "
                f"{len(images.classes)} ({', '.join(images.classes[:3])}, ...); give the same set"
            )


def run(trainer: Trainer, folder: Path, *, wandb: bool = False) -> None:
    """Trains to the end, logging into `folder`, and draws the curves. Only the first process of a world writes."""
    if not trainer.world.first:
        trainer.run(Log())
        return
    recipe, step = trainer.recipe, trainer.counts.step
    table = folder / "log.csv"
    sinks = [CSVLog(table, step), Progress(step, recipe.steps)]
    if wandb:
        sinks.append(WandbLog(folder, recipe.name, recipe.to_dict()))
    try:
        with Log(*sinks) as log:
            trainer.run(log, lambda message: print(message, file=sys.stderr, flush=True))
    finally:
        draw_curves(table, f"Training of {recipe.name}")
    export(folder, folder / "ghn")


def export(folder: Path, target: Path) -> None:
    """Writes the averaged GHN of a run's latest checkpoint, finished or not, as a folder that `ghn.load` reads."""
    saved = checkpoint.load(checkpoint.latest(folder / CHECKPOINTS))
    recipe, counts = Recipe.from_dict(saved.state["recipe"]), saved.state["counts"]
    model = GHN(GHNConfig.from_dict(saved.state["ghn"]))
    model.load_state_dict(saved.tensors["average"])
    data = saved.state.get("data", {"classes": CLASSES, "origin": CIFAR10})  # older runs knew one set only
    card = {
        "name": recipe.name,
        "data": data["origin"],
        "recipe": recipe.to_dict(),
        "done": counts,
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    stage = recipe.stages[recipe.stage_at(max(0, saved.step - 1))]
    save(target, model, image_size=stage.side, classes=data["classes"], card=card)
