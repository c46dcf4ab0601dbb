"""Predicted weights into a network: loaded for good, or used functionally with gradients."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def functional(model: nn.Module, weights: Mapping[str, Tensor], *inputs: Any) -> Any:
    """The model's output with these weights in place of its own; gradients flow into `weights`.

    The model's own parameters are not read, so it may live on the meta device. Tied parameters need one entry.
    """
    return torch.func.functional_call(model, dict(weights), inputs)


@torch.no_grad()
def load(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Copies the weights into the model's parameters, in their own dtype and device, and returns the model."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, value in weights.items():
        parameters[name].copy_(value)
    return model
