"""The gated graph network of GHN-1 and GHN-2: one forward and one backward sweep over the DAG.

Definition (Zhang et al. 2019, section 4; Knyazev et al. 2021, eq. 3-4; ghn_spec section 5). In topological order,
and then in reverse, each node is updated in place from its finished neighbours:

    m_v = sum over u with A[u,v] = 1 of MLP(h_u)  +  sum over u with A[u,v] >= 1 of MLP_ve(h_u) / A[u,v]
    h_v = GRU(input m_v, state h_v)

Two facts make it fast without changing it. Every ancestor of a node has a lower level, so all nodes of a level, in
all graphs of the batch, are updated at once; and what a node sends does not depend on the receiver, so its messages
are computed once. A level is then one matrix product of edge weights with the messages sent so far.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ghn.batch import GraphBatch
from ghn.layers import affine


class MessageMLP(nn.Module):
    """(…, d) -> (…, d): Linear, ReLU, Linear, ReLU (the second ReLU is part of the published definition)."""

    def __init__(self, hid: int, inner: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(hid, inner), nn.ReLU(), nn.Linear(inner, hid), nn.ReLU())

    def forward(self, h: Tensor) -> Tensor:
        return self.fc(h)


class GatedGNN(nn.Module):
    """(N, d) initial states, GraphBatch -> (N, d) node states after one round (forward and backward sweep).

    `virtual_edges`: add the distance-weighted messages of all ancestors (GHN-2); without them GHN-1.
    """

    def __init__(self, hid: int, virtual_edges: bool) -> None:
        super().__init__()
        inner = hid // 2 if virtual_edges else hid
        self.mlp = MessageMLP(hid, inner)
        self.mlp_ve = MessageMLP(hid, inner) if virtual_edges else None
        self.gru = nn.GRUCell(hid, hid)

    def forward(self, x: Tensor, batch: GraphBatch) -> Tensor:
        distances = batch.distances.to(x.dtype)
        kinds = [(distances == 1).to(x.dtype)]
        if self.mlp_ve is not None:
            kinds.append(torch.where(distances > 0, 1 / distances.clamp(min=1), 0))
        # edge[b, u, v, k]: weight of u's k-th message at v.
        edge = torch.stack(kinds, dim=-1)
        downstream = edge.transpose(1, 2).flatten(2)  # (B, P receivers, P * k)
        upstream = edge.flatten(2)
        h = batch.pad(x)
        kind = x.device.type
        casts = torch.amp.is_autocast_available(kind)
        with torch.autocast(kind, enabled=False) if casts else nullcontext():  # the sweep keeps one precision
            h = self._sweep(h, downstream, batch.levels, reverse=False)
            h = self._sweep(h, upstream, batch.levels, reverse=True)
        return batch.pack(h)

    def _sweep(self, x: Tensor, edge: Tensor, levels: tuple[tuple[int, int], ...], reverse: bool) -> Tensor:
        gru = self.gru
        state_gates = nn.functional.linear(x, gru.weight_hh, gru.bias_hh)  # every state is known beforehand
        return Sweep.apply(x, state_gates, edge, *self.message_weights(), gru.weight_ih, gru.bias_ih, levels, reverse)

    def message_weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Both message MLPs as one: (k*inner, d), (k*inner,), block-diagonal (k*d, k*inner), (k*d,)."""
        mlps = [self.mlp] if self.mlp_ve is None else [self.mlp, self.mlp_ve]
        first, second = [affine(m.fc, 0) for m in mlps], [affine(m.fc, 2) for m in mlps]
        return (
            torch.cat([weight for weight, _ in first]),
            torch.cat([bias for _, bias in first]),
            torch.block_diag(*(weight for weight, _ in second)),
            torch.cat([bias for _, bias in second]),
        )


class Sweep(torch.autograd.Function):
    """One sweep: states (B, P, d) -> updated states (B, P, d).

    The backward pass is written by hand: the recurrence runs once more in reverse with a few small products a
    level, and every weight gradient is one product over all nodes at the end. Autograd on the loop would record
    some twenty small operations a level and add up each weight's gradient level by level.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (B, P, d) states before the sweep
        state_gates: Tensor,  # (B, P, 3d) W_hh x + b_hh, gate order r, z, n
        edge: Tensor,  # (B, P, P * k) weight of every message at every receiver
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        w_ih: Tensor,
        b_ih: Tensor,
        levels: tuple[tuple[int, int], ...],
        reverse: bool,
    ) -> Tensor:
        d = x.shape[-1]
        batch, places, kinds = x.shape[0], x.shape[1], edge.shape[2] // x.shape[1]
        received, h = torch.zeros_like(x), torch.empty_like(x)
        inner = x.new_empty(batch, places, w1.shape[0])
        sent = x.new_empty(batch, places * kinds, d)
        gates = torch.empty_like(state_gates)  # r, z, n after their nonlinearities
        w1_t, w2_t, w_ih_t = w1.t(), w2.t(), w_ih.t()
        for start, end in reversed(levels) if reverse else levels:
            here, senders = slice(start, end), _senders(start, end, places, kinds, reverse)
            if senders.stop > senders.start:
                torch.bmm(edge[:, here, senders], sent[:, senders], out=received[:, here])
            input_gates = torch.matmul(received[:, here], w_ih_t).add_(b_ih)
            old_gates = state_gates[:, here]
            rz = torch.sigmoid_(input_gates[..., : 2 * d] + old_gates[..., : 2 * d])
            r, z = rz[..., :d], rz[..., d:]
            n = torch.tanh_(torch.addcmul(input_gates[..., 2 * d :], r, old_gates[..., 2 * d :]))
            new = torch.lerp(n, x[:, here], z)
            u = torch.relu_(torch.matmul(new, w1_t).add_(b1))
            message = torch.relu_(torch.matmul(u, w2_t).add_(b2))
            h[:, here], inner[:, here] = new, u
            gates[:, here, : 2 * d], gates[:, here, 2 * d :] = rz, n
            sent[:, start * kinds : end * kinds] = message.view(batch, -1, d)
        ctx.save_for_backward(x, state_gates, edge, w1, w2, w_ih, received, h, inner, sent, gates)
        ctx.levels, ctx.reverse = levels, reverse
        return h

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor | None, ...]:
        x, state_gates, edge, w1, w2, w_ih, received, h, inner, sent, gates = ctx.saved_tensors
        d, places = x.shape[-1], x.shape[1]
        kinds = edge.shape[2] // places
        r, z, n = gates.split(d, dim=-1)
        by_n = (1 - z) * (1 - n * n)
        by_r = by_n * state_gates[..., 2 * d :] * r * (1 - r)
        # (B, P, 3, d): derivative of every new state by what its gates r, z, n were given, before their nonlinearities.
        slopes = torch.stack([by_r, (x - n) * z * (1 - z), by_n], dim=-2)
        open_inner, open_sent = inner > 0, (sent > 0).view(x.shape[0], places, kinds * d)
        grad_sent = torch.zeros_like(sent)
        grad_message = grad_sent.view(x.shape[0], places, kinds * d)
        grad_new, grad_inner, grad_input = torch.zeros_like(x), torch.zeros_like(inner), torch.zeros_like(gates)
        for start, end in ctx.levels if ctx.reverse else reversed(ctx.levels):
            here, senders = slice(start, end), _senders(start, end, places, kinds, ctx.reverse)
            g_message = grad_message[:, here].mul_(open_sent[:, here])
            g_inner = torch.matmul(g_message, w2).mul_(open_inner[:, here])
            g = torch.matmul(g_inner, w1).add_(grad_h[:, here])
            g_input = torch.mul(g[:, :, None], slopes[:, here]).flatten(2)
            grad_new[:, here], grad_inner[:, here], grad_input[:, here] = g, g_inner, g_input
            if senders.stop > senders.start:
                g_received = torch.matmul(g_input, w_ih)
                grad_sent[:, senders].baddbmm_(edge[:, here, senders].transpose(1, 2), g_received)
        grad_state = torch.cat([grad_input[..., : 2 * d], grad_input[..., 2 * d :] * r], dim=-1)
        grad_x = grad_new * z
        return (
            grad_x,
            grad_state,
            None,
            _outer(grad_inner, h),
            grad_inner.sum((0, 1)),
            _outer(grad_message, inner),
            grad_message.sum((0, 1)),
            _outer(grad_input, received),
            grad_input.sum((0, 1)),
            None,
            None,
        )


def _senders(start: int, end: int, places: int, kinds: int, reverse: bool) -> slice:
    """The columns of messages already sent when the level at start:end is updated."""
    return slice(end * kinds, places * kinds) if reverse else slice(0, start * kinds)


def _outer(grad: Tensor, value: Tensor) -> Tensor:
    """(B, P, a), (B, P, b) -> (a, b), summed over nodes: a linear layer's weight gradient."""
    return grad.flatten(0, 1).t() @ value.flatten(0, 1)
