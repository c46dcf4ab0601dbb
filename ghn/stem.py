"""Stems made for 224 pixels, changed to take small images. ghn_spec section 13."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ghn.errors import ModelError

SMALL = 64  # pixels: at and below this side a 224-pixel stem throws too much away


def _centre(conv: Any, size: int) -> None:
    """Keeps the middle size x size of the kernel, at stride 1."""
    if min(conv.kernel_size) < size:
        raise ValueError(f"its first kernel, {conv.kernel_size}, is smaller than {size}x{size}")
    cut = (conv.kernel_size[0] - size) // 2
    with torch.no_grad():
        weight = conv.weight[..., cut : cut + size, cut : cut + size].clone()
    conv.weight = nn.Parameter(weight, requires_grad=conv.weight.requires_grad)
    conv.kernel_size, conv.padding, conv.stride = (size, size), (size // 2, size // 2), (1, 1)


def _resnet(model: Any) -> None:
    _centre(model.conv1, 3)
    model.maxpool = nn.Identity()


def _densenet(model: Any) -> None:
    _centre(model.features[0], 3)
    model.features[3] = nn.Identity()


def _mobilenet(model: Any) -> None:
    for module in model.features[:5].modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)


def _vgg(model: Any) -> None:
    for i, module in enumerate(model.features[:10]):
        if isinstance(module, nn.MaxPool2d):
            model.features[i] = nn.Identity()


def _alexnet(model: Any) -> None:
    model.features[0].stride = (1, 1)
    model.features[2] = nn.Identity()


def _mnasnet(model: Any) -> None:
    model.layers[0].stride = (1, 1)


def _first_conv_and_pool(conv: str, pool: str) -> Callable[[Any], None]:
    def adjust(model: Any) -> None:
        first = getattr(model, conv)
        first = first if isinstance(first, nn.Conv2d) else next(m for m in first.modules() if isinstance(m, nn.Conv2d))
        first.stride = (1, 1)
        setattr(model, pool, nn.Identity())

    return adjust


def _convnext(model: Any) -> None:
    model.features[0][0].stride = (1, 1)


RULES: dict[str, Callable[[Any], None]] = {
    "ResNet": _resnet,
    "DenseNet": _densenet,
    "MobileNetV2": _mobilenet,
    "MobileNetV3": _mobilenet,
    "VGG": _vgg,
    "AlexNet": _alexnet,
    "MNASNet": _mnasnet,
    "ShuffleNetV2": _first_conv_and_pool("conv1", "maxpool"),
    "GoogLeNet": _first_conv_and_pool("conv1", "maxpool1"),
    "ConvNeXt": _convnext,
}


def has_rule(model: nn.Module) -> bool:
    """Whether `adjust_stem` knows this architecture: a torchvision network, or one built the same way."""
    return type(model).__name__ in RULES


def adjust_stem(model: nn.Module, image_size: int) -> nn.Module:
    """The same model, changed in place to take images of this side; unchanged above 64 pixels.

    The first layers keep their resolution (stride 1, no first pooling; a 7x7 kernel becomes its middle 3x3).
    Raises ModelError for an architecture that has no rule or is not built as its rule expects.
    """
    if image_size <= SMALL:
        _fit(model, image_size)
    model.expected_input_sz = image_size  # ty: ignore  # what the tracer goes by
    return model


def _fit(model: nn.Module, image_size: int) -> None:
    name = type(model).__name__
    if name not in RULES:
        known = ", ".join(sorted(RULES))
        raise ModelError(
            f"no rule to fit {name} to {image_size} pixels; rules exist for {known}. Build it for that size."
        )
    try:
        RULES[name](model)
    except (AttributeError, IndexError, TypeError, ValueError, StopIteration) as error:
        raise ModelError(f"{name} is not built like torchvision's, so its stem cannot be adjusted: {error}") from error
