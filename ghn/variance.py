"""Networks without normalisation: the signal kept from fading on its way through many layers."""

import math

import torch
from torch import Tensor, nn

from ghn.errors import ModelError
from ghn.norms import evaluating

CONVOLVED = (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)


def sustain_variance(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Scales up every convolution whose output on these images has a standard deviation below 1, to 1.

    What comes out is the factor of each weight and bias that was scaled, by name. images: (B, channels, height, width),
    some of those that the network is for, normalised as for the network; 64 are enough, and no label is needed.

    For predicted weights of deep networks without normalisation, in which the signal fades from cell to cell (by half
    in each, for some) until the logits no longer tell images apart. Where normalisation follows a convolution at once
    this changes rounding only. Left alone are convolutions that see a single position, such as gates, those whose
    output is constant, and those of classes that calculate their weights.

    Source: Mishkin and Matas, "All You Need Is a Good Init", ICLR 2016, algorithm 1, LSUV. Different here: weights are
    those that the model has, not orthonormal ones; none is scaled down; a layer's bias is scaled with its weight, so
    that one pass is exact; fully connected layers are left alone.
    Raises ModelError where the model cannot run on these images, and then nothing has changed.
    """
    factors: dict[Tensor, float] = {}

    def scaled(layer: nn.Module, _: object, output: Tensor) -> Tensor | None:
        weight = layer.get_parameter("weight")
        if weight not in factors:  # else a layer that is called again, or shares its weight
            deviation = output.std().item()
            if math.prod(output.shape[2:]) == 1 or not 0 < deviation < 1:
                return None
            factors.update(dict.fromkeys(layer.parameters(recurse=False), 1 / deviation))
        return output * factors[weight]

    hooks = [layer.register_forward_hook(scaled) for layer in model.modules() if _plain(layer)]
    try:
        with torch.no_grad(), evaluating(model):
            model(images)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{type(model).__name__} cannot run on images {tuple(images.shape)}: {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
    named: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter, factor in factors.items():
            parameter.mul_(factor)
    return {named[parameter]: factor for parameter, factor in factors.items()}


def _plain(layer: nn.Module) -> bool:
    """Whether it is a convolution whose output grows with its weight: none that standardises or calculates it."""
    return type(layer).forward in CONVOLVED and "weight" in dict(layer.named_parameters(recurse=False))
