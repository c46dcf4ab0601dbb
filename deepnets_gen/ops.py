"""The operations of DeepNets-1M cells as modules; parameter names are those of the published networks.

Convolutions have no bias. On the meta device nothing is initialised: a network whose weights will be predicted is built
thousands of times. Source: Knyazev et al., NeurIPS 2021, appendix A.2; Liu et al., 2019 (DARTS).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepnets_gen.genotype import HEADS

Norm = str | None


class Conv2d(nn.Conv2d):
    """nn.Conv2d that skips initialisation where there is no data."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class Linear(nn.Linear):
    """nn.Linear that skips initialisation where there is no data."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d that skips initialisation where there is no data."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm that skips initialisation where there is no data."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class Subsample(nn.Module):
    """(B, C, h, w) -> (B, C, h/2, w/2): every second pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::2, ::2]


class PosEnc(nn.Module):
    """A learned position encoding: adds a (1, C, h, w) weight to (B, C, h, w)."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, channels, side, side))
        if not self.weight.is_meta:
            nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


class Chain(nn.Module):
    """A convolutional operation: modules in `op`, so that names read 'op.1.weight'."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class FactorizedReduce(nn.Module):
    """(B, c_in, h, w) -> (B, c_out, h/2, w/2) by two 1x1 convolutions, the second shifted by one pixel."""

    def __init__(self, c_in: int, c_out: int, norm: Norm) -> None:
        super().__init__()
        self.conv_1 = Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.conv_2 = Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.bn = make_norm(norm, c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        odd_h, odd_w = x.shape[2] % 2, x.shape[3] % 2
        shifted = x[:, :, 1:, 1:]
        if odd_h or odd_w:  # an odd side rounds up in the first branch: let the second keep up
            shifted = F.pad(shifted, (0, odd_w, 0, odd_h))
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(shifted)], dim=1))


class FeedForward(nn.Module):
    """(..., C) -> (..., C): two linear layers as wide as their input, with a GELU between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            Linear(channels, channels), nn.GELU(), nn.Identity(), Linear(channels, channels), nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Transformer(nn.Module):
    """(B, C, h, w) -> the same: a pre-norm transformer block over the pixels, 8 heads."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ln1 = LayerNorm(channels)
        self.to_qkv = Linear(channels, 3 * channels, bias=False)
        self.to_out = nn.Sequential(Linear(channels, channels), nn.Identity())
        self.ln2 = LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)  # (B, hw, C), a view of channels_last input
        qkv = self.to_qkv(self.ln1(tokens)).view(b, h * w, 3, HEADS, c // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v)
        tokens = tokens + self.to_out(attended.transpose(1, 2).reshape(b, h * w, c))
        tokens = tokens + self.ff(self.ln2(tokens))
        return tokens.transpose(1, 2).reshape(b, c, h, w)


class SqueezeExcite(nn.Module):
    """(B, C, h, w) -> (B, C, h/stride, w/stride): scales channels by a hard-swish gate of their means."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.fc1 = Linear(channels, channels // 2)
        self.fc2 = Linear(channels // 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        gate = F.hardswish(self.fc2(F.relu(self.fc1(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """The normalisation of this name: identity for None, else a batch norm, with running statistics if 'track'ed."""
    if norm is None:
        return nn.Identity()
    return BatchNorm2d(channels, track_running_stats="track" in norm)


def relu_conv_norm(c_in: int, c_out: int, kernel: int, stride: int, norm: Norm) -> Chain:
    """ReLU, a k x k convolution, a norm."""
    conv = Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
    return Chain([nn.ReLU(), conv, make_norm(norm, c_out)])


def make_op(name: str, c: int, stride: int, norm: Norm) -> nn.Module:
    """The module of an operation on c channels, sides divided by the stride. 'none' has no module."""
    family, _, kernel = name.rpartition("_")
    match family:
        case "max_pool":
            return nn.MaxPool2d(_size(kernel), stride, _size(kernel) // 2)
        case "avg_pool":
            return nn.AvgPool2d(_size(kernel), stride, _size(kernel) // 2, count_include_pad=False)
        case "skip":
            return nn.Identity() if stride == 1 else FactorizedReduce(c, c, norm)
        case "conv":
            return relu_conv_norm(c, c, _size(kernel), stride, norm)
        case "conv_7x1":
            return _separate_axes(c, stride, norm)
        case "sep_conv":
            twice = [*_depthwise(c, _size(kernel), stride, 1, norm), *_depthwise(c, _size(kernel), 1, 1, norm)]
            return Chain(twice)
        case "dil_conv":
            return Chain(_depthwise(c, _size(kernel), stride, 2, norm))
    return Transformer(c) if name == "msa" else SqueezeExcite(c, stride)


def _size(kernel: str) -> int:
    return int(kernel.split("x")[0])


def _separate_axes(c: int, stride: int, norm: Norm) -> Chain:
    wide = Conv2d(c, c, (1, 7), (1, stride), (0, 3), bias=False)
    tall = Conv2d(c, c, (7, 1), (stride, 1), (3, 0), bias=False)
    return Chain([nn.ReLU(), wide, tall, make_norm(norm, c)])


def _depthwise(c: int, k: int, stride: int, dilation: int, norm: Norm) -> list[nn.Module]:
    padding = dilation * (k - 1) // 2
    spread = Conv2d(c, c, k, stride, padding, dilation, groups=c, bias=False)
    return [nn.ReLU(), spread, Conv2d(c, c, 1, bias=False), make_norm(norm, c)]
