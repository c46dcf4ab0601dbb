"""The baseline without edges: every node's state goes through the same network by itself."""

from torch import Tensor, nn

from ghn.batch import GraphBatch


class NodeMLP(nn.Module):
    """(N, d) initial states, GraphBatch -> (N, d) node states; which node is beside which plays no part.

    Source: the MLP of Knyazev et al. 2021, section 4 (ghn_spec section 5, with the second ReLU).
    """

    def __init__(self, hid: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(hid, hid), nn.ReLU(), nn.Linear(hid, hid), nn.ReLU())

    def forward(self, x: Tensor, batch: GraphBatch) -> Tensor:
        return self.fc(x)
