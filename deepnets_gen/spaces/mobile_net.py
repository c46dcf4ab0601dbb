"""Networks of inverted residuals as modules; names are those of torchvision's MobileNetV2, whose form they generalise.

Batch norms keep no running statistics, as all of DeepNets-1M: predicted weights come without. On the meta device
nothing is initialised. Source: see `mobile`.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepnets_gen.ops import Conv2d, Linear, make_norm
from deepnets_gen.spaces.mobile import Block, MobileGenotype

NORM = "bnorm"
DROPOUT = 0.2
ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "hardswish": nn.Hardswish, "silu": nn.SiLU}


def build(
    genotype: MobileGenotype, num_classes: int = 10, image_size: int = 32, device: torch.device | str | None = None
) -> "MobileNet":
    """The network: (B, 3, image_size, image_size) -> (B, num_classes) logits.

    On device 'meta' nothing is allocated nor initialised. Raises GenotypeError where images of this side vanish in it.
    """
    genotype.check_side(image_size)
    with nullcontext() if device is None else torch.device(device):
        model = MobileNet(genotype, num_classes, image_size)
        if not next(model.parameters()).is_meta:
            for module in model.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return model


class MobileNet(nn.Module):
    """(B, 3, s, s) -> (B, num_classes). expected_input_sz: s."""

    def __init__(self, genotype: MobileGenotype, num_classes: int, image_size: int) -> None:
        super().__init__()
        g = genotype
        self.genotype = g
        self.expected_input_sz = image_size
        self.features = nn.Sequential(
            _conv(3, g.stem, 3, g.stem_stride, g.activation),
            *(InvertedResidual(block) for block in g.blocks),
            _conv(g.stages[-1].channels, g.head, 1, 1, g.activation),
        )
        hidden = [Linear(g.head, g.hidden), ACTIVATIONS[g.activation]()] if g.hidden else []
        self.classifier = nn.Sequential(*hidden, nn.Dropout(DROPOUT), Linear(g.hidden or g.head, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


class InvertedResidual(nn.Module):
    """(B, c_in, h, w) -> (B, c_out, h/stride, w/stride): expand, convolve depthwise, gate, project; without an
    activation at the end."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        stage, inner = block.stage, block.inner
        layers: list[nn.Module] = []
        if stage.expansion > 1:
            layers.append(_conv(block.inputs, inner, 1, 1, stage.activation))
        layers.append(_conv(inner, inner, stage.kernel, block.stride, stage.activation, groups=inner))
        if block.squeezed:
            layers.append(SqueezeExcite(inner, block.squeezed, hard=stage.activation == "hardswish"))
        layers += [Conv2d(inner, stage.channels, 1, bias=False), make_norm(NORM, stage.channels)]
        self.conv = nn.Sequential(*layers)
        self.residual = block.residual

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class SqueezeExcite(nn.Module):
    """(B, C, h, w) -> the same: scales channels by a gate made from their means, a sigmoid or, `hard`, a piecewise
    linear one as in MobileNetV3."""

    def __init__(self, channels: int, squeezed: int, hard: bool) -> None:
        super().__init__()
        self.fc1 = Conv2d(channels, squeezed, 1)
        self.fc2 = Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid() if hard else nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        means = F.adaptive_avg_pool2d(x, 1)
        return x * self.gate(self.fc2(F.relu(self.fc1(means))))


def _conv(c_in: int, c_out: int, kernel: int, stride: int, activation: str, groups: int = 1) -> nn.Sequential:
    conv = Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, make_norm(NORM, c_out), ACTIVATIONS[activation]())
