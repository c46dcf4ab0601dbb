"""Batch normalisation without running statistics, and how networks with predicted weights are evaluated."""

from collections.abc import Generator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def batch_statistics(model: nn.Module) -> Generator[nn.Module]:
    """Within the block, every BatchNorm of the model normalises by its batch; its running statistics stay as they are.

    A GHN predicts parameters, not buffers, so this is how networks with predicted weights are evaluated
    (Knyazev et al. 2021, section 5.1).
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    before = [(m.training, m.track_running_stats) for m in norms]
    try:
        for m in norms:
            m.training, m.track_running_stats = True, False
        yield model
    finally:
        for m, (training, track) in zip(norms, before, strict=True):
            m.training, m.track_running_stats = training, track


@contextmanager
def evaluating(model: nn.Module) -> Generator[nn.Module]:
    """Within the block the model is in eval mode, with batch normalisation by batch statistics; then all its flags are
    what they were, module by module."""
    before = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        with batch_statistics(model):
            yield model
    finally:
        for m, training in before:
            m.training = training
