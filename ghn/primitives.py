"""The vocabulary of graphs: what a node computes and what a parameter is for.

Source: Knyazev et al., "Parameter Prediction for Unseen Deep Architectures" (NeurIPS 2021), section 3 and
appendix A; the order of `Primitive` is the row order of every published GHN's type embedding.
"""

from enum import Enum, IntEnum


class Primitive(IntEnum):
    """The 15 node types. The value is the row of the type embedding: never renumber."""

    MAX_POOL = 0
    AVG_POOL = 1
    SEP_CONV = 2
    DIL_CONV = 3
    CONV = 4
    MSA = 5
    CSE = 6
    SUM = 7
    CONCAT = 8
    INPUT = 9
    BIAS = 10
    BN = 11
    LN = 12
    POS_ENC = 13
    GLOB_AVG = 14

    @property
    def label(self) -> str:
        """The field's name for it, e.g. 'sep_conv'."""
        return self.name.lower()


class Role(Enum):
    """What a parameter does in its network. The decoder and the normalisation follow from it alone."""

    WEIGHT = "weight"  # convolution or linear weight, 2 to 5 dimensions, output channels first
    CLASSIFIER_WEIGHT = "classifier_weight"  # the same, of the layer that gives the network's output
    BIAS = "bias"
    CLASSIFIER_BIAS = "classifier_bias"
    NORM_WEIGHT = "norm_weight"
    NORM_BIAS = "norm_bias"
    POSITION = "position"  # (1, C, h, w) or (1, P, C) or (P, C), added to features
    OFFSET = "offset"  # any other additive tensor: class token, relative position table
    SCALE = "scale"  # any other multiplicative tensor: layer scale, PReLU slope
