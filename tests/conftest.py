"""Fixtures of several test files."""

import os
from collections.abc import Iterator

if "PYTEST_XDIST_WORKER" in os.environ:  # files of tests share the cores; before torch counts them
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)  # others' work makes any example late
settings.load_profile("shared machine")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small convolutions on a shared machine: a second thread costs up to twenty times what it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
