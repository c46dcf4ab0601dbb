"""GHN-1, GHN-2 and the MLP baseline: encode, propagate, decode. The forward pass returns weights, no more."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ghn.axes import as_stored
from ghn.batch import GraphBatch
from ghn.decode.conv import ConvDecoder, MaxShape
from ghn.decode.vector import VectorDecoder
from ghn.encode import ShapeEncoder
from ghn.fit import kernel_shape, position_shape, squash, tile
from ghn.plan import DecodePlan, Group, Target
from ghn.primitives import Primitive, Role
from ghn.propagate.gated import GatedGNN
from ghn.propagate.mlp import NodeMLP

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class GHNConfig:
    """Everything that fixes a GHN's architecture.

    hid: width d of a node state. max_shape: largest tensor that is decoded without tiling. propagation: 'gated', or
    'mlp', which sees no edges. cutoff: longest path that counts as a virtual edge; 1 leaves only real edges (GHN-1).
    weight_norm: scale by fan-in and squash vectors.
    layernorm: normalise node states before decoding.
    """

    num_classes: int = 10
    hid: int = 32
    max_shape: MaxShape = (64, 64, 11, 11)
    cutoff: int = 50
    weight_norm: bool = True
    layernorm: bool = True
    propagation: str = "gated"

    def __post_init__(self) -> None:
        if self.propagation not in ("gated", "mlp"):
            raise ValueError(f"propagation {self.propagation!r} is neither 'gated' nor 'mlp'")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"max_shape": list(self.max_shape)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "GHNConfig":
        out, inp, h, w = data["max_shape"]
        return cls(**{k: v for k, v in data.items() if k != "max_shape"}, max_shape=(out, inp, h, w))


@dataclass(frozen=True, eq=False)
class Blocks:
    """Decoded tensors before tiling, in the order of the plan: per kernel and classifier group, then vectors."""

    kernels: tuple[Tensor, ...]
    classifiers: tuple[Tensor, ...]
    vectors: Tensor
    class_vectors: Tensor


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
        gated = config.propagation == "gated"
        self.gnn = GatedGNN(config.hid, virtual_edges=config.cutoff > 1) if gated else NodeMLP(config.hid)
        self.ln = nn.LayerNorm(config.hid) if config.layernorm else nn.Identity()
        self.decoder = ConvDecoder(config.hid, config.max_shape, config.num_classes)
        size = max(config.max_shape[:2])
        self.decoder_1d = VectorDecoder(config.hid, size)
        self.bias_class = nn.Sequential(nn.ReLU(), nn.Linear(size, config.num_classes))

    def forward(self, batch: GraphBatch) -> list[Weights]:
        """One dict a graph: parameter name -> tensor of its true shape, with gradients into the GHN."""
        plan = DecodePlan.build(batch, self.config.max_shape)
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
        """Every group's tensors, scaled or squashed, each no larger than max_shape."""
        norm = self.config.weight_norm
        kernels, classifiers = plan.kernels, plan.classifiers
        scaled = self.decoder([states[g.nodes] for g in kernels], [g.shape for g in kernels])
        classes = self.decoder.classifier([states[g.nodes] for g in classifiers], [g.shape[1] for g in classifiers])
        if norm:
            scaled = [x * g.gains for x, g in zip(scaled, kernels, strict=True)]
            classes = [x * g.gains[:, :, 0, 0] for x, g in zip(classes, classifiers, strict=True)]
        last = self.decoder_1d(states[plan.class_vectors.nodes])
        return Blocks(
            kernels=tuple(x.contiguous() for x in scaled),
            classifiers=tuple(classes),
            vectors=self.decoder_1d(states[plan.vectors.nodes]),
            class_vectors=self.bias_class(last),
        )

    def write(
        self, plan: DecodePlan, blocks: Blocks, num_graphs: int, out: Sequence[Mapping[str, Tensor]] | None = None
    ) -> list[Weights]:
        """Tile every block to its parameter's shape; into the tensors of `out` where given (no gradients then)."""
        weights: list[Weights] = [{} for _ in range(num_graphs)]

        def put(target: Target, value: Tensor, view: tuple[int, ...]) -> None:
            name, shape, axes = target.slot.fqn, target.slot.shape, target.slot.axes
            into = out[target.graph][name] if out is not None else None
            if axes:
                made = as_stored(tile(value, view), shape, axes)
                weights[target.graph][name] = made if into is None else into.copy_(made)
            else:
                weights[target.graph][name] = tile(value, view, into if into is None else into.view(view)).view(shape)

        # Rows are taken all at once: the gradient of each single one would be a tensor as large as its whole block.
        for group, block in zip(plan.kernels, blocks.kernels, strict=True):
            rows = block.unbind()
            for t in group.targets:
                if t.slot.role is Role.POSITION and len(t.slot.shape) == 3:
                    value = _position(rows[t.row], t.slot.shape)
                    put(t, value, t.slot.shape)
                else:
                    put(t, rows[t.row], kernel_shape(t.slot.outputs_first))
        for group, block in zip(plan.classifiers, blocks.classifiers, strict=True):
            rows = block.unbind()
            for t in group.targets:
                put(t, rows[t.row], t.slot.shape[:2])
        self._write_vectors(plan.vectors, blocks.vectors, put)
        self._write_vectors(plan.class_vectors, blocks.class_vectors, put)
        return weights

    def _write_vectors(self, group: Group, block: Tensor, put: Any) -> None:
        if not group.targets:
            return
        norm = self.config.weight_norm
        multiply, add = block.unbind(1)
        if norm:
            multiply, add = squash(multiply, Role.SCALE), squash(add, Role.BIAS)
        scales, shifts = multiply.unbind(), add.unbind()
        for t in group.targets:
            rows = scales if t.slot.role in (Role.NORM_WEIGHT, Role.SCALE) else shifts
            put(t, rows[t.row], (t.slot.numel,))


def _position(block: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(1, c, s, s) map -> (1, P, C) position embedding; positions beyond s * s (class tokens) come first, zero.

    The peers draw the class token's row at random, which makes predictions irreproducible (ghn_spec 16.9).
    """
    full = position_shape(shape)
    rows = tile(block, full).flatten(2).transpose(1, 2)
    return F.pad(rows, (0, 0, shape[1] - rows.shape[1], 0))


def embedding(states: Tensor) -> Tensor:
    """(N, d) node states of one graph -> (d,) embedding of the architecture: their mean. ghn_spec 13."""
    return states.mean(dim=0)
