"""One training step of a GHN-2 written plainly: what train/step.py is compared with, in gradients and in time.

It reads as the definition does, and does as the published code does: graphs one by one; in each the nodes one by one,
the messages of all their neighbours recomputed every time; tensors decoded one by one; networks built anew, with
parameters that the predicted ones replace; run one after another in the contiguous memory format; one loss and one
backward pass through everything, by autograd alone. It is kinder to itself than tests/literal.py, whose parts it
takes: the messages of a node's neighbours are one matrix product, and a tensor is decoded at its own kernel size.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import literal
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepnets_gen
from ghn.graph import ArchGraph
from ghn.model import GHN

CLIP = 5.0


@dataclass
class Outcome:
    """losses: of the networks. seconds: CPU seconds of each stage."""

    losses: list[float]
    seconds: dict[str, float]


class Clock:
    """CPU seconds by stage: each is told when it ends."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.process_time()

    def ended(self, stage: str) -> None:
        now = time.process_time()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


def gradient(model: GHN, genotypes: Sequence[Any], images: Tensor, labels: Tensor, *, train: bool = True) -> Outcome:
    """Leaves the gradient of the mean loss in the GHN's parameters. train: whether networks drop units."""
    model.zero_grad(set_to_none=True)
    side, clock = images.shape[-1], Clock()
    graphs = [deepnets_gen.graph(g, model.config.num_classes, side) for g in genotypes]
    neighbours = [near(graph, model.config.cutoff) for graph in graphs]
    clock.ended("reading")
    networks = [deepnets_gen.build(g, model.config.num_classes, side).train(train) for g in genotypes]
    clock.ended("building")
    states = [node_states(model, *each) for each in zip(graphs, neighbours, strict=True)]
    clock.ended("sweep")
    predicted = [parameters(model, *each) for each in zip(graphs, states, strict=True)]
    clock.ended("decoding")
    images = images.contiguous()
    losses = [
        F.cross_entropy(replaced(network, weights)(images), labels)
        for network, weights in zip(networks, predicted, strict=True)
    ]
    clock.ended("networks forward")
    _when_reached([weight for weights in predicted for weight in weights.values()], clock)
    (sum(losses, torch.zeros(())) / len(losses)).backward()
    clock.ended("GHN backward")
    return Outcome([loss.item() for loss in losses], clock.seconds)


def step(
    model: GHN, optimiser: torch.optim.Optimizer, genotypes: Sequence[Any], images: Tensor, labels: Tensor
) -> Outcome:
    """One update of the GHN by the mean loss of these networks."""
    outcome = gradient(model, genotypes, images, labels)
    clock = Clock()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimiser.step()
    clock.ended("optimiser")
    return Outcome(outcome.losses, outcome.seconds | clock.seconds)


def near(graph: ArchGraph, cutoff: int) -> tuple[list[dict[int, int]], list[dict[int, int]]]:
    """For each node {ancestor: distance} and {descendant: distance}, up to the cutoff."""
    within = [[d if d <= cutoff else 0 for d in row] for row in graph.distances.tolist()]
    descendants = [{v: d for v, d in enumerate(row) if d} for row in within]
    ancestors: list[dict[int, int]] = [{} for _ in within]
    for u, found in enumerate(descendants):
        for v, d in found.items():
            ancestors[v][u] = d
    return ancestors, descendants


def node_states(model: GHN, graph: ArchGraph, neighbours: tuple[list[dict[int, int]], list[dict[int, int]]]) -> Tensor:
    """(N, d): a sweep down and one up, node by node (ghn_spec section 5)."""
    states = literal.embed(model, graph)
    order = range(len(states))
    for nodes, around in zip((order, reversed(order)), neighbours, strict=True):
        for v in nodes:
            states[v] = model.gnn.gru(_message(model, states, around[v])[None], states[v][None])[0]
    return model.ln(torch.stack(states))


def _message(model: GHN, states: list[Tensor], around: dict[int, int]) -> Tensor:
    """(d,) sum of what the neighbours send, all of it calculated here."""
    if not around:
        return torch.zeros_like(states[0])
    senders = torch.stack([states[u] for u in around])
    steps = torch.tensor(list(around.values()))
    message = model.gnn.mlp(senders[steps == 1]).sum(0)
    if model.gnn.mlp_ve is not None:
        message = message + (model.gnn.mlp_ve(senders) / steps[:, None]).sum(0)
    return message


def parameters(model: GHN, graph: ArchGraph, states: Tensor) -> dict[str, Tensor]:
    """Parameter name -> tensor, one decoded after the other."""
    return {slot.fqn: literal.parameter(model, states[slot.node], slot, _kernel) for slot in graph.slots}


def _kernel(model: GHN, z: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(out, in, h, w): all channels of the kernel positions that a tensor of this shape has."""
    out, inp, size, _ = model.config.max_shape
    decoder = model.decoder
    height, width = (size, size) if len(shape) == 3 else (*shape, 1, 1)[2:4]  # of three dimensions: position maps
    x = decoder.fc(z[None]).relu().view(1, -1, size, size)[:, :, :height, :width]
    return decoder.conv(x).view(out, inp, *x.shape[2:])


def replaced(network: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """The network with these tensors in the place of its parameters."""
    for name, value in weights.items():
        owner, _, leaf = name.rpartition(".")
        module = network.get_submodule(owner)
        del module._parameters[leaf]
        setattr(module, leaf, value)
    return network


def _when_reached(weights: list[Tensor], clock: Clock) -> None:
    """Ends the stage 'networks backward' when the backward pass comes to the first of the predicted weights.

    Autograd goes backward in the reverse order of the calculation, so that all networks are done by then.
    """
    pending = [True]

    def reached(gradient: Tensor) -> None:
        if pending:
            pending.clear()
            clock.ended("networks backward")

    for weight in weights:
        weight.register_hook(reached)
