"""The gradient of one meta-batch: weights predicted once, each network run on its own, one backward per GHN forward.

The GHN's output is cut off from its graph, each network is differentiated with respect to its own predicted weights
(which frees its activations at once), and the weights' gradients then go through the GHN together. By the chain
rule this is the gradient of the mean loss, at the memory of one network.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.assign import functional
from ghn.graph import ArchGraph
from ghn.model import GHN
from ghn.primitives import Primitive
from train.sampler import chunks


@dataclass(frozen=True, eq=False)
class Job:
    """One network of a meta-batch and what it sees. images: (B, 3, s, s) normalised. labels: (B,)."""

    graph: ArchGraph
    module: nn.Module
    images: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Trial:
    """How one network did. gradients: of its weights; None where the loss or a gradient was not finite."""

    loss: float
    correct: int
    gradients: tuple[Tensor | None, ...] | None


@dataclass(frozen=True)
class MetaStep:
    """Means over the networks that counted. skipped: networks left out because something was not finite."""

    loss: float
    accuracy: float
    networks: int
    skipped: int


def meta_gradient(
    ghn: GHN,
    jobs: Sequence[Job],
    *,
    budget: int,
    smoothing: float = 0.0,
    bf16: bool = False,
    clip_network: float | None = None,
    run: Callable[..., Iterable[Trial]] = map,
) -> MetaStep:
    """Leaves in the GHN's `.grad` the gradient of the mean cross-entropy over the networks with finite results.

    clip_network: largest norm of one network's gradient with respect to its weights; longer ones are shortened, so
    that a single exploding network does not decide the step.
    run: `map`, or that of a thread pool: the networks are independent, and the result is the same bit for bit.
    """
    ghn.zero_grad(set_to_none=True)
    if len({id(job.module) for job in jobs}) < len(jobs):
        run = map  # a module lends itself to one set of weights at a time
    trials: list[Trial] = []
    for part in chunks([job.graph for job in jobs], budget):
        here = jobs[part]
        predicted = ghn(ghn.collate([job.graph for job in here]))
        arguments = [(job, w, smoothing, bf16, clip_network) for job, w in zip(here, predicted, strict=True)]
        results = list(run(lambda each: try_network(*each), arguments))
        _backward(predicted, results)
        trials += results
    counted = [(job, trial) for job, trial in zip(jobs, trials, strict=True) if trial.gradients is not None]
    for parameter in ghn.parameters():
        if parameter.grad is not None and counted:
            parameter.grad /= len(counted)
    seen = sum(len(job.labels) for job, _ in counted)
    return MetaStep(
        loss=sum(trial.loss for _, trial in counted) / len(counted) if counted else float("nan"),
        accuracy=sum(trial.correct for _, trial in counted) / seen if counted else float("nan"),
        networks=len(counted),
        skipped=len(jobs) - len(counted),
    )


def try_network(
    job: Job, weights: Mapping[str, Tensor], smoothing: float, bf16: bool, clip: float | None = None
) -> Trial:
    """Loss of one network with the predicted weights and its gradient with respect to each of them, in their order."""
    leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
    # The CPU's bfloat16 attention is five times slower than its float32 one.
    attention = bool((job.graph.ops == Primitive.MSA).any())
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16 and not attention):
        logits = functional(job.module, leaves, job.images)
    loss = F.cross_entropy(logits.float(), job.labels, label_smoothing=smoothing)
    correct = int((logits.argmax(1) == job.labels).sum())
    if not torch.isfinite(loss):
        return Trial(float("nan"), 0, None)
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    present = [g for g in gradients if g is not None]
    norm = nn.utils.get_total_norm(present)
    if not torch.isfinite(norm):
        return Trial(float("nan"), 0, None)
    if clip is not None and norm > clip:
        torch._foreach_mul_(present, clip / norm)
    return Trial(loss.item(), correct, gradients)


def _backward(predicted: Sequence[Mapping[str, Tensor]], trials: Sequence[Trial]) -> None:
    """Sends the weights' gradients through the GHN, adding to its parameters' gradients."""
    pairs = [
        (weight, gradient)
        for weights, trial in zip(predicted, trials, strict=True)
        if trial.gradients is not None
        for weight, gradient in zip(weights.values(), trial.gradients, strict=True)
        if gradient is not None
    ]
    if pairs:
        weights, gradients = zip(*pairs, strict=True)
        torch.autograd.backward(weights, gradients)


@torch.no_grad()
def accuracy(ghn: GHN, graph: ArchGraph, module: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Top-1 of a network with predicted weights, as a fraction; batch norms take each batch's own statistics."""
    weights = ghn(ghn.collate([graph]))[0]
    was_training = module.training
    module.eval()
    correct = sum(int((functional(module, weights, x).argmax(1) == y).sum()) for x, y in batches)
    module.train(was_training)
    return correct / sum(len(y) for _, y in batches)
