"""One network trained by SGD: at every step the same draws for whoever shares a seed, and on from any kill."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.errors import DataError, ModelError, TrainingError
from ghn.files import write
from train.images import ImageSet
from train.seeds import DROPOUT, IMAGES, ORDER, generator_for, mixed, seeded

EVERY = 60.0  # seconds of training that a kill may cost


@dataclass(frozen=True)
class Schedule:
    """SGD with momentum, the learning rate falling to 0 as a cosine over all steps. The numbers are DARTS's.

    steps: in place of epochs. clip: the largest norm of a gradient; None: any.
    """

    epochs: int = 1
    batch: int = 64
    lr: float = 0.025
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float | None = 5.0
    nesterov: bool = True
    steps: int | None = None

    def epoch(self, images: int) -> int:
        """Steps that see each of so many images once. One image alone, which has no batch statistics, makes none."""
        return images // self.batch + (images % self.batch > 1 or images < self.batch)

    def total(self, images: int) -> int:
        """Steps in all."""
        return self.steps if self.steps is not None else self.epochs * self.epoch(images)

    def seen(self, images: int) -> int:
        """Images that the network sees in all of them, of so many."""
        whole, rest = divmod(self.total(images), self.epoch(images))
        return whole * (images - (self.epoch(images) * self.batch < images)) + rest * self.batch


def descend(
    model: nn.Module,
    images: ImageSet,
    schedule: Schedule,
    seed: int,
    *,
    marks: Sequence[int] = (),
    watch: Callable[[int], Sequence[float]] = lambda step: (),
    file: Path | None = None,
    progress: Callable[[int], object] = lambda step: None,
) -> list[list[float]]:
    """What `watch` finds of the model, which is trained in place, after as many steps as each mark says and at the end.

    It trains on the device that it is on. seed: of the order of the images, their shifts, and dropout, whatever the
    model. file: where the state is kept while it trains; what is there is gone on with, to the same result.
    progress: called with the steps done.
    Raises TrainingError where the loss is not finite, ModelError where the model gives no logits, DataError where the
    file is damaged.
    """
    total, device = schedule.total(len(images)), device_of(model)
    model.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
    run = _Run(model, _optimiser(model, schedule), file)
    batches = _Batches(images, schedule, seed)
    for stop in sorted({m for m in marks if m < total} | {total}):
        if stop <= run.marked:
            continue
        while run.step < stop:
            x, y = batches.at(run.step)
            _step(run, schedule, total, x.to(device), y.to(device), mixed(seed, run.step, DROPOUT))
            progress(run.step)
            run.keep(EVERY)
        run.found.append([float(x) for x in watch(stop)])
        run.marked = stop
        run.keep(0.0)
    return run.found


class _Run:
    """A network under training. step: steps done. marked: the last mark that was watched, -1 before the first."""

    def __init__(self, model: nn.Module, optimiser: torch.optim.SGD, file: Path | None) -> None:
        self.model, self.optimiser, self.file = model, optimiser, file
        self.step, self.marked = 0, -1
        self.found: list[list[float]] = []
        self._kept = time.monotonic()
        if file is not None and file.exists():
            self._restore(file)

    def keep(self, seconds: float) -> None:
        """Writes the state, if the last time was so long ago."""
        if self.file is None or time.monotonic() - self._kept < seconds:
            return
        tensors = {f"model.{name}": value.contiguous() for name, value in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            momentum = self.optimiser.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum.contiguous()
        tensors["found"] = torch.tensor(self.found, dtype=torch.float64)
        tensors["at"] = torch.tensor([self.step, self.marked])
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write(self.file, save({name: value.cpu().clone() for name, value in tensors.items()}))
        self._kept = time.monotonic()

    def _restore(self, file: Path) -> None:
        try:
            tensors = parse(file.read_bytes())
            prefix = "model."
            self.model.load_state_dict({n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)})
            for name, parameter in self.model.named_parameters():
                momentum = tensors.get(f"momentum.{name}")
                if momentum is not None:
                    self.optimiser.state[parameter]["momentum_buffer"] = momentum.to(parameter.device)
            self.step, self.marked = tensors["at"].tolist()
            self.found = tensors["found"].tolist()
        except (SafetensorError, RuntimeError, KeyError, ValueError) as error:
            raise DataError(f"{file} is no network under training ({error}); delete it") from error


class _Batches:
    """The images of each step, as a function of the seed and the step alone; each once an epoch."""

    def __init__(self, images: ImageSet, schedule: Schedule, seed: int) -> None:
        self.images, self.batch, self.seed = images, schedule.batch, seed
        self.each, self.epoch = schedule.epoch(len(images)), -1

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Augmented, normalised images and their labels."""
        epoch, place = divmod(step, self.each)
        if epoch != self.epoch:
            order = torch.randperm(len(self.images), generator=generator_for(self.seed, epoch, ORDER))
            self.epoch, self.parts = epoch, order.split(self.batch)
        index = self.parts[place]
        return self.images.take(index).draw(len(index), generator_for(self.seed, step, IMAGES))


def _optimiser(model: nn.Module, schedule: Schedule) -> torch.optim.SGD:
    return torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        lr=schedule.lr,
        momentum=schedule.momentum,
        nesterov=schedule.nesterov and schedule.momentum > 0,
        weight_decay=schedule.weight_decay,
    )


def _step(run: _Run, schedule: Schedule, total: int, x: Tensor, y: Tensor, dropout: int) -> None:
    run.optimiser.param_groups[0]["lr"] = schedule.lr * (1 + math.cos(math.pi * run.step / total)) / 2
    with seeded(dropout, x.device):
        loss = F.cross_entropy(logits(run.model.train(), x, int(y.max()) + 1), y)
    if not math.isfinite(loss.item()):
        raise TrainingError(f"the loss is {loss.item()} in step {run.step + 1}; train with a lower lr")
    run.optimiser.zero_grad()
    loss.backward()
    if schedule.clip is not None:
        nn.utils.clip_grad_norm_(run.model.parameters(), schedule.clip)
    run.optimiser.step()
    run.step += 1


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is; the CPU for a model without any."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def logits(model: nn.Module, x: Tensor, classes: int) -> Tensor:
    """(B, at least `classes`) float32: what the model says of these images, whatever it wraps that in.

    Raises ModelError where it cannot run on them, or gives no row of logits for each.
    """
    try:
        out = model(x)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{type(model).__name__} cannot run on {x.shape[-1]}-pixel images: {reason}") from error
    out = getattr(out, "logits", out)
    out = out[0] if isinstance(out, tuple | list) else out
    if not isinstance(out, Tensor) or out.ndim != 2 or out.shape[0] != len(x):
        shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ModelError(f"{type(model).__name__} gives {shape} for {len(x)} images, not a row of logits each")
    if out.shape[1] < classes:
        raise ModelError(f"{type(model).__name__} tells {out.shape[1]} classes apart, the images have {classes}")
    return out.float()
