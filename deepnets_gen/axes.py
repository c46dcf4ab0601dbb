"""What varies in a split of DeepNets-1M, as plain constants. Source: Knyazev et al., NeurIPS 2021, appendix A.2."""

from dataclasses import dataclass
from enum import Enum

from deepnets_gen.genotype import DEFAULT_CHANNELS


class NormPolicy(Enum):
    """Which networks are normalised: all but some shallow ones, all, none."""

    MOSTLY = "mostly"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True)
class Axes:
    """Ranges of the sampler; both ends are included.

    cells, steps: of a network, of a cell. deep_above: number of cells above which a network counts as deep, drawn from
    these values; it then has at most `deep_steps` steps. limit: most parameters, dead ones included, at C = 32.
    channels: C of the networks given out. plain: probability that a network that may go without preprocessing does,
    without and with attention.
    """

    cells: tuple[int, int] = (4, 18)
    steps: tuple[int, int] = (1, 4)
    deep_steps: int = 2
    deep_above: tuple[int, ...] = (7, 8, 9, 10)
    limit: int = 10_000_000
    norm: NormPolicy = NormPolicy.MOSTLY
    channels: int = DEFAULT_CHANNELS
    plain: tuple[float, float] = (0.0, 0.8)
