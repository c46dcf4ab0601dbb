"""Residual networks as modules, with torchvision's names. On the meta device nothing is initialised.

Source: He et al., CVPR 2016; the stride of a bottleneck is on its 3x3 convolution.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepnets_gen.ops import BatchNorm2d, Conv2d, Linear
from deepnets_gen.spaces.fields import check_whole
from deepnets_gen.spaces.resnet import SMALL, ResNetGenotype


def build(
    genotype: ResNetGenotype, num_classes: int = 10, image_size: int = 32, device: torch.device | str | None = None
) -> "ResNet":
    """The network: (B, 3, image_size, image_size) -> (B, num_classes) logits.

    On device 'meta' nothing is allocated nor initialised. Raises GenotypeError where images have no such side.
    """
    check_whole("image_size", image_size, 1)
    with nullcontext() if device is None else torch.device(device):
        model = ResNet(genotype, num_classes, image_size)
        if not model.fc.weight.is_meta:
            for module in model.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


class ResNet(nn.Module):
    """(B, 3, s, s) -> (B, num_classes). expected_input_sz: s."""

    def __init__(self, genotype: ResNetGenotype, num_classes: int, image_size: int) -> None:
        super().__init__()
        c, small = genotype.width, image_size <= SMALL
        self.genotype = genotype
        self.expected_input_sz = image_size
        self.conv1 = _conv(3, c, 3, 1) if small else _conv(3, c, 7, 2)
        self.bn1 = BatchNorm2d(c)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        self.stages = tuple(f"layer{i + 1}" for i in range(len(genotype.layers)))
        for i, (name, blocks) in enumerate(zip(self.stages, genotype.layers, strict=True)):
            stage = []
            for j in range(blocks):
                stage.append(Block(genotype, c, genotype.width << i, stride=2 if i and not j else 1))
                c = (genotype.width << i) * genotype.expansion
            self.add_module(name, nn.Sequential(*stage))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = Linear(c, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.fc(self.avgpool(x).flatten(1))


class Block(nn.Module):
    """(B, c_in, h, w) -> (B, c_out, h/stride, w/stride): convolutions, added to the input or its projection."""

    def __init__(self, genotype: ResNetGenotype, c_in: int, inner: int, stride: int) -> None:
        super().__init__()
        c_out, bottleneck = inner * genotype.expansion, genotype.block == "bottleneck"
        self.conv1 = _conv(c_in, inner, 1, 1) if bottleneck else _conv(c_in, inner, 3, stride)
        self.bn1 = BatchNorm2d(inner)
        self.conv2 = _conv(inner, inner, 3, stride if bottleneck else 1)
        self.bn2 = BatchNorm2d(inner)
        self.conv3 = _conv(inner, c_out, 1, 1) if bottleneck else None
        self.bn3 = BatchNorm2d(c_out) if bottleneck else None
        # The channels change wherever the stride is 2.
        self.downsample = (
            nn.Sequential(_conv(c_in, c_out, 1, stride), BatchNorm2d(c_out)) if c_in != c_out else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.conv3 is not None and self.bn3 is not None:
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + self.downsample(x))


def _conv(c_in: int, c_out: int, kernel: int, stride: int) -> Conv2d:
    return Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
