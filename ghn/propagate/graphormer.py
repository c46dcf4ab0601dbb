"""The transformer of GHN-3: every node attends to every other, knowing how far it is along the edges.

Definition (Knyazev et al. 2023, "Can We Scale Transformers to Predict Parameters of Diverse ImageNet Models?",
section 3; Ying et al. 2021, Graphormer; ghn_spec section 6). With A[u,v] the length of the shortest path u -> v:

    x_v  += C_in[in-degree of v] + C_out[out-degree of v] + D[A[input,v]]
    bias_uv = MLP(E[A[u,v] + 2], E[A[v,u] + 2]), a number for each head, added to the attention of every layer

The graph has no cycles, so that of A[u,v] and A[v,u] one is zero: with paths up to length c there are 2c + 1 different
pairs. The MLP runs on these, and each of the N * N biases is looked up among its results.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.batch import GraphBatch

DEGREES, REACH = 100, 1000  # the largest in- or out-degree and distance from the input that have rows of their own
DISTANCES = 257  # rows of E; 0 and 1 are not used
NOWHERE = -(2.0**15)  # the bias of empty places: no attention falls on them


class Graphormer(nn.Module):
    """(N, d) initial states, GraphBatch -> (N, d) node states. cutoff: the longest path in the batch, at most 254."""

    def __init__(self, hid: int, layers: int, heads: int, cutoff: int) -> None:
        super().__init__()
        if hid % heads or not 0 < cutoff <= DISTANCES - 3:
            raise ValueError(f"a Graphormer of width {hid} has no {heads} heads, or no paths of length {cutoff}")
        self.cutoff = cutoff
        self.centrality_embed_in = nn.Embedding(DEGREES + 1, hid)
        self.centrality_embed_out = nn.Embedding(DEGREES + 1, hid)
        self.input_dist_embed = nn.Embedding(REACH + 1, hid)
        self.edge_embed = nn.Embedding(DISTANCES, hid)
        self.proj_e = nn.Sequential(nn.Linear(2 * hid, hid), nn.ReLU(), nn.Linear(hid, heads))
        self.layers = nn.ModuleList(Block(hid, heads) for _ in range(layers))

    def forward(self, x: Tensor, batch: GraphBatch) -> Tensor:
        states, bias = self.place(batch.pad(x), batch), self.bias(batch)
        for layer in self.layers:
            states = layer(states, bias)
        return batch.pack(states)

    def place(self, states: Tensor, batch: GraphBatch) -> Tensor:
        """(B, P, d) states that know their node's degrees and its distance from the input, which has column 0."""
        edges = batch.distances == 1
        arriving, leaving = edges.sum(1).clamp(max=DEGREES), edges.sum(2).clamp(max=DEGREES)
        distance = batch.distances[:, 0].long().clamp(max=REACH)
        degrees = self.centrality_embed_in(arriving) + self.centrality_embed_out(leaving)
        return states + degrees + self.input_dist_embed(distance)

    def bias(self, batch: GraphBatch) -> Tensor:
        """(B, heads, P, P) what the attention of u to v is raised by, in every layer."""
        steps = torch.arange(-self.cutoff, self.cutoff + 1, device=batch.distances.device)
        pairs = torch.cat([self.edge_embed(steps.clamp(min=0) + 2), self.edge_embed((-steps).clamp(min=0) + 2)], dim=1)
        table = F.pad(self.proj_e(pairs), (0, 0, 0, 1), value=NOWHERE)
        distances = batch.distances.int()
        row = (distances - distances.transpose(1, 2) + self.cutoff).masked_fill(~batch.occupied[:, None], len(steps))
        return F.embedding(row, table).permute(0, 3, 1, 2)


class Block(nn.Module):
    """(B, P, d) states, (B, heads, P, P) bias -> (B, P, d): a transformer layer, normalised before each half."""

    def __init__(self, hid: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(hid), nn.LayerNorm(hid)
        self.to_qkv = nn.Linear(hid, 3 * hid, bias=False)
        self.to_out = nn.Linear(hid, hid)
        self.ff = nn.Sequential(nn.Linear(hid, 4 * hid), nn.GELU(), nn.Linear(4 * hid, hid))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.to_qkv(self.ln1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = x + self.to_out(attended.transpose(1, 2).flatten(2))
        return x + self.ff(self.ln2(x))
