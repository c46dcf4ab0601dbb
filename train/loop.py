"""The training loop: a GHN learns to predict weights with which networks classify images.

Every draw of a step (networks, images, dropout) comes from (seed, step, place in the meta-batch) alone, and sums are
taken in an order that the recipe decides. A resumed run therefore does bit for bit what the uninterrupted one does,
and a run of several processes what one process does.
"""

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from deepnets_gen.corpus import Corpus
from ghn.errors import CheckpointError, TrainingError
from ghn.model import GHN
from train import checkpoint
from train.config import Recipe, Stage
from train.data import ImageSet
from train.distributed import ALONE, World, balanced
from train.log import Log, Row
from train.optim import fall_at, lr_at, make_optimiser, optimiser_tensors, restore_optimiser, update_average
from train.sampler import Pool, PoolSpec, build_pool
from train.seeds import DROPOUT, IMAGES, INITIAL, generator_for, mixed, seeded
from train.step import Job, Local, accuracy, meta_gradient

VAL_BATCH = 100
PARTS = ("train", "val")  # of images and of networks


@dataclass
class Counts:
    """What a run has done so far; part of its checkpoint."""

    step: int = 0
    networks_drawn: int = 0
    networks_skipped: int = 0
    steps_skipped: int = 0
    in_a_row: int = 0  # of these, the last ones
    seconds: float = 0.0
    best: float = -1.0  # validation accuracy in best_stage; another stage scores other images and networks
    best_stage: int = -1


class Trainer:
    """A run of a recipe. `ghn` is what learns, `average` its averaged weights: evaluated and shipped.

    train, val: images at any size; how those to train on are changed is the recipe's to say. checkpoints: folder of the
    run's state. corpus: the networks to train on; without one they are drawn from the recipe's split.
    workers: networks of a meta-batch that run at a time, each in a thread of its own; the result does not depend on
    it. With dropout they run one after another, because all threads draw from one generator.
    world: the processes that share the run; the result depends on the recipe's `parts`, not on how many they are. The
    first one alone writes checkpoints. All must be given the same recipe and images.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: ImageSet,
        val: ImageSet,
        checkpoints: Path,
        workers: int = 1,
        corpus: Corpus | None = None,
        world: World = ALONE,
    ) -> None:
        self.recipe = recipe = replace(recipe.fitted(train.side), parts=recipe.parts or world.size)
        self.world = world
        world.agree("the images", ", ".join(f"{len(part)}, labels {_digest([part.labels])}" for part in (train, val)))
        self.counts = Counts()
        self.checkpoints = checkpoints
        self._images = (train.augmented(recipe.augmentation), val)
        self._order = train.order() if recipe.stratified else None
        self._corpus = corpus
        self._stage_index = -1
        with seeded(mixed(recipe.seed, 0, INITIAL)):
            self.ghn = GHN(recipe.ghn_config(len(train.classes)))
        if recipe.identity:
            self.ghn.decoder.start_from_identity(recipe.identity)
        self.ghn.to(world.device)
        self.average = copy.deepcopy(self.ghn).eval().requires_grad_(False)
        self.optimiser = make_optimiser(self.ghn, recipe)
        self._map = ThreadPoolExecutor(workers).map if workers > 1 and not recipe.dropout else map

    def run(self, log: Log, report: Callable[[str], None] = lambda message: None) -> None:
        """Trains from the current step to the last, with checkpoints on the way and at the end."""
        began = time.monotonic() - self.counts.seconds
        while self.counts.step < self.recipe.steps:
            self._enter_stage(report)
            row = self._step()
            self.counts.seconds = time.monotonic() - began
            done = self.counts.step
            val = self._validate()
            log.write(replace(row, val_accuracy=val, seconds=self.counts.seconds))
            self._stop_if_hopeless()
            names = self._names(val)
            if names or done % self.recipe.save_every == 0 or done == self.recipe.steps:
                self._agree_on_weights()
                if self.world.first:
                    self.save(names)

    def _stop_if_hopeless(self) -> None:
        """Raises TrainingError where more steps in a row than the recipe allows had nothing finite in them."""
        failed, patience = self.counts.in_a_row, self.recipe.patience
        if failed > patience:
            raise TrainingError(
                f"{failed} steps in a row, the last one {self.counts.step - 1}, were skipped because their losses or "
                f"gradients were not finite, more than the recipe's patience={patience}: the run stops. Its "
                "checkpoints stay; go on from one with --resume and a smaller learning rate (--set lr=...), from the "
                "one before the trouble with --at best"
            )

    def _improved(self, val: float | None) -> bool:
        """Whether this is the best validation accuracy of the stage so far; if so, it is noted."""
        counts = self.counts
        if val is None or (self._stage_index, val) <= (counts.best_stage, counts.best):
            return False
        counts.best_stage, counts.best = self._stage_index, val
        return True

    def _names(self, val: float | None) -> list[str]:
        """What the checkpoint after this step is, besides the latest, given its validation accuracy."""
        falls = self.recipe.decay < 1 and not self.recipe.milestones and self.counts.step == fall_at(self.recipe)
        return [checkpoint.BEST] * self._improved(val) + [checkpoint.STEADY] * falls

    def save(self, names: Sequence[str] = ()) -> Path:
        """The folder of the checkpoint written, which is the latest and what else `names` say."""
        tensors = {
            "model": dict(self.ghn.state_dict()),
            "average": dict(self.average.state_dict()),
            "optimiser": optimiser_tensors(self.ghn, self.optimiser),
        }
        train = self._images[0]
        state = {
            "recipe": self.recipe.to_dict(),
            "ghn": self.ghn.config.to_dict(),
            "counts": vars(self.counts).copy(),
            "data": {"classes": list(train.classes), "origin": train.origin},
        }
        saved = checkpoint.Checkpoint(self.counts.step, tensors, state)
        return checkpoint.save(self.checkpoints, saved, self.recipe.keep, (checkpoint.LATEST, *names))

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Continues from a checkpoint. Raises CheckpointError where it belongs to a GHN of other sizes."""
        try:
            self.ghn.load_state_dict(saved.tensors["model"])
            self.average.load_state_dict(saved.tensors["average"])
            restore_optimiser(self.ghn, self.optimiser, saved.tensors["optimiser"])
            self.counts = Counts(**saved.state["counts"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"the checkpoint at step {saved.step} does not fit this recipe: {error}") from error

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Begins at step 0 with the weights of another GHN. Raises CheckpointError where they do not fit."""
        try:
            self.ghn.load_state_dict(weights)
            self.average.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(f"the weights to start from do not fit this recipe: {error}") from error

    @property
    def _stage(self) -> Stage:
        return self.recipe.stages[self._stage_index]

    @property
    def _local_steps(self) -> int:
        return self._stage.local_steps or self.recipe.local_steps

    def _enter_stage(self, report: Callable[[str], None]) -> None:
        """Images and networks of the stage that the current step belongs to."""
        index = self.recipe.stage_at(self.counts.step)
        if index == self._stage_index:
            return
        self._stage_index = index
        recipe, stage = self.recipe, self._stage
        report(f"stage {index + 1} of {len(recipe.stages)}: {stage}")
        self._train_pool = self._pool("train", recipe.corpus, report)
        train, val = self._images
        self._train_images = train.resized(stage.side)
        if recipe.val_networks:
            self._val_pool = self._pool("val", recipe.val_networks, report)
            held_out = val.take(torch.arange(min(recipe.val_images, len(val)))).resized(stage.side)
            device = self.world.device
            self._val_batches = [(x.to(device), y.to(device)) for x, y in held_out.batches(VAL_BATCH)]

    def _pool(self, part: str, size: int, report: Callable[[str], None]) -> Pool:
        split = self.recipe.splits[PARTS.index(part)]
        spec = PoolSpec.of(self.recipe, self._stage, split, size, self.ghn.config.num_classes)
        every = max(1000, size // 20)
        corpus = self._corpus if part == "train" else None
        pool = build_pool(spec, corpus, lambda n: report(f"{part} networks: {n} of {size}") if n % every == 0 else None)
        report(f"{part} networks: {pool.funnel}")
        self.world.agree(f"the {part} networks", str(pool.funnel))
        return pool

    def _step(self) -> Row:
        """One meta-batch: gradient, clipping, update, average."""
        counts, recipe = self.counts, self.recipe
        lr = lr_at(recipe, counts.step)
        indices = self._train_pool.drawn(counts.networks_drawn, self._stage.networks)
        parts = self._parts(indices)
        result = meta_gradient(
            self.ghn,
            self._jobs(indices, [place for number in self.world.mine(len(parts)) for place in parts[number]]),
            budget=recipe.node_budget,
            smoothing=recipe.label_smoothing,
            penalty=recipe.norm_penalty,
            bf16=recipe.bf16,
            clip_network=recipe.clip_network,
            local=Local(self._local_steps, recipe.local_rate),
            run=self._map,
            parts=parts,
            world=self.world,
        )
        norm = nn.utils.clip_grad_norm_(self.ghn.parameters(), recipe.clip).item()
        if result.networks and math.isfinite(norm):
            for group in self.optimiser.param_groups:
                group["lr"] = lr
            self.optimiser.step()
            update_average(self.average, self.ghn, recipe.ema, counts.step)
            counts.in_a_row = 0
        else:
            counts.steps_skipped += 1
            counts.in_a_row += 1
        counts.networks_drawn += len(indices)
        counts.networks_skipped += result.skipped
        counts.step += 1
        return Row(
            step=counts.step - 1,
            stage=self._stage_index,
            loss=result.loss,
            accuracy=result.accuracy,
            lr=lr,
            grad_norm=norm,
            networks=result.networks,
            skipped=counts.networks_skipped,
            skipped_steps=counts.steps_skipped,
        )

    def _parts(self, indices: Sequence[int]) -> list[list[int]]:
        """Places of a meta-batch of these networks, divided into the recipe's number of parts.

        The dearest networks run first, while free memory is in one piece: the others fit into what they leave.
        """
        costs = [self._train_pool.cost(index, self._stage.images * self._local_steps) for index in indices]
        return balanced(costs, self.recipe.parts or 1)

    def _jobs(self, indices: Sequence[int], places: Sequence[int]) -> dict[int, Job]:
        """The jobs at these places of a meta-batch of the pool's networks `indices`."""
        recipe, step, pool = self.recipe, self.counts.step, self._train_pool
        shared = self._drawn(0) if recipe.shared_images else None
        return {
            place: Job(
                pool.graph(indices[place]),
                pool.module(indices[place]).train(recipe.dropout),
                *(shared or self._drawn(place)),
                seed=mixed(recipe.seed, step, DROPOUT, place) if recipe.dropout else None,
                recompute=pool.activations(indices[place], self._stage.images) > (recipe.recompute_above or math.inf),
            )
            for place in places
        }

    def _drawn(self, place: int) -> tuple[Tensor, Tensor]:
        """Images and labels of the network at this place of the meta-batch."""
        draw = generator_for(self.recipe.seed, self.counts.step, IMAGES, place)
        count = self._stage.images * self._local_steps
        images, labels = self._train_images.draw(count, draw, self._order, self._local_steps)
        return images.to(self.world.device), labels.to(self.world.device)

    def _validate(self) -> float | None:
        """Mean top-1 of the averaged GHN on the held-out networks and images; None between the measurements."""
        done, world = self.counts.step, self.world
        if not self.recipe.val_networks or (done % self.recipe.val_every and done != self.recipe.steps):
            return None
        pool = self._val_pool
        parts = balanced([pool.cost(index, self.recipe.val_images) for index in range(len(pool.genotypes))], world.size)
        scores = torch.zeros(len(pool.genotypes), dtype=torch.float64)
        for index in (index for number in world.mine(len(parts)) for index in parts[number]):
            scores[index] = accuracy(self.average, pool.graph(index), pool.module(index), self._val_batches)
        return sum(world.merged(scores).tolist()) / len(scores)

    def _agree_on_weights(self) -> None:
        """Raises WorldError where processes have drifted apart, as unlike processors may let them."""
        if self.world.size > 1:
            self.world.agree(f"the weights after step {self.counts.step}", _digest(self.ghn.state_dict().values()))


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
