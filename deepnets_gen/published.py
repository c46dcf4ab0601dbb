"""What the paper reports of DeepNets-1M's graphs. Source: Knyazev et al., NeurIPS 2021, table 1 and the notebook
`graph_properties` of its code: number of networks looked at, nodes, average shortest path of the undirected graph.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Nodes and paths of a split. networks: that were counted. low, high, mean, sd: of their nodes.

    path: mean over networks of the average shortest path between two nodes, directions ignored.
    """

    networks: int
    low: int
    high: int
    mean: float
    sd: float
    path: float


PUBLISHED: dict[str, Published] = {
    "train": Published(1000, 35, 681, 192.3, 94.9, 14.5),  # the first thousand of a million
    "val": Published(500, 33, 549, 190.5, 94.4, 14.5),
    "test": Published(500, 43, 579, 185.5, 91.2, 14.3),
    "wide": Published(100, 48, 381, 178.6, 75.1, 14.7),
    "deep": Published(100, 74, 1017, 391.2, 176.7, 26.2),
    "dense": Published(100, 57, 993, 355.1, 182.3, 15.1),
    "bnfree": Published(100, 33, 503, 135.1, 78.1, 10.0),
}
SAME_SAMPLER = {
    "val": "train",
    "test": "train",
    "wide": "train",
}  # splits drawn as another; `wide` differs in width only
