"""Charts of corpora, scores and searches as SVG text, by matplotlib; imported only here.

The same numbers give the same bytes.
"""

import io
import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ghn.adapters import MissingExtraError

OURS, THEIRS, PAPER = "#7da7d9", "#c4501b", "#2f7d4f"
INK = "#1c2733"
COLOURS = (OURS, THEIRS, PAPER, INK, "#8a63b0", "#c9a227")  # of lines, in turn
BINS = (8, 40)  # fewest and most
SIZE = (6.0, 3.0)  # inches, at 72 pixels each
ROW = 0.24  # inches of a bar
STYLE = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#8b97a3",
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def histogram(
    values: np.ndarray,
    label: str,
    *,
    log: bool = False,
    theirs: np.ndarray | None = None,
    published: tuple[float, float | None] | None = None,
) -> str:
    """Shares of networks by a quantity. log: bins of equal ratio. theirs: another sample, drawn as an outline.

    published: a mean and, where known, a standard deviation, marked as a line and a band.
    """
    with _figure(SIZE) as drawing:
        axes = drawing.axes
        edges = _edges(np.concatenate([values, theirs]) if theirs is not None else values, log).tolist()
        axes.hist(values, edges, weights=_weights(values), color=OURS, label="this corpus")
        if theirs is not None:
            weights = _weights(theirs)
            axes.hist(
                theirs, edges, weights=weights, histtype="step", color=THEIRS, linewidth=1.4, label="the other draw"
            )
        if published is not None:
            mean, spread = published
            axes.axvline(mean, color=PAPER, linewidth=1.4, label="published mean" + (" ± sd" if spread else ""))
            if spread:
                axes.axvspan(mean - spread, mean + spread, color=PAPER, alpha=0.13, linewidth=0, zorder=0)
        if log:
            axes.set_xscale("log")
        axes.set(xlabel=label, ylabel="% of networks")
        axes.legend(fontsize=9)
        return drawing.svg(label)


def bars(shares: Mapping[str, float], label: str, theirs: Mapping[str, float] | None = None) -> str:
    """Shares of kinds, one bar each, in the order given; those of another sample as points."""
    with _figure((SIZE[0], ROW * len(shares) + 1.0)) as drawing:
        axes = drawing.axes
        rows = np.arange(len(shares))
        axes.barh(rows, [100 * v for v in shares.values()], color=OURS, label="this corpus")
        if theirs is not None:
            points = [100 * theirs.get(kind, 0.0) for kind in shares]
            axes.plot(points, rows, "o", color=THEIRS, markersize=4.5, label="the other draw")
            axes.legend(fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        axes.set_yticks(rows, list(shares))
        axes.invert_yaxis()
        axes.set(xlabel=label, ylim=(len(shares) - 0.4, -0.6))
        return drawing.svg(label)


def scatter(x: np.ndarray, y: np.ndarray, labels: tuple[str, str], name: str) -> str:
    """A point for each pair. labels: of the axes. name: of the chart, unlike any other on its page."""
    with _figure(SIZE) as drawing:
        drawing.axes.plot(x, y, "o", color=OURS, markersize=3.5, alpha=0.6, markeredgewidth=0)
        drawing.axes.set(xlabel=labels[0], ylabel=labels[1])
        return drawing.svg(name)


def steps(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]], labels: tuple[str, str], name: str, *, dots: bool = False
) -> str:
    """Lines of (x, y) that stay level between points. dots: mark the points. labels, name: as for `scatter`."""
    with _figure(SIZE) as drawing:
        marker = "o" if dots else ""
        for (label, (x, y)), colour in zip(lines.items(), itertools.cycle(COLOURS)):
            drawing.axes.step(x, y, where="post", color=colour, label=label, marker=marker, markersize=3.5)
        drawing.axes.set(xlabel=labels[0], ylabel=labels[1])
        if len(lines) > 1:
            drawing.axes.legend(fontsize=9)
        return drawing.svg(name)


def bands(lines: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], labels: tuple[str, str], name: str) -> str:
    """Lines of (x, mean, deviation) with what is one deviation away shaded; x by its logarithm, with 0. labels, name:
    as for `scatter`."""
    with _figure(SIZE) as drawing:
        for (label, (x, y, spread)), colour in zip(lines.items(), itertools.cycle(COLOURS)):
            drawing.axes.plot(x, y, "o-", color=colour, label=label, markersize=3)
            drawing.axes.fill_between(x, y - spread, y + spread, color=colour, alpha=0.15, linewidth=0)
        drawing.axes.set_xscale("symlog", linthresh=1)
        drawing.axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(0, None))
        drawing.axes.legend(fontsize=9)
        return drawing.svg(name)


class _figure:
    """A figure with one pair of axes, in our style, while a `with` lasts. Raises MissingExtraError."""

    def __init__(self, size: tuple[float, float]) -> None:
        try:
            import matplotlib
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingExtraError(f"matplotlib cannot be imported ({error}); run `pip install matplotlib`") from error
        # Not what a user's own file says.
        style: dict[Any, Any] = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith("backend")}
        style.update(STYLE)
        self._style: Any = matplotlib.rc_context(style)
        self._new = lambda: Figure(figsize=size, layout="constrained")
        self._salt = matplotlib.rcParams

    def __enter__(self) -> "_figure":
        self._style.__enter__()
        self._drawn = self._new()
        self.axes = self._drawn.subplots()
        return self

    def __exit__(self, *error: Any) -> None:
        self._style.__exit__(*error)

    def svg(self, name: str) -> str:
        """What was drawn; `name` keeps the references within it apart from those of other charts of a page."""
        self._salt["svg.hashsalt"] = name
        out = io.StringIO()
        self._drawn.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = out.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
        return re.sub(r'<g id="[^"]*">', "<g>", text)  # such as figure_1, the same in every chart


def _edges(values: np.ndarray, log: bool) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if low == high:
        return np.array([low - 0.5, high + 0.5])
    count = int(np.clip(2 * math.sqrt(len(values)), *BINS)) + 1
    return np.geomspace(low, high, count) if log and low > 0 else np.linspace(low, high, count)


def _weights(values: np.ndarray) -> np.ndarray:
    return np.full(len(values), 100 / len(values))
