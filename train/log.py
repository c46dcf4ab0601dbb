"""What a run reports: a CSV row per step, a progress line, curves, and wandb where asked for."""

import csv
import io
import math
import os
import statistics
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from ghn import page
from ghn.errors import GHNError
from ghn.files import write_atomic


@dataclass(frozen=True)
class Row:
    """One step. seconds: of training so far. networks: that counted. skipped: networks so far that were not finite.

    skipped_steps: steps so far whose total gradient was not finite. val_accuracy: None where not measured.
    """

    step: int
    stage: int
    loss: float
    accuracy: float
    lr: float
    grad_norm: float
    networks: int
    skipped: int
    skipped_steps: int
    seconds: float = 0.0
    val_accuracy: float | None = None


WINDOW = 50  # steps that a shown value is taken over
COLUMNS = tuple(f.name for f in fields(Row))


class Sink(Protocol):
    """Where rows go."""

    def write(self, row: Row) -> None: ...

    def close(self) -> None: ...


class CSVLog:
    """Appends rows to a file. Opening it for a run at `step` cuts off the rows from that step on."""

    def __init__(self, path: Path, step: int) -> None:
        kept = [row for row in read_rows(path) if int(row["step"]) < step] if step and path.exists() else []
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        write_atomic(path, text.getvalue().encode())
        self._file = path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, COLUMNS, lineterminator="\n")

    def write(self, row: Row) -> None:
        self._writer.writerow({key: _short(value) for key, value in asdict(row).items()})
        self._file.flush()

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()


class Progress:
    """A line on the terminal: steps, their pace and the time left, median loss, mean accuracies, what was skipped.

    Where nobody sees it move (a file, a pipe) it is written twice a minute.
    """

    def __init__(self, step: int, steps: int) -> None:
        from tqdm import tqdm

        pace = 1.0 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(initial=step, total=steps, unit="step", dynamic_ncols=True, file=sys.stderr, mininterval=pace)
        self._recent: deque[Row] = deque(maxlen=WINDOW)
        self._val = math.nan

    def write(self, row: Row) -> None:
        self._recent.append(row)
        counted = [r for r in self._recent if r.networks]
        self._val = self._val if row.val_accuracy is None else row.val_accuracy
        elapsed = row.seconds - self._recent[0].seconds
        networks = sum(r.networks for r in self._recent) - self._recent[0].networks  # done in that time
        self._bar.set_postfix(
            {
                "loss": f"{statistics.median([r.loss for r in counted] or [math.nan]):.3f}",
                "acc": f"{statistics.fmean([r.accuracy for r in counted] or [math.nan]):.1%}",
                "val": f"{self._val:.1%}",
                "nets/s": f"{networks / elapsed:.1f}" if elapsed > 0 else "-",
                "skipped": f"{row.skipped} nets, {row.skipped_steps} steps",
            },
            refresh=False,
        )
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


class WandbLog:
    """Rows into a wandb run kept in `folder`: sent if the user is logged in to wandb, else offline (`wandb sync`).

    $WANDB_MODE decides where it is set. A resumed run goes on under the same id. Raises GHNError where wandb is
    missing or cannot start.
    """

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise GHNError("logging to wandb needs the package wandb; install it or leave --wandb away") from error
        online = wandb.login(prompt=False, verify=False)
        mode = None if os.environ.get("WANDB_MODE") else "online" if online else "offline"
        resume = "allow" if mode == "online" else None
        try:
            self._run = wandb.init(
                project="ghn",
                name=name,
                id=_wandb_id(folder),
                dir=folder,
                mode=mode,
                resume=resume,
                config=dict(config),
            )
        except wandb.Error as error:
            raise GHNError(f"wandb cannot start ({error}); set WANDB_MODE=offline, or leave --wandb away") from error

    def write(self, row: Row) -> None:
        self._run.log({key: value for key, value in asdict(row).items() if value is not None}, step=row.step)

    def close(self) -> None:
        self._run.finish()


def _wandb_id(folder: Path) -> str:
    """The id of this folder's wandb run, made when it is first asked for."""
    note = folder / "wandb-id"
    if not note.exists():
        write_atomic(note, os.urandom(4).hex().encode())
    return note.read_text().strip()


class Log:
    """Several sinks as one; closes them all at the end of a `with`."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks

    def write(self, row: Row) -> None:
        for sink in self._sinks:
            sink.write(row)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sink in self._sinks:
            sink.close()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The complete rows of a log; a last line that was cut off by a kill is left out."""
    text = path.read_text()
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))


def draw_curves(log: Path, title: str) -> bool:
    """Writes loss and accuracies over the steps beside the log: `curves.png`, and `curves.html` with the log's rows of
    validated steps and the last one. False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    logged = read_rows(log)
    rows = [row for row in logged if int(row["networks"])]
    step = [int(row["step"]) for row in rows]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(step, _running([float(row["loss"]) for row in rows]))
    left.set(xlabel="step", ylabel="training loss")
    right.plot(step, _running([float(row["accuracy"]) for row in rows]), label="training images, training networks")
    scored = [(int(row["step"]), float(row["val_accuracy"])) for row in rows if row["val_accuracy"]]
    if scored:
        right.plot(*zip(*scored, strict=True), marker=".", label="held-out images, held-out networks")
    right.set(xlabel="step", ylabel="top-1")
    right.legend()
    figure.savefig(log.with_name("curves.png"), dpi=120)
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None})
    svg = drawing.getvalue()
    shown = [row for row in logged if row["val_accuracy"] or row is logged[-1]]
    parts = [
        f"<h1>{escape(title)}</h1>",
        page.figure(svg[svg.index("<svg") :], f"Running medians of up to {WINDOW} steps; held-out accuracy as it is."),
        page.table(COLUMNS, [[row[name] for name in COLUMNS] for row in shown]),
    ]
    write_atomic(log.with_name("curves.html"), page.document(title, parts).encode())
    return True


def _running(values: list[float]) -> list[float]:
    """Median of each value and up to WINDOW - 1 before it: one exploding network must not hide all others."""
    return [statistics.median(values[max(0, i + 1 - WINDOW) : i + 1]) for i in range(len(values))]


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
