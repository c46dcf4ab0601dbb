"""Scores of networks with the weights that a GHN predicts for them: one forward pass, of no training or few steps."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eval.evaluator import Arch, Evaluator, Networks, digest, fingerprint
from eval.images import SearchImages, balanced
from eval.score import BATCH, logits_of
from ghn.hyper import Hypernet
from train.step import stepped

METRICS = ("accuracy", "loss", "margin", "lead")
RATE, STEP_BATCH = 0.03, 64  # of a step: its length relative to that of each tensor, and its images


@dataclass(frozen=True, eq=False)
class Steps:
    """Training before the score. count: steps, each on STEP_BATCH other images; all networks see the same."""

    images: SearchImages
    count: int
    rate: float = RATE


class Predicted(Evaluator):
    """accuracy: top-1. loss: mean cross-entropy in nats. margin: mean difference between the log-probability of the
    label and the highest of the others, which still tells apart networks that classify alike. lead: mean difference
    between the logit of the label and the mean of all logits. The loss of a few confident mistakes can outweigh all
    other images; here each counts as far as its logits go (it is what the loss tends to, but for scale, at a high
    temperature), so that other images give nearly the same order. Larger logits lead further, too.

    images: the same for every architecture; evenly by class is best (`eval.images.balanced`). batch: that batch norms
    see at a time. steps: taken from the predicted weights before, None for none.
    Source: Knyazev et al., NeurIPS 2021; Zhang et al., ICLR 2019 (one-shot accuracy as a score).
    """

    metrics = METRICS

    def __init__(
        self, hyper: Hypernet, space: Networks, images: SearchImages, batch: int = BATCH, steps: Steps | None = None
    ) -> None:
        self.hyper, self.space, self.batch = hyper, space, batch
        self.images, self.sees = images.images, frozenset({images.part})
        self._training: list[tuple[Tensor, Tensor]] = []
        settings: dict[str, object] = {"ghn": weights_of(hyper), "images": images.content, "batch": batch}
        settings["metrics"] = METRICS
        if steps:
            self.sees |= {steps.images.part}
            used = balanced(steps.images.images, steps.count * STEP_BATCH)
            self._training, self._rate = list(used.batches(STEP_BATCH)), steps.rate
            settings["steps"] = [steps.count, steps.rate, steps.images.content]
        self.fingerprint = fingerprint("predicted", space=space.networks, **settings)

    def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
        classes, side = len(self.hyper.classes), self.images.side
        model = self.space.build(arch, classes, side)
        model = self.hyper.init(model, graph=self.space.graph(arch, classes, side))
        if self._training:
            descend(model.train(), self._training, self._rate)
        with torch.no_grad():
            rows = list(logits_of(model, self.images, self.batch))
        logits, labels = (torch.cat(parts) for parts in zip(*rows, strict=True))
        return statistics(logits, labels), len(labels) + sum(len(y) for _, y in self._training)


def descend(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], rate: float) -> None:
    """A step of the model down the cross-entropy of each batch: of each tensor, `rate` times as long as it is, as a GHN
    takes them while it learns (train/step.py)."""
    parameters = list(model.parameters())
    for x, y in batches:
        grads = torch.autograd.grad(F.cross_entropy(model(x), y), parameters, allow_unused=True)
        with torch.no_grad():
            for p, value in zip(parameters, stepped(parameters, grads, rate), strict=True):
                p.copy_(value)


def statistics(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """METRICS of (N, classes) logits and (N,) labels."""
    log_p = F.log_softmax(logits.double(), dim=1)
    own = log_p.gather(1, labels[:, None])
    others = log_p.scatter(1, labels[:, None], -torch.inf)
    return {
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "loss": -own.mean().item(),
        "margin": (own - others.amax(1, keepdim=True)).mean().item(),
        "lead": (own - log_p.mean(1, keepdim=True)).mean().item(),
    }


def weights_of(hyper: Hypernet) -> str:
    """What tells a GHN from others: its weights to the bit, so that it is the same on every processor."""
    return digest(f"{name} {tuple(v.shape)} {_bits(v)}" for name, v in hyper.model.state_dict().items())


def _bits(tensor: Tensor) -> str:
    return sha256(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy()).hexdigest()
