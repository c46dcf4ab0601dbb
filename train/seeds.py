"""Randomness as a function of where it is used: every draw of a run comes from (seed, step, purpose, place) alone.

A checkpoint therefore needs no state of any random generator, a resumed run draws what the uninterrupted one does,
and so does every process of a run that is spread over several.
"""

from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch

INITIAL, IMAGES, DROPOUT, ORDER = range(4)  # what a draw is for


def mixed(seed: int, step: int, purpose: int, place: int = 0) -> int:
    """A seed for torch that depends on these numbers alone. place: of the network in its meta-batch."""
    sequence = np.random.SeedSequence([seed, step, purpose, place])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator_for(seed: int, step: int, purpose: int, place: int = 0) -> torch.Generator:
    """A generator that depends on these numbers alone."""
    return torch.Generator().manual_seed(mixed(seed, step, purpose, place))


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Generator[None]:
    """Within it, torch's own generators (dropout, initialisation) begin at this seed; restored after.

    device: whose generator is meant besides the CPU's.
    """
    with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
