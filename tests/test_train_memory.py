"""Memory goes back to the system where the C library can give it, and training is none the wiser."""

import sys

import pytest
import torch

from train import memory

glibc = pytest.mark.skipif(sys.platform != "linux" or memory._trim() is None, reason="needs glibc")


def in_gaps() -> list[torch.Tensor]:
    """Small tensors that keep the heap from shrinking, between 200 MiB of others that are gone."""
    tensors = [torch.ones(16_384) for _ in range(3_200)]  # 64 KiB each: of the heap, not of pages of their own
    return tensors[::64]


@glibc
def test_what_lies_between_goes_back() -> None:
    kept = in_gaps()
    before = memory.resident()
    memory.give_back(above=2**50)
    assert memory.resident() == pytest.approx(before, rel=0.02)  # a process this small is left alone
    memory.give_back(above=0)
    assert before - memory.resident() > 100 * 2**20
    assert all(bool((t == 1).all()) for t in kept)


@glibc
def test_other_systems_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, before = in_gaps(), memory.resident()
    monkeypatch.setattr(memory, "_trim", lambda: None)
    memory.give_back(above=0)
    assert memory.resident() == pytest.approx(before, rel=0.02)
    assert kept
