"""The gradient of one meta-batch: weights predicted once, each network run on its own, one backward per GHN forward.

The GHN's output is cut off from its graph, each network is differentiated with respect to its own predicted weights
(which frees its activations at once), and the weights' gradients then go through the GHN together. By the chain
rule this is the gradient of the mean loss, at the memory of one network.

A network may also take some steps of its own from its predicted weights, each on other images (`Local`). The sum of the
gradients along the way is then sent through the GHN in place of the first one: what moves the prediction towards where
training would have taken it (Reptile: Nichol et al. 2018; the rounds of FedAvg: McMahan et al. 2017). The cost of
predicting, building, and differentiating the GHN is shared by all of these steps.

A meta-batch may be divided into parts, which several processes take: each part has GHN forwards and a gradient of its
own, and the gradients are added in the order of the parts. Which process calculated which part changes no bit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.assign import functional
from ghn.graph import ArchGraph
from ghn.model import GHN
from ghn.norms import evaluating
from ghn.primitives import Primitive
from train.distributed import ALONE, World
from train.recompute import give_back, recomputing
from train.sampler import chunks
from train.seeds import seeded


@dataclass(frozen=True, eq=False)
class Job:
    """One network of a meta-batch and what it sees. images: (B, 3, s, s) normalised, in equal parts for its local
    steps. labels: (B,).

    seed: of what it draws (dropout); None where it draws nothing. recompute: whether what its blocks compute is
    calculated again in the backward pass, to save memory.
    """

    graph: ArchGraph
    module: nn.Module
    images: Tensor
    labels: Tensor
    seed: int | None = None
    recompute: bool = False


@dataclass(frozen=True)
class Local:
    """Gradients taken from one network. steps: how many, with steps of its weights between them. rate: the length of
    such a step, relative to that of the tensor (the trust ratio of LARS: You et al. 2017)."""

    steps: int = 1
    rate: float = 0.0


ONCE = Local()


@dataclass(frozen=True, eq=False)
class Trial:
    """How one network did with predicted weights, on the first of its images.

    gradients: of its weights, summed over its local steps; None where these or the loss are not finite.
    """

    loss: float
    correct: int
    images: int
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
    jobs: Sequence[Job] | Mapping[int, Job],
    *,
    budget: int,
    smoothing: float = 0.0,
    penalty: float = 0.0,
    bf16: bool = False,
    clip_network: float | None = None,
    local: Local = ONCE,
    run: Callable[..., Iterable[Trial]] = map,
    parts: Sequence[Sequence[int]] | None = None,
    world: World = ALONE,
) -> MetaStep:
    """Leaves in the GHN's `.grad` the gradient of the mean cross-entropy over the networks with finite results.

    penalty: what a network's loss grows by for the norm of each of its weights; not in the loss that is reported.
    clip_network: largest norm of one network's gradient with respect to its weights; longer ones are shortened, so
    that a single exploding network does not decide the step.
    local: steps that each network takes by itself.
    run: `map`, or that of a thread pool: the networks are independent, and the result is the same bit for bit.
    parts: which places of the meta-batch are calculated together, and by which process of the world; all of them by
    default. A process needs only the jobs of its own parts. All processes are left with the same gradient and result.
    """
    ghn.zero_grad(set_to_none=True)
    parts = [range(len(jobs))] if parts is None else parts
    tally = _Tally(sum(map(len, parts)), len(list(ghn.parameters())))
    flats = []
    for part in (parts[number] for number in world.mine(len(parts))):
        trials: list[Trial] = []
        for piece in chunks([jobs[place].graph for place in part], budget):
            here = [jobs[place] for place in part[piece]]
            predicted = ghn(ghn.collate([job.graph for job in here]))
            settings = (smoothing, bf16, clip_network, local, penalty)
            arguments = [(job, w, *settings) for job, w in zip(here, predicted, strict=True)]
            distinct = len({id(job.module) for job in here}) == len(here)  # a module holds one set of weights at a time
            results = list((run if distinct else map)(lambda each: try_network(*each), arguments))
            _backward(predicted, results)
            trials += results
        tally.note(part, trials, ghn)
        flats.append(_taken_gradient(ghn))
    result, present = tally.result(world)
    if result.networks:
        length = sum(p.numel() for p in ghn.parameters())
        total = world.ordered_sum(len(parts), length, flats).div_(result.networks)
        for parameter, gradient, wanted in zip(ghn.parameters(), _cut(total, ghn), present, strict=True):
            parameter.grad = gradient if wanted else None
    return result


class _Tally:
    """How the networks of a meta-batch did, and which parameters have a gradient: one vector that processes merge."""

    def __init__(self, networks: int, parameters: int) -> None:
        self._vector = torch.zeros(networks * 4 + parameters, dtype=torch.float64)
        self._rows, self._present = self._vector[: networks * 4].view(networks, 4), self._vector[networks * 4 :]

    def note(self, places: Sequence[int], trials: Sequence[Trial], ghn: GHN) -> None:
        """Enters the trials at these places and the gradients that they have left in the GHN."""
        for place, trial in zip(places, trials, strict=True):
            if trial.gradients is not None:
                self._rows[place] = torch.tensor([1, trial.loss, trial.correct, trial.images], dtype=torch.float64)
        for index, parameter in enumerate(ghn.parameters()):
            self._present[index] += parameter.grad is not None

    def result(self, world: World) -> tuple[MetaStep, list[bool]]:
        """The means over the networks of all processes, and for each parameter whether any of them has a gradient."""
        world.merged(self._vector)
        rows = [row for row in self._rows.tolist() if row[0]]
        counted = len(rows)
        loss = sum(row[1] for row in rows) / counted if counted else float("nan")
        accuracy = sum(row[2] for row in rows) / sum(row[3] for row in rows) if counted else float("nan")
        return MetaStep(loss, accuracy, counted, len(self._rows) - counted), [n > 0 for n in self._present.tolist()]


def try_network(
    job: Job,
    weights: Mapping[str, Tensor],
    smoothing: float,
    bf16: bool,
    clip: float | None = None,
    local: Local = ONCE,
    penalty: float = 0.0,
) -> Trial:
    """How one network does with the predicted weights, and its gradient with respect to each, in their order."""
    device, values = job.images.device, [value.detach() for value in weights.values()]
    # The CPU's bfloat16 attention is five times slower than its float32 one.
    half = bf16 and not (device.type == "cpu" and bool((job.graph.ops == Primitive.MSA).any()))
    trials: list[Trial] = []
    total: tuple[Tensor | None, ...] = ()
    if job.recompute and device.type == "cpu":
        give_back()
    with nullcontext() if job.seed is None else seeded(job.seed, device):
        for images, labels in zip(job.images.chunk(local.steps), job.labels.chunk(local.steps), strict=True):
            if trials:
                values = stepped(values, trials[-1].gradients or (), local.rate)
            named = dict(zip(weights, values, strict=True))
            with recomputing(job.module) if job.recompute else nullcontext():
                trials.append(_differentiated(job.module, named, images, labels, smoothing, half, penalty))
            if trials[-1].gradients is None:
                return replace(trials[0], loss=float("nan"), correct=0, gradients=None)
            total = tuple(map(_sum, total, trials[-1].gradients)) if total else trials[-1].gradients
    present = [g for g in total if g is not None]
    norm = nn.utils.get_total_norm(present)
    if not torch.isfinite(norm):
        return replace(trials[0], loss=float("nan"), correct=0, gradients=None)
    if clip is not None and norm > clip:
        torch._foreach_mul_(present, clip / norm)
    return replace(trials[0], gradients=total)


def _differentiated(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    images: Tensor,
    labels: Tensor,
    smoothing: float,
    half: bool,
    penalty: float,
) -> Trial:
    """One forward and backward pass; no gradients where the loss is not finite."""
    leaves = {name: value.requires_grad_() for name, value in weights.items()}
    with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
        logits = functional(module, leaves, images)
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
    gradients = None
    if torch.isfinite(loss):
        total = loss + penalty * sum(w.norm() for w in leaves.values()) if penalty else loss
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return Trial(loss.item(), int((logits.argmax(1) == labels).sum()), len(labels), gradients)


@torch.no_grad()
def stepped(values: Sequence[Tensor], gradients: Sequence[Tensor | None], rate: float) -> list[Tensor]:
    """The weights after a step down the gradients, for each tensor of `rate` times its own length."""
    return [
        value if g is None else value - g * (rate * value.norm() / g.norm().clamp(min=torch.finfo(g.dtype).tiny))
        for value, g in zip(values, gradients, strict=True)
    ]


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return one if other is None else other if one is None else one + other


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


def _taken_gradient(ghn: GHN) -> Tensor:
    """(P,) gradient of all parameters in their order, zeros where there is none; taken out of the GHN."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in ghn.parameters()]
    ghn.zero_grad(set_to_none=True)
    return torch.cat([part.reshape(-1) for part in parts])


def _cut(flat: Tensor, ghn: GHN) -> Iterator[Tensor]:
    """Views of (P,) numbers in the shapes of the parameters, in their order."""
    pieces = flat.split([p.numel() for p in ghn.parameters()])
    return (piece.view(p.shape) for piece, p in zip(pieces, ghn.parameters(), strict=True))


@torch.no_grad()
def accuracy(ghn: GHN, graph: ArchGraph, module: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Top-1 of a network with predicted weights, as a fraction; batch norms take each batch's own statistics."""
    weights = ghn(ghn.collate([graph]))[0]
    with evaluating(module):
        correct = sum(int((functional(module, weights, x).argmax(1) == y).sum()) for x, y in batches)
    return correct / sum(len(y) for _, y in batches)
