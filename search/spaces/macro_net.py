"""The networks of NAS-Bench-Macro as modules; batch norms keep no running statistics, as in all our corpora.

Source: Su et al., ICCV 2021; parameters and multiply-adds are those of the benchmark's table.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from deepnets_gen.ops import Conv2d, Linear, make_norm
from search.spaces.macro import STAGES

NORM = "bnorm"
STEM, HEAD = 32, 1280
FORMS = {"mb3_k3": (3, 3), "mb6_k5": (6, 5)}  # expansion, kernel


class MacroNet(nn.Module):
    """(B, 3, s, s) -> (B, num_classes). blocks: one per layer; the first of a stage halves and doubles channels."""

    def __init__(self, blocks: Sequence[str], num_classes: int, image_size: int) -> None:
        super().__init__()
        self.expected_input_sz = image_size
        self.stem = _conv(3, STEM, 3, 1)
        layers, channels = [], STEM
        firsts = {sum(STAGES[:i]) for i in range(len(STAGES))}
        for i, block in enumerate(blocks):
            stride = 2 if i in firsts else 1
            layers.append(_block(block, channels, stride * channels, stride))
            channels *= stride
        self.features = nn.Sequential(*layers)
        self.out = _conv(channels, HEAD, 1, 1)
        self.classifier = Linear(HEAD, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.out(self.features(self.stem(x)))
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


class InvertedResidual(nn.Module):
    """(B, c_in, h, w) -> (B, c_out, h/stride, w/stride): expand, convolve depthwise, project."""

    def __init__(self, c_in: int, c_out: int, stride: int, expansion: int, kernel: int) -> None:
        super().__init__()
        inner = c_in * expansion
        self.conv = nn.Sequential(
            *_conv(c_in, inner, 1, 1),
            *_conv(inner, inner, kernel, stride, groups=inner),
            Conv2d(inner, c_out, 1, bias=False),
            make_norm(NORM, c_out),
        )
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


def _block(name: str, c_in: int, c_out: int, stride: int) -> nn.Module:
    if name in FORMS:
        return InvertedResidual(c_in, c_out, stride, *FORMS[name])
    if stride == 1:
        return nn.Identity()
    return nn.Sequential(Conv2d(c_in, c_out, 1, stride, bias=False), make_norm(NORM, c_out))


def _conv(c_in: int, c_out: int, kernel: int, stride: int, groups: int = 1) -> nn.Sequential:
    conv = Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, make_norm(NORM, c_out), nn.ReLU())
