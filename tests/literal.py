"""The GHN as its definition reads: node by node, every message recomputed, every tensor decoded whole.

Slow, and independent of the package's batching, sweep, plan and tiling: the oracle they are held against, and the
straightforward implementation that benchmarks compare with. It shares only the GHN's parameters.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ghn.graph import ArchGraph, ParamSlot
from ghn.model import GHN
from ghn.primitives import Role


def shortest_paths(graph: ArchGraph) -> list[dict[int, int]]:
    """For each node, {ancestor: distance}, by breadth-first search along reversed edges."""
    result = []
    for v in range(len(graph)):
        found, frontier, steps = {}, [v], 0
        while frontier:
            steps += 1
            frontier = sorted({u for w in frontier for u in graph.predecessors[w]} - found.keys())
            found.update(dict.fromkeys(frontier, steps))
        result.append(found)
    return result


def node_states(model: GHN, graph: ArchGraph) -> Tensor:
    """(N, d): forward then backward sweep in place, one node at a time (ghn_spec section 5)."""
    states = embed(model, graph)
    cutoff = model.config.cutoff
    ancestors = [{u: s for u, s in d.items() if s <= cutoff} for d in shortest_paths(graph)]
    descendants: list[dict[int, int]] = [{} for _ in states]
    for v, near in enumerate(ancestors):
        for u, steps in near.items():
            descendants[u][v] = steps
    for order, neighbours in ((range(len(states)), ancestors), (reversed(range(len(states))), descendants)):
        for v in order:
            states[v] = _update(model, states, v, neighbours[v])
    return model.ln(torch.stack(states))


def embed(model: GHN, graph: ArchGraph) -> list[Tensor]:
    """(d,) state of each node before propagation."""
    encoder = model.shape_enc
    x0 = []
    for op, shape in zip(graph.ops.tolist(), graph.shapes.tolist(), strict=True):
        channel, spatial = encoder.channel_row, encoder.spatial_row
        rows = [encoder.embed_channel.weight[channel[min(c, 8192)]] for c in shape[:2]]
        rows += [encoder.embed_spatial.weight[spatial[min(k, 16)]] for k in shape[2:]]
        x0.append(model.embed.weight[op] + torch.cat(rows))
    return x0


def _update(model: GHN, states: list[Tensor], v: int, near: dict[int, int]) -> Tensor:
    message = torch.zeros_like(states[v])
    for u, steps in near.items():
        if steps == 1:
            message = message + model.gnn.mlp(states[u])
        if model.gnn.mlp_ve is not None:
            message = message + model.gnn.mlp_ve(states[u]) / steps
    return model.gnn.gru(message[None], states[v][None])[0]


def predict(model: GHN, graph: ArchGraph) -> dict[str, Tensor]:
    """Parameter name -> tensor, each decoded by itself in the largest shape, then cut, repeated and scaled."""
    states = node_states(model, graph)
    return {slot.fqn: parameter(model, states[slot.node], slot) for slot in graph.slots}


def kernel(model: GHN, z: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(out, in, S, S) in the decoder's largest size, whatever the shape asked for."""
    out, inp, size, _ = model.config.max_shape
    decoder = model.decoder
    x = decoder.fc(z[None]).relu().view(1, -1, size, size)
    return decoder.conv(x).view(out, inp, size, size)


def parameter(
    model: GHN, z: Tensor, slot: ParamSlot, kernel: Callable[[GHN, Tensor, tuple[int, ...]], Tensor] = kernel
) -> Tensor:
    """The slot's tensor from the state of its node. kernel: decodes a weight of this shape, before it is tiled."""
    norm = model.config.weight_norm
    if slot.role is Role.CLASSIFIER_WEIGHT:
        full = kernel(model, z, (1, 1, 1, 1))[:, :, :1, :1]
        predictor = model.decoder.class_layer_predictor[1]
        full = F.conv2d(F.relu(full).permute(1, 0, 2, 3), predictor.weight, predictor.bias)
        full = full.permute(1, 0, 2, 3)
        return _repeat(full, slot.shape) * (_gain(slot.shape) if norm else 1)
    if slot.role is Role.WEIGHT:
        return _repeat(kernel(model, z, slot.shape), slot.shape) * (_gain(slot.shape) if norm else 1)
    if slot.role is Role.POSITION:
        return _position(kernel(model, z, slot.shape), slot.shape)
    rows = model.decoder_1d(z[None])[0]
    if slot.role is Role.CLASSIFIER_BIAS:
        rows = model.bias_class(rows)
    multiplies = slot.role in (Role.NORM_WEIGHT, Role.SCALE)
    vector = rows[0 if multiplies else 1]
    if norm:
        vector = 2 * torch.sigmoid(vector / 2) if multiplies else torch.tanh(0.2 * vector)
    return vector[torch.arange(slot.numel) % len(vector)].view(slot.shape)


def _repeat(full: Tensor, shape: tuple[int, ...]) -> Tensor:
    for dim, size in enumerate((*shape, 1, 1)[:4]):
        full = full.index_select(dim, torch.arange(size) % full.shape[dim])
    return full.reshape(shape)


def _gain(shape: tuple[int, ...]) -> float:
    beta = 1 if len(shape) == 4 and (shape[1] == 1 or shape[2] < shape[3]) else 2
    return math.sqrt(beta / math.prod(shape[1:]))


def _position(full: Tensor, shape: tuple[int, ...]) -> Tensor:
    if len(shape) != 3:
        return _repeat(full, shape)
    side = math.isqrt(shape[1])
    grid = _repeat(full, (1, shape[2], side, side)).view(shape[2], side * side).t()
    extra = torch.zeros(shape[1] - side * side, shape[2])
    return torch.cat([extra, grid])[None]
