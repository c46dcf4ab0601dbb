"""A GHN scored on a split of generated networks: one prediction each, no training."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import deepnets_gen
from eval.score import BATCH, Score, score
from ghn.hyper import Hypernet
from ghn.variance import sustain_variance
from train.data import ImageSet

Finish = Callable[[nn.Module], nn.Module]  # what is done to a network with predicted weights before it is scored


@dataclass(frozen=True)
class NetworkScore:
    """One network of a split. params: its parameters, all predicted."""

    index: int
    params: int
    score: Score


@dataclass(frozen=True)
class Summary:
    """Top-1 accuracies of n networks, as fractions: mean, standard error of the mean, deviation, extremes."""

    n: int
    mean: float
    standard_error: float
    deviation: float
    least: float
    best: float

    @classmethod
    def of(cls, accuracies: Sequence[float]) -> "Summary":
        values = np.asarray(accuracies, dtype=float)
        deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        error = deviation / math.sqrt(len(values))
        return cls(len(values), float(values.mean()), error, deviation, float(values.min()), float(values.max()))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.mean:.1%} ± {self.standard_error:.1%} (n = {self.n}, s.d. {self.deviation:.1%}, "
            f"least {self.least:.1%}, best {self.best:.1%})"
        )


def score_split(
    hyper: Hypernet,
    split: str,
    count: int,
    images: ImageSet,
    *,
    batch: int = BATCH,
    finish: Finish | None = None,
    progress: Callable[[NetworkScore], None] = lambda result: None,
) -> list[NetworkScore]:
    """The first `count` networks of a split, each with predicted weights, on all these images.

    finish: what is done to each before it is scored, such as `sustaining`; None scores the weights as predicted.
    Networks are built for the images' size and the GHN's classes. Source of the protocol: ghn_spec section 12.
    """
    results = []
    for index, genotype in enumerate(deepnets_gen.generate(split, count)):
        network = deepnets_gen.build(genotype, num_classes=len(hyper.classes), image_size=images.side)
        model = hyper.init(network)
        model = finish(model) if finish else model
        result = NetworkScore(index, count_parameters(model), score(model, images, batch=batch))
        results.append(result)
        progress(result)
    return results


def sustaining(train: ImageSet, count: int = 64) -> Finish:
    """Gives a model back after `ghn.sustain_variance` on so many of these training images, the same ones every time.

    train: at the size that the model is scored at.
    """
    sample, _ = train.augmented("mirror").draw(count, torch.Generator().manual_seed(0))

    def sustained(model: nn.Module) -> nn.Module:
        sustain_variance(model, sample)
        return model

    return sustained


def count_parameters(model: nn.Module) -> int:
    """Numbers in all parameters; a tied tensor counts once."""
    return sum(p.numel() for p in model.parameters())


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What `build` gives with torch's generator at this seed; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
