"""A GHN: encode, propagate, decode, fit, each by the part that its config names. Its forward pass returns weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ghn.batch import GraphBatch
from ghn.decode import DECODERS
from ghn.decode.vector import VectorDecoder
from ghn.encode import ShapeEncoder
from ghn.family import GHNConfig
from ghn.fit import FITS, Head, fitted, squash
from ghn.plan import DecodePlan, Group
from ghn.primitives import Primitive
from ghn.propagate import PROPAGATIONS

Weights = dict[str, Tensor]
Blocks = Mapping[Head, Sequence[Tensor]]  # decoded tensors before tiling, one for each group of the plan


class GHN(nn.Module):
    """A graph hypernetwork: GraphBatch -> every parameter of its networks.

    Parameter names are those of the published GHN-2 checkpoints, so that these load as they are.
    Source: Knyazev et al., "Parameter Prediction for Unseen Deep Architectures", NeurIPS 2021.
    """

    def __init__(self, config: GHNConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GHNConfig()
        self.embed = nn.Embedding(len(Primitive), config.hid)
        self.shape_enc = ShapeEncoder(config.hid, config.num_classes, config.max_shape[2])
        self.gnn = PROPAGATIONS[config.propagation](config)
        self.ln = nn.LayerNorm(config.hid) if config.layernorm else nn.Identity()
        self.decoder: Any = DECODERS[config.decoder](config)
        size = max(config.max_shape[:2])
        self.decoder_1d = VectorDecoder(config.hid, size)
        self.bias_class = nn.Sequential(nn.ReLU(), nn.Linear(size, config.num_classes))
        if config.propagation == "graphormer":
            self._start_small()

    def _start_small(self) -> None:
        """GHN-3's initialisation: small first weights, and embeddings of length 1. ghn_spec section 6."""
        for layer in (self.decoder_1d, self.decoder):
            for weight, bias in layer.writers():
                nn.init.zeros_(bias)
                with torch.no_grad():
                    weight.div_(5)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=module.embedding_dim**-0.5)

    def forward(self, batch: GraphBatch) -> list[Weights]:
        """One dict a graph: parameter name -> tensor of its true shape, with gradients into the GHN."""
        plan = DecodePlan.build(batch, self.decoder)
        return self.write(plan, self.decode(plan, self.node_states(batch)), len(batch))

    def collate(self, graphs: Sequence[Any]) -> GraphBatch:
        """The batch of these graphs, with this GHN's virtual edges, on its device."""
        return GraphBatch.collate(graphs, self.config.cutoff).to(self.embed.weight.device)

    def encode(self, batch: GraphBatch) -> Tensor:
        """(N, d) node states x0 before propagation."""
        return self.embed(batch.ops) + self.shape_enc(batch.shapes)

    def node_states(self, batch: GraphBatch) -> Tensor:
        """(N, d) node states x2 that the decoders read."""
        return self.ln(self.gnn(self.encode(batch), batch))

    def decode(self, plan: DecodePlan, states: Tensor) -> Blocks:
        """Every group's tensors, scaled or squashed, none larger than the decoder's largest."""
        blocks = {}
        for head, groups in plan.groups.items():
            nodes, shapes = [states[g.nodes] for g in groups], [g.shape for g in groups]
            if head is Head.KERNEL:
                kernels = self.decoder(nodes, shapes)
                blocks[head] = [x.contiguous() for x in self._scaled(kernels, groups)]
            elif head is Head.CLASSIFIER:
                kernels = [x[..., None, None] for x in self.decoder.classifier(nodes, shapes)]
                blocks[head] = self._scaled(kernels, groups)
            else:
                vectors = [self.decoder_1d(z) for z in nodes]
                if head is Head.CLASS_VECTOR:
                    vectors = [self.bias_class(x) for x in vectors]
                blocks[head] = [squash(x) for x in vectors] if self.config.weight_norm else vectors
        return blocks

    def _scaled(self, blocks: Sequence[Tensor], groups: Sequence[Group]) -> Sequence[Tensor]:
        """Each row times its gain; in place where no gradient is wanted."""
        if not self.config.weight_norm:
            return blocks
        multiply = torch.mul if torch.is_grad_enabled() else Tensor.mul_
        return [multiply(x, g.gains) for x, g in zip(blocks, groups, strict=True)]

    def write(
        self, plan: DecodePlan, blocks: Blocks, num_graphs: int, out: Sequence[Mapping[str, Tensor]] | None = None
    ) -> list[Weights]:
        """Tile every block to its parameter's shape; into the tensors of `out` where given (no gradients then)."""
        weights: list[Weights] = [{} for _ in range(num_graphs)]
        for head, groups in plan.groups.items():
            for group, block in zip(groups, blocks[head], strict=True):
                vectors = head in (Head.VECTOR, Head.CLASS_VECTOR)
                # All rows at once: the gradient of each single one would be a tensor as large as its whole block.
                rows = block.flatten(0, 1).unbind() if vectors else block.unbind()
                for target in group.targets:
                    slot = target.slot
                    row = rows[2 * target.row + (FITS[slot.role].row or 0) if vectors else target.row]
                    into = out[target.graph][slot.fqn] if out is not None else None
                    weights[target.graph][slot.fqn] = fitted(row, slot, into)
        return weights


def embedding(states: Tensor) -> Tensor:
    """(N, d) node states of one graph -> (d,) embedding of the architecture: their mean. ghn_spec 13."""
    return states.mean(dim=0)
