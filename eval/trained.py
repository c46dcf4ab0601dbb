"""Scores of networks after a short training by SGD, which survives a kill and goes on to the same result."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from eval.benchmark import seeded
from eval.evaluator import Arch, Evaluator, Networks, digest, fingerprint
from eval.images import SearchImages
from eval.score import score
from ghn.errors import DataError, GHNError
from ghn.files import write
from ghn.hyper import Hypernet
from train.seeds import DROPOUT, IMAGES, INITIAL, generator_for, mixed
from train.seeds import seeded as drawing


@dataclass(frozen=True)
class Schedule:
    """SGD with Nesterov momentum, the learning rate falling to 0 as a cosine over all steps. DARTS's numbers."""

    epochs: int = 1
    batch: int = 64
    lr: float = 0.025
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float = 5.0


class Trained(Evaluator):
    """accuracy and loss on `val` after training on `train`.

    start: a GHN whose predictions are the initial weights; None: PyTorch's own. folder: where a network under training
    is kept after each epoch; what is there is gone on with.
    """

    metrics = ("accuracy", "loss")

    def __init__(
        self,
        space: Networks,
        train: SearchImages,
        val: SearchImages,
        schedule: Schedule = Schedule(),  # noqa: B008, it is frozen
        start: Hypernet | None = None,
        folder: Path | None = None,
    ) -> None:
        if train.images.classes != val.images.classes:
            raise DataError("training and validation images are of different classes; take both from one set")
        self.space, self.schedule, self.start, self.folder = space, schedule, start, folder
        self.train, self.val = train.images, val.images
        self.sees = frozenset({train.part, val.part})
        begins = digest(f"{v.double().sum()!r}" for v in start.model.state_dict().values()) if start else "default"
        content = [train.content, val.content]
        self.fingerprint = fingerprint(
            "trained", space=space.networks, images=content, start=begins, **asdict(schedule)
        )

    def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
        own = int(digest([f"{seed} {arch.genes}"]), 16)
        classes, side = len(self.train.classes), self.train.side
        model = seeded(lambda: self.space.build(arch, classes, side), mixed(own, 0, INITIAL))
        if self.start is not None:
            self.start.init(model, graph=self.space.graph(arch, classes, side))
        self._fit(model, own, arch)
        found = score(model, self.val)
        images = self.schedule.epochs * len(self.train) + len(self.val)
        return {"accuracy": found.accuracy, "loss": found.loss}, images

    def _fit(self, model: nn.Module, own: int, arch: Arch) -> None:
        """Trains the model. own: seed of everything that is drawn for this network."""
        optimiser = torch.optim.SGD(
            model.parameters(),
            lr=self.schedule.lr,
            momentum=self.schedule.momentum,
            nesterov=True,
            weight_decay=self.schedule.weight_decay,
        )
        file = self.folder / f"{self.fingerprint}-{digest([arch.key, str(own)])}.safetensors" if self.folder else None
        for epoch in range(_restored(file, model, optimiser), self.schedule.epochs):
            with drawing(mixed(own, epoch, DROPOUT)):
                self._epoch(model.train(), optimiser, own, epoch)
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                write(file, save(_tensors(model, optimiser, epoch + 1)))

    def _epoch(self, model: nn.Module, optimiser: torch.optim.SGD, own: int, epoch: int) -> None:
        schedule, rng = self.schedule, generator_for(own, epoch, IMAGES)
        order = torch.randperm(len(self.train), generator=rng).split(schedule.batch)
        for step, index in enumerate(part for part in order if len(part) > 1):  # one image has no batch statistics
            done = (epoch * len(order) + step) / (schedule.epochs * len(order))
            optimiser.param_groups[0]["lr"] = schedule.lr * (1 + math.cos(math.pi * done)) / 2
            x, y = self.train.take(index).draw(len(index), rng)
            loss = F.cross_entropy(model(x), y)
            if not math.isfinite(loss.item()):
                raise GHNError(f"the loss is {loss.item()} in epoch {epoch}, step {step}; train with a lower lr")
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
            optimiser.step()


def _tensors(model: nn.Module, optimiser: torch.optim.SGD, epochs: int) -> dict[str, Tensor]:
    """All that training changes, under names that `_restored` reads."""
    found = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        momentum = optimiser.state[parameter].get("momentum_buffer") if parameter in optimiser.state else None
        if momentum is not None:
            found[f"momentum.{name}"] = momentum.contiguous()
    return {**found, "epochs": torch.tensor(epochs)}


def _restored(file: Path | None, model: nn.Module, optimiser: torch.optim.SGD) -> int:
    """How many epochs the file holds, put into model and optimiser; 0 without one. Raises DataError: damaged."""
    if file is None or not file.exists():
        return 0
    try:
        tensors = parse(file.read_bytes())
        prefix = "model."
        model.load_state_dict({n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)})
        for name, parameter in model.named_parameters():
            if f"momentum.{name}" in tensors:
                optimiser.state[parameter]["momentum_buffer"] = tensors[f"momentum.{name}"]
        return int(tensors["epochs"])
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise DataError(f"{file} is no network under training ({error}); delete it") from error
