"""How well a network classifies real images with the weights it has."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.errors import ModelError
from ghn.norms import batch_statistics
from train.data import ImageSet

BATCH = 64  # the published protocol: batch norms see 64 test images at a time


@dataclass(frozen=True)
class Score:
    """accuracy: top-1 in [0, 1]. loss: mean cross-entropy in nats. images, batch: how many, and per batch.
    seconds: wall time of the forward passes."""

    accuracy: float
    loss: float
    images: int
    batch: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def standard_error(self) -> float:
        """Of the accuracy, as a binomial proportion."""
        return (self.accuracy * (1 - self.accuracy) / self.images) ** 0.5


@torch.no_grad()
def score(
    model: nn.Module, images: ImageSet, *, batch: int = BATCH, progress: Callable[[int], None] = lambda done: None
) -> Score:
    """Top-1 accuracy and loss of the model on these images, in their order, in one pass.

    The model runs in eval mode with batch normalisation by batch statistics, the protocol of Knyazev et al. 2021
    (ghn_spec 12); its flags and buffers are put back. progress is called with the number of images done.
    Raises ModelError where the model does not give a row of logits per image.
    """
    began, correct, loss, done = time.perf_counter(), 0, 0.0, 0
    for logits, y in logits_of(model, images, batch):
        correct += int((logits.argmax(dim=1) == y).sum())
        loss += F.cross_entropy(logits, y, reduction="sum").item()
        done += len(y)
        progress(done)
    return Score(correct / len(images), loss / len(images), len(images), batch, time.perf_counter() - began)


def logits_of(model: nn.Module, images: ImageSet, batch: int = BATCH) -> Iterator[tuple[Tensor, Tensor]]:
    """(B, classes) logits and (B,) labels of each batch, by the protocol of `score`. To be read to the end, without
    gradients: only then are the model's flags and buffers put back. Raises ModelError as `score`."""
    was_training = model.training
    model.eval()
    _channels_last(model)
    try:
        with batch_statistics(model):
            for x, y in images.batches(batch):
                yield _logits(model, x, len(images.classes)), y
    finally:
        model.train(was_training)


def _channels_last(model: nn.Module) -> None:
    """Lays out 4-D weights as CPU convolutions like them; values stay."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _logits(model: nn.Module, x: Tensor, classes: int) -> Tensor:
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
