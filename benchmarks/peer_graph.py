"""The peers' own graphs of a module, for timing: facebookresearch/ppuda's and SamsungSAILMontreal/ghn3's `Graph`.

Their code is read from checkouts that the caller names; none of it is here. ppuda needs einops, and its Graph draws
warnings on standard output, which are dropped.
"""

import contextlib
import importlib
import io
import signal
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

import ghn

LIMIT = 30.0  # CPU seconds; ghn3 counts paths, of which there may be more than can be counted
CUTOFF = 50  # of the distances that GHN-2 and GHN-3 read


class TooLongError(Exception):
    """A graph took more than LIMIT."""


@dataclass(frozen=True)
class Timed:
    """CPU seconds until a peer had the graph, and until it had the distances as well; failure: why there is none."""

    graph: float = 0.0
    whole: float = 0.0
    nodes: int = 0
    failure: str = ""


def ppuda(checkout: Path) -> Callable[[nn.Module], Timed]:
    """To be called with a module: its graph as ppuda makes it."""
    return _timed(_graph_class(checkout, "ppuda.deepnets1m.graph"), 1000)


def ghn3(checkout: Path, ppudas: Path) -> Callable[[nn.Module], Timed]:
    """To be called with a module: its graph as ghn3, which is built on ppuda, makes it."""
    sys.path.insert(0, str(ppudas))
    return _timed(_graph_class(checkout, "ghn3.graph"), 10000)


def _graph_class(checkout: Path, module: str) -> Any:
    ghn.import_torchvision()
    sys.path.insert(0, str(checkout))
    with contextlib.redirect_stdout(io.StringIO()):
        return importlib.import_module(module).Graph


def _timed(graph_class: Any, depth: int) -> Callable[[nn.Module], Timed]:
    """depth: of recursion; Python's own for ppuda, what ghn3 sets itself."""
    add_distances, spent = graph_class._add_virtual_edges, [0.0]

    def timed_distances(self: Any, *args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return add_distances(self, *args, **kwargs)
        finally:
            spent[0] = time.process_time() - start

    graph_class._add_virtual_edges = timed_distances

    def run(model: nn.Module) -> Timed:
        spent[0] = 0.0
        sys.setrecursionlimit(depth)
        start = time.process_time()
        try:
            with _limited(), contextlib.redirect_stdout(io.StringIO()):
                graph = graph_class(model, ve_cutoff=CUTOFF)
        except (Exception, TooLongError) as error:  # whatever their code meets
            words = " ".join(str(error).split())[:120]
            return Timed(failure=f"{type(error).__name__}: {words}")
        finally:
            sys.setrecursionlimit(10000)
            model.__dict__.pop("_layered_modules", None)  # ghn3 leaves it
        whole = time.process_time() - start
        return Timed(whole - spent[0], whole, int(graph.n_nodes))

    return run


@contextlib.contextmanager
def _limited() -> Generator[None]:
    def stop(_: int, __: FrameType | None) -> None:
        raise TooLongError(f"more than {LIMIT:.0f} CPU-seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
