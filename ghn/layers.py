"""Weights of linear layers inside `nn.Sequential`, where the published checkpoints' names put them."""

from torch import Tensor, nn


def affine(layers: nn.Sequential, index: int) -> tuple[Tensor, Tensor]:
    """Weight as an (out, in) matrix and bias (out,) of a linear layer or a 1x1 convolution."""
    layer = layers[index]
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    assert layer.bias is not None
    return layer.weight.flatten(1), layer.bias
