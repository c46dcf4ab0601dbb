"""Fine-tuning as numbers and as one HTML page: curves with their spread over seeds, and what one start gains."""

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from deepnets_gen.plots import bands
from eval.finetune import Curve, Finetuned
from ghn.page import document, figure, table

HOW = (
    "Top-1 accuracy on images that had no part in training nor in any choice, batch norms by batch statistics, against "
    "steps of SGD. Each initialisation has the learning rate, of the same few, at which it does best on validation "
    "images. A seed gives all initialisations the same images in the same order, so that differences are paired."
)


def summary(found: Finetuned) -> dict[str, Any]:
    """JSON-ready: by initialisation its rate, and over seeds the mean and deviation of accuracy at each mark, and of
    the gain over the first initialisation with the same seed; then every curve."""
    rows: dict[str, Any] = {}
    first: np.ndarray | None = None
    for init, rate in found.rates.items():
        curves = [c for c in found.curves if c.init == init and c.error is None]
        values = np.array([c.accuracy for c in curves])
        first = values if first is None else first
        rows[init] = {"rate": rate, "seeds": [c.seed for c in curves], "steps": list(curves[0].steps)}
        rows[init] |= {"mean": _rounded(values.mean(0)), "deviation": _rounded(_deviation(values))}
        if values.shape == first.shape:
            gain = values - first
            rows[init] |= {"gain": _rounded(gain.mean(0)), "gain_deviation": _rounded(_deviation(gain))}
    return {"summary": rows, "curves": [_record(c) for c in found.curves], "tried": [_record(c) for c in found.tried]}


def finetune_page(title: str, subtitle: str, found: Finetuned) -> str:
    """The page. Raises MissingExtraError where matplotlib is not installed."""
    rows = summary(found)["summary"]
    lines = {i: (np.array(r["steps"]), np.array(r["mean"]), np.array(r["deviation"])) for i, r in rows.items()}
    chart = bands(lines, ("steps", "top-1 accuracy"), "curves")
    caption = f"Mean over {max(len(r['seeds']) for r in rows.values())} seeds; the bands are one standard deviation."
    parts = [f"<h1>{escape(title)}</h1>", f"<p>{escape(subtitle)}</p>", f"<p>{escape(HOW)}</p>"]
    parts += [figure(chart, caption), "<h2>Accuracy after so many steps</h2>", _table(rows)]
    parts += ["<h2>Learning rates tried</h2>", _tried(found)]
    return document(title, parts)


def _table(rows: Mapping[str, Any]) -> str:
    steps = next(iter(rows.values()))["steps"]
    cells = [
        [init, f"{row['rate']:g}", *(f"{m:.1%} ± {d:.1%}" for m, d in zip(row["mean"], row["deviation"], strict=True))]
        for init, row in rows.items()
    ]
    return table(["initialisation", "learning rate", *map(str, steps)], cells)


def _tried(found: Finetuned) -> str:
    cells = [[c.init, f"{c.lr:g}", c.error or f"{c.val:.1%}"] for c in found.tried]
    return table(["initialisation", "learning rate", "validation accuracy"], cells)


def _record(curve: Curve) -> dict[str, Any]:
    record = {"init": curve.init, "lr": curve.lr, "seed": curve.seed, "val": curve.val}
    if curve.error is not None:
        return {**record, "error": curve.error}
    return {**record, "steps": list(curve.steps), "accuracy": list(curve.accuracy), "loss": _rounded(curve.loss)}


def _deviation(values: np.ndarray) -> np.ndarray:
    return values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])


def _rounded(values: Any) -> list[float]:
    return [round(float(v), 5) for v in values]
