"""Whether a published GHN, as loaded here, gives torchvision's networks the weights that its authors say it gives.

They publish, for 74 networks, the norm of all parameters after prediction (`data_files/ghn3_norms.json`): one number a
network, which every weight of the GHN and every node of the graph has a part in.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ghn.adapters.zoo import resolve
from ghn.errors import GHNError
from ghn.graph import ArchGraph
from ghn.hyper import Hypernet
from ghn.primitives import Role
from ghn.tracing import trace

DATA = Path(__file__).with_name("data_files") / "ghn3_norms.json"
# Class tokens, relative positions and layer scales: the peers leave them as they were initialised.
NOT_PREDICTED = (Role.OFFSET, Role.SCALE)
WIDTHS = {32: "ghn2", 64: "ghn3-t", 384: "ghn3-xl"}  # of a node state -> the GHN whose norms are published


@dataclass(frozen=True)
class Verdict:
    """One network: the published norm and the one found here; error in words where it could not be predicted."""

    model: str
    published: float
    found: float
    error: str = ""

    def within(self, tolerance: float) -> bool:
        return abs(self.found - self.published) <= tolerance


def published_norms(hyper: Hypernet) -> tuple[str, dict[str, float], float]:
    """Name of the published GHN of this width, network -> norm, and the tolerance. Raises GHNError: there is none."""
    data, width = json.loads(DATA.read_text()), hyper.model.config.hid
    if width not in WIDTHS or len(hyper.classes) != 1000:
        raise GHNError(
            f"no norms are published for a GHN of width {width} and {len(hyper.classes)} classes; they are for those "
            f"of width {', '.join(map(str, WIDTHS))} ({', '.join(WIDTHS.values())}) with ImageNet's 1000"
        )
    return WIDTHS[width], data["norms"][WIDTHS[width]], data["tolerance"]


def accept(hyper: Hypernet, norms: Mapping[str, float], image_size: int = 224) -> Iterator[Verdict]:
    """A verdict for each network, as it comes."""
    for name, published in norms.items():
        try:
            yield Verdict(name, published, total_norm(hyper, name, image_size))
        except GHNError as error:
            yield Verdict(name, published, float("nan"), str(error))


def total_norm(hyper: Hypernet, name: str, image_size: int) -> float:
    """2-norm of all parameters of this network: the predicted ones, and as initialised those that the peers leave."""
    classes = len(hyper.classes)
    graph = trace(resolve(name, classes, image_size))
    weights, _ = hyper.predict(graph=graph, strict=False)
    left = _left_alone(graph)
    squares = [value.double().square().sum() for key, value in weights.items() if key not in left]
    if left:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            own = dict(resolve(name, classes, image_size, device="cpu").named_parameters())
        squares += [own[key].detach().double().square().sum() for key in left]
    return torch.stack(squares).sum().sqrt().item()


def _left_alone(graph: ArchGraph) -> set[str]:
    return {s.fqn for s in graph.slots if s.role in NOT_PREDICTED} | {u.fqn for u in graph.uncovered}
