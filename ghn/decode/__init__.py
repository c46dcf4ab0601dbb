"""Ways of decoding kernels: node states -> (out, in, h, w) blocks. A new one is a file and a line here.

A decoder has `block(shape)`, the largest block that it makes for a weight of that shape, from which the weight is
tiled, and `class_block(shape)`, the same for a classifier's weight; its forward and its `classifier` take (n, d) states
and such a block's shape for each group of nodes. `writers()` are weight and bias of the layers that give the numbers.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from ghn.decode.centred import CentredDecoder
from ghn.decode.conv import ConvDecoder
from ghn.decode.lowrank import LowRankDecoder
from ghn.decode.mlp import MLPDecoder

if TYPE_CHECKING:
    from ghn.family import GHNConfig

DECODERS: dict[str, Callable[["GHNConfig"], nn.Module]] = {
    "conv": lambda c: ConvDecoder(c.hid, c.max_shape, c.num_classes),
    "centred": lambda c: CentredDecoder(c.hid, c.max_shape, c.num_classes),
    "mlp": lambda c: MLPDecoder(c.hid, c.max_shape, c.num_classes),
    "lowrank": lambda c: LowRankDecoder(c.hid, c.max_shape, c.rank),
}
