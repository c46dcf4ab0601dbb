"""Which networks can be traced, and how much of each would be predicted: names -> rows, a table, one HTML page."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from ghn.adapters.zoo import example_input, resolve
from ghn.errors import GHNError
from ghn.graph import ArchGraph
from ghn.page import document, picture, table
from ghn.tracing import forget, trace

DRAWN = 450  # nodes: larger graphs have no drawing on the page
SHOWN = 3  # names of parameters in a reason


@dataclass(frozen=True)
class Row:
    """One network. tensors, numbers: of its parameters. share: of the numbers that matter to its output, how many would
    be predicted; 0 where it is refused. seconds: CPU time of the trace. reason: why it is refused, or why which
    parameters are left."""

    model: str
    nodes: int = 0
    edges: int = 0
    tensors: int = 0
    numbers: int = 0
    predicted: int = 0
    share: float = 0.0
    seconds: float = 0.0
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def survey(names: Iterable[str], num_classes: int = 1000) -> Iterator[tuple[Row, ArchGraph | None]]:
    """A row for each name, with its graph; networks are built on the meta device, at the size they are made for."""
    for name in names:
        try:
            yield _look(name, num_classes)
        except GHNError as error:
            yield Row(name, reason=" ".join(str(error).split())), None


def _look(name: str, num_classes: int) -> tuple[Row, ArchGraph]:
    model = resolve(name, num_classes, None)
    example = example_input(model)
    forget()  # many names stand for one architecture, and the seconds are those of a trace
    start = time.process_time()
    graph = trace(model, example)
    seconds = time.process_time() - start
    predicted = sum(s.numel for s in graph.slots)
    missing = sum(math.prod(u.shape) for u in graph.uncovered if u.used)
    row = Row(
        name,
        len(graph),
        len(graph.edges),
        len(graph.slots) + len(graph.uncovered),
        graph.num_params,
        len(graph.slots),
        predicted / max(predicted + missing, 1),
        seconds,
        left(graph),
    )
    return row, graph


def left(graph: ArchGraph) -> str:
    """Which parameters are not predicted, and why: by reason, the first few by name."""
    by_reason: dict[str, list[str]] = {}
    for u in graph.uncovered:
        by_reason.setdefault(u.reason, []).append(u.fqn)
    return "; ".join(
        ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "") + f": {reason}"
        for reason, names in by_reason.items()
    )


@dataclass(frozen=True)
class Totals:
    """Of many rows. whole: those of which everything that matters is predicted. seconds: median, 95th percentile."""

    models: int
    traced: int
    whole: int
    median: float
    p95: float

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Totals":
        seconds = sorted(r.seconds for r in rows if r.nodes) or [0.0]
        return cls(
            len(rows),
            sum(r.nodes > 0 for r in rows),
            sum(r.share == 1 for r in rows),
            seconds[len(seconds) // 2],
            seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))],
        )

    def __str__(self) -> str:
        return (
            f"{self.traced} of {self.models} networks traced, {self.whole} with every parameter that matters; "
            f"{self.median:.3f} CPU-seconds a network in the median, {self.p95:.3f} at the 95th percentile"
        )


TITLES = ("model", "nodes", "edges", "parameters", "numbers", "predicted", "seconds", "left out, and why")


def cells(row: Row) -> tuple[str, ...]:
    """The row in words, one for each of TITLES."""
    counts = (row.nodes, row.edges, row.tensors, row.numbers)
    return row.model, *(f"{n:,}" for n in counts), percent(row.share), f"{row.seconds:.3f}", row.reason


def percent(share: float) -> str:
    """A share that is not whole never reads as 100%."""
    return "100%" if share == 1 else f"{math.floor(1000 * share) / 10:.1f}%"


def markdown(rows: Sequence[Row]) -> str:
    """The table for documents, a section for each library."""
    lines = ["# Which networks become a graph, and how much of each is predicted", ""]
    lines += ["Written by `ghn coverage --markdown docs/coverage.md`; each at the size it is made for.", ""]
    for library, own in _by_library(rows).items():
        lines += [f"## {library}", "", f"{Totals.of(own)}.", ""]
        lines += ["| " + " | ".join(TITLES) + " |", "|---" * len(TITLES) + "|"]
        lines += ["| " + " | ".join(c.replace("|", "\\|") for c in cells(row)) + " |" for row in own]
        lines.append("")
    return "\n".join(lines)


def html(found: Sequence[tuple[Row, ArchGraph | None]]) -> str:
    """One page that needs nothing else: the table, and each network's graph to unfold, where it is not too large."""
    rows = [row for row, _ in found]
    graphs = {row.model: graph for row, graph in found}
    parts = ["<h1>Which networks become a graph, and how much of each is predicted</h1>"]
    for library, own in _by_library(rows).items():
        parts += [f"<h2>{escape(library)}</h2>", f"<p>{escape(str(Totals.of(own)))}.</p>"]
        parts += [table(TITLES, [cells(row) for row in own]), f"<p>Their graphs, up to {DRAWN} nodes:</p>"]
        for row in own:
            graph = graphs[row.model]
            if graph is not None and len(graph) <= DRAWN:
                drawing = picture(graph, row.model)
                parts.append(f"<details><summary>{escape(row.model)}</summary>{drawing}</details>")
    return document("Coverage", parts)


def _by_library(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.model.partition("/")[0], []).append(row)
    return found
