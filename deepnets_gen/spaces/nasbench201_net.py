"""NAS-Bench-201's networks as modules, with the names of the benchmark's own; edges that carry nothing have no module.

Batch norms keep no running statistics, as all of DeepNets-1M: predicted weights come without. On the meta device
nothing is initialised. Source: Dong & Yang, ICLR 2020.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from deepnets_gen.ops import Conv2d, Linear, make_norm, make_op, relu_conv_norm
from deepnets_gen.spaces.nasbench201 import EDGES, STAGES, Nasbench201Genotype

NORM = "bnorm"


def build(
    genotype: Nasbench201Genotype,
    num_classes: int = 10,
    image_size: int = 32,
    device: torch.device | str | None = None,
) -> "TinyNetwork":
    """The network: (B, 3, image_size, image_size) -> (B, num_classes) logits.

    On device 'meta' nothing is allocated nor initialised. Raises GenotypeError where images of this side cannot be
    halved between stages.
    """
    genotype.check_side(image_size)
    with nullcontext() if device is None else torch.device(device):
        return TinyNetwork(genotype, num_classes, image_size)


class TinyNetwork(nn.Module):
    """(B, 3, s, s) -> (B, num_classes). expected_input_sz: s."""

    def __init__(self, genotype: Nasbench201Genotype, num_classes: int, image_size: int) -> None:
        super().__init__()
        c = genotype.channels
        self.genotype = genotype
        self.expected_input_sz = image_size
        self.stem = nn.Sequential(Conv2d(3, c, 3, padding=1, bias=False), make_norm(NORM, c))
        cells: list[nn.Module] = []
        for stage in range(STAGES):
            if stage:
                cells.append(Reduction(c, 2 * c))
                c *= 2
            cells += [Cell(genotype, c) for _ in range(genotype.cells)]
        self.cells = nn.Sequential(*cells)
        self.lastact = nn.Sequential(make_norm(NORM, c), nn.ReLU())
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = Linear(c, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lastact(self.cells(self.stem(x)))
        return self.classifier(self.global_pooling(x).flatten(1))


class Cell(nn.Module):
    """(B, C, h, w) -> the same. layers: the modules of the live edges, by their index in EDGES."""

    def __init__(self, genotype: Nasbench201Genotype, channels: int) -> None:
        super().__init__()
        ops = {str(j): genotype.ops[j].removeprefix("nor_") for j in genotype.live}
        self.layers = nn.ModuleDict({j: make_op(op, channels, 1, NORM) for j, op in ops.items()})

    def forward(self, x: Tensor) -> Tensor:
        states = {0: x}
        for name, layer in self.layers.items():
            source, target = EDGES[int(name)]
            term = layer(states[source])
            states[target] = states[target] + term if target in states else term
        return states[EDGES[-1][1]]


class Reduction(nn.Module):
    """(B, c_in, h, w) -> (B, c_out, h/2, w/2): two 3x3 convolutions, added to the pooled, widened input."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv_a = relu_conv_norm(c_in, c_out, 3, 2, NORM)
        self.conv_b = relu_conv_norm(c_out, c_out, 3, 1, NORM)
        self.downsample = nn.Sequential(nn.AvgPool2d(2, 2), Conv2d(c_in, c_out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_b(self.conv_a(x))
        return self.downsample(x) + y
