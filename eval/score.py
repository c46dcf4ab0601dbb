"""How well a network classifies real images with the weights it has."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.norms import evaluating
from train.data import ImageSet
from train.sgd import device_of, logits

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

    The model runs where it is, in eval mode with batch normalisation by batch statistics, the protocol of Knyazev et
    al. 2021 (ghn_spec 12); its flags and buffers are put back. progress is called with the number of images done.
    Raises ModelError where the model does not give a row of logits per image.
    """
    began, correct, loss, done = time.perf_counter(), 0, 0.0, 0
    for rows, y in logits_of(model, images, batch):
        correct += int((rows.argmax(dim=1) == y).sum())
        loss += F.cross_entropy(rows, y, reduction="sum").item()
        done += len(y)
        progress(done)
    return Score(correct / len(images), loss / len(images), len(images), batch, time.perf_counter() - began)


def logits_of(model: nn.Module, images: ImageSet, batch: int = BATCH) -> Iterator[tuple[Tensor, Tensor]]:
    """(B, classes) logits and (B,) labels of each batch, in main memory, by the protocol of `score`. To be read to the
    end, without gradients: only then are the model's flags and buffers put back. Raises ModelError as `score`."""
    _channels_last(model)
    device = device_of(model)
    with evaluating(model):
        for x, y in images.batches(batch):
            yield logits(model, x.to(device), len(images.classes)).cpu(), y


def _channels_last(model: nn.Module) -> None:
    """Lays out 4-D weights as CPU convolutions like them; values stay."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
