"""What a network computes inside its blocks, calculated again in the backward pass in place of being kept.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016: what lies between two blocks is kept, and of the
rest only what one block needs at a time. No bit of the gradient changes.
"""

import ctypes
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ghn.assign import functional

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
_LIBC = ctypes.CDLL(None) if os.name == "posix" else None


@contextmanager
def recomputing(module: nn.Module) -> Generator[None]:
    """Forward passes of the module within keep of each of its blocks its inputs only.

    The backward pass may come after: a block takes along the weights that it was called with, be they its own or lent
    by `ghn.assign.functional`.
    """
    found = list(blocks(module))
    for block in found:
        block.forward = MethodType(_recomputed, block)
    try:
        yield
    finally:
        for block in found:
            del block.forward


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost members of lists, dicts and sequences of modules that are made of modules, such as cells.

    None is in another, and no sequence is a block: its members may be.
    """
    for child in module.children():
        if isinstance(module, CONTAINERS) and not isinstance(child, CONTAINERS) and any(child.children()):
            yield child
        else:
            yield from blocks(child)


def give_back() -> None:
    """Returns to the system what lies free between small objects in the heap, where the C library can (glibc).

    Else a process keeps what its largest tensors of all sizes have taken side by side. Pages that are given back cost
    time when they are next needed.
    """
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)


class _Held(nn.Module):
    """A block that runs as its class says, whatever stands in its `forward`'s place."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *inputs: Any) -> Any:
        return type(self.block).forward(self.block, *inputs)


def _recomputed(block: nn.Module, *inputs: Any) -> Any:
    """The block's output, of which the backward pass finds the inputs and weights alone."""
    weights = {f"block.{name}": value for name, value in block.named_parameters()}
    return checkpoint(_apart, _Held(block), weights, *inputs, use_reentrant=False, preserve_rng_state=block.training)


def _apart(held: _Held, weights: Mapping[str, Tensor], *inputs: Any) -> Any:
    """The forward pass on tensors of its own, with which no other block has left its ReLU (train/fast.py) meanwhile."""
    return functional(held, weights, *(x.view_as(x) if isinstance(x, Tensor) else x for x in inputs))
