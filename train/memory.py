"""Memory that the C library holds in the gaps of its heap."""

import ctypes
import os
from collections.abc import Callable
from functools import cache

ABOVE = 2**30  # bytes of a process; below, the gaps are small, and steps so short that looking for them would cost


def give_back(above: int = ABOVE) -> None:
    """Returns to the system what lies free in the heap of a process that holds more than `above` bytes.

    A step's many small tensors leave gaps in which the next step's large ones find no room. For glibc on Linux;
    elsewhere, and with other allocators, nothing happens.
    """
    trim = _trim()
    if trim is not None and resident() > above:
        trim(0)


def resident() -> int:
    """Bytes of memory that this process holds; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
