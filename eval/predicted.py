"""Scores of networks with the weights that a GHN predicts for them: one forward pass of each, no training."""

import torch
from torch.nn import functional as F

from eval.evaluator import Arch, Evaluator, Networks, digest, fingerprint
from eval.images import SearchImages
from eval.score import BATCH, logits_of
from ghn.hyper import Hypernet

METRICS = ("accuracy", "loss", "margin")


class Predicted(Evaluator):
    """accuracy: top-1. loss: mean cross-entropy in nats. margin: mean difference between the log-probability of the
    label and the highest of the others, which still tells apart networks that classify alike.

    images: the same for every architecture; evenly by class is best (`eval.images.balanced`). batch: that batch norms
    see at a time. Source: Knyazev et al., NeurIPS 2021; Zhang et al., ICLR 2019 (one-shot accuracy as a score).
    """

    metrics = METRICS

    def __init__(self, hyper: Hypernet, space: Networks, images: SearchImages, batch: int = BATCH) -> None:
        self.hyper, self.space, self.batch = hyper, space, batch
        self.images, self.sees = images.images, frozenset({images.part})
        self.fingerprint = fingerprint(
            "predicted", ghn=_weights(hyper), space=space.name, images=images.content, batch=batch
        )

    @torch.no_grad()
    def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
        classes, side = len(self.hyper.classes), self.images.side
        model = self.space.build(arch, classes, side)
        model = self.hyper.init(model, graph=self.space.graph(arch, classes, side))
        rows = list(logits_of(model, self.images, self.batch))
        logits, labels = (torch.cat(parts) for parts in zip(*rows, strict=True))
        return statistics(logits, labels), len(labels)


def statistics(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """METRICS of (N, classes) logits and (N,) labels."""
    log_p = F.log_softmax(logits.double(), dim=1)
    own = log_p.gather(1, labels[:, None])
    others = log_p.scatter(1, labels[:, None], -torch.inf)
    return {
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "loss": -own.mean().item(),
        "margin": (own - others.amax(1, keepdim=True)).mean().item(),
    }


def _weights(hyper: Hypernet) -> str:
    return digest(
        f"{name} {tuple(v.shape)} {v.double().sum().item()!r}" for name, v in hyper.model.state_dict().items()
    )
