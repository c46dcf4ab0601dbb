"""Ways of propagating: (N, d) node states, GraphBatch -> (N, d) node states. A new one is a file and a line here."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from ghn.propagate.gated import GatedGNN
from ghn.propagate.graphormer import Graphormer
from ghn.propagate.mlp import NodeMLP

if TYPE_CHECKING:
    from ghn.family import GHNConfig

PROPAGATIONS: dict[str, Callable[["GHNConfig"], nn.Module]] = {
    "gated": lambda c: GatedGNN(c.hid, virtual_edges=c.cutoff > 1),
    "mlp": lambda c: NodeMLP(c.hid),
    "graphormer": lambda c: Graphormer(c.hid, c.layers, c.heads, c.cutoff),
}
