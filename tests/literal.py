"""The GHN as its definition reads: node by node, every message recomputed, every tensor decoded whole.

Slow, and independent of the package's batching, sweep, plan and tiling: the oracle they are held against, and the
straightforward implementation that benchmarks compare with. It shares only the GHN's parameters.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
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
    """(N, d): states before decoding, by the way that the GHN propagates."""
    ways = {"gated": gated, "mlp": lambda model, graph, x: model.gnn.fc(x), "graphormer": graphormer}
    return model.ln(ways[model.config.propagation](model, graph, torch.stack(embed(model, graph))))


def ancestors(graph: ArchGraph, cutoff: int) -> list[dict[int, int]]:
    """For each node, {ancestor: distance}, as far as paths count."""
    return [{u: s for u, s in d.items() if s <= cutoff} for d in shortest_paths(graph)]


def gated(model: GHN, graph: ArchGraph, x: Tensor) -> Tensor:
    """(N, d): forward then backward sweep in place, one node at a time (ghn_spec section 5)."""
    states = list(x)
    before = ancestors(graph, model.config.cutoff)
    after: list[dict[int, int]] = [{} for _ in states]
    for v, near in enumerate(before):
        for u, steps in near.items():
            after[u][v] = steps
    for order, neighbours in ((range(len(states)), before), (reversed(range(len(states))), after)):
        for v in order:
            states[v] = _update(model, states, v, neighbours[v])
    return torch.stack(states)


def graphormer(model: GHN, graph: ArchGraph, x: Tensor) -> Tensor:
    """(N, d): every pair's edge embedded and sent through the MLP, every head by itself (ghn_spec section 6)."""
    gnn, n = model.gnn, len(graph)
    distances = torch.zeros(n, n, dtype=torch.long)
    for v, near in enumerate(ancestors(graph, model.config.cutoff)):
        for u, steps in near.items():
            distances[u, v] = steps
    edges = (distances == 1).long()
    x = x + gnn.centrality_embed_in(edges.sum(0).clamp(max=100)) + gnn.centrality_embed_out(edges.sum(1).clamp(max=100))
    x = x + gnn.input_dist_embed(distances[0].clamp(max=1000))
    both = torch.cat([gnn.edge_embed(distances + 2), gnn.edge_embed(distances.t() + 2)], dim=2)
    bias = gnn.proj_e(both)
    for layer in gnn.layers:
        q, k, v = (layer.ln1(x) @ layer.to_qkv.weight.t()).chunk(3, dim=1)
        width = q.shape[1] // layer.heads
        heads = []
        for h in range(layer.heads):
            part = slice(h * width, (h + 1) * width)
            attention = (q[:, part] @ k[:, part].t() / math.sqrt(width) + bias[:, :, h]).softmax(dim=1)
            heads.append(attention @ v[:, part])
        x = x + layer.to_out(torch.cat(heads, dim=1))
        x = x + layer.ff(layer.ln2(x))
    return x


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
    """(O, I, h, w) or larger in the last two: the decoder's largest tensor, its kernel the one meant for this shape."""
    out, inp, size, _ = model.config.max_shape
    decoder = model.decoder
    if model.config.decoder == "lowrank":
        return _product(decoder, z, shape)
    if model.config.decoder == "mlp":
        return decoder.fc(z).view(out, inp, size, size)
    x = decoder.fc(z[None]).relu().view(1, -1, size, size)
    full = decoder.conv(x).view(out, inp, size, size)
    return _centre(full, *(*shape, 1, 1)[2:4]) if model.config.decoder == "centred" else full


def _centre(full: Tensor, h: int, w: int) -> Tensor:
    """The middle of the kernel, stretched where it is too small."""
    size = full.shape[2]
    rows, columns = (range(max(0, size // 2 - k // 2), min(size, size // 2 + math.ceil(k / 2))) for k in (h, w))
    cut = full[:, :, rows.start : rows.stop, columns.start : columns.stop]
    return cut if cut.shape[2:] == (h, w) else F.interpolate(cut, (h, w), mode="bilinear", align_corners=False)


def _product(decoder: nn.Module, z: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The matrices A and B whole, then as much of their product as the weight needs (ghn_spec section 17)."""
    out, inp, h, w = (*shape, 1, 1)[:4]
    rank, width = decoder.rank, decoder.width
    both = decoder.widen(decoder.fc(z).view(2 * rank, rank)).reshape(2 * width, rank)
    out, inp = min(out, width // h), min(inp, width // w)
    weight = both[: out * h] @ both[width : width + inp * w].t()
    return weight.view(out, h, inp, w).permute(0, 2, 1, 3)


def classifier(model: GHN, z: Tensor, kernel: Callable[[GHN, Tensor, tuple[int, ...]], Tensor], shape: tuple) -> Tensor:
    """(classes, in, 1, 1) before it is repeated."""
    if model.config.decoder == "lowrank":
        return kernel(model, z, shape)
    predictor = model.decoder.class_layer_predictor[1]
    if model.config.decoder == "mlp":
        return predictor(F.relu(model.decoder.fc[0](z))).view(model.config.num_classes, -1, 1, 1)
    full = F.relu(kernel(model, z, (1, 1, 1, 1))[:, :, :1, :1])
    return F.conv2d(full.permute(1, 0, 2, 3), predictor.weight, predictor.bias).permute(1, 0, 2, 3)


def parameter(
    model: GHN, z: Tensor, slot: ParamSlot, kernel: Callable[[GHN, Tensor, tuple[int, ...]], Tensor] = kernel
) -> Tensor:
    """The slot's tensor from the state of its node. kernel: decodes a weight of this shape, before it is tiled."""
    norm = model.config.weight_norm
    if slot.role is Role.CLASSIFIER_WEIGHT:
        return _repeat(classifier(model, z, kernel, slot.shape), slot.shape) * (_gain(slot.shape) if norm else 1)
    if slot.role is Role.WEIGHT:
        return _repeat(kernel(model, z, slot.shape), slot.shape) * (_gain(slot.shape) if norm else 1)
    if slot.role is Role.POSITION:
        table = norm and len(slot.shape) == 2
        return _position(lambda s: kernel(model, z, s), slot.shape) * (_gain(slot.shape) if table else 1)
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


def _position(kernel: Callable[[tuple[int, ...]], Tensor], shape: tuple[int, ...]) -> Tensor:
    if len(shape) != 3:
        return _repeat(kernel(shape), shape)
    side = math.isqrt(shape[1])
    source = (1, shape[2], side, side)
    grid = _repeat(kernel(source), source).view(shape[2], side * side).t()
    extra = torch.zeros(shape[1] - side * side, shape[2])
    return torch.cat([extra, grid])[None]
