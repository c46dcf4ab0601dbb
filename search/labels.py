"""Labels for evaluators that learn: architectures with a truth, from a table of the space or a user's file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from eval.evaluator import TEST, Arch
from eval.tables import rows_of
from search.errors import SearchError
from search.space import SearchSpace

FILES = (".json", ".jsonl", ".parquet")
PARTS = ("train", "val", TEST)
SCORE, MEASURED_ON, GENES = KEYS = ("score", "measured_on", "genes")


@dataclass(frozen=True)
class Labels:
    """rows: (architecture, truth), larger is better. sees: the part of the data that the truth was measured on."""

    rows: list[tuple[Arch, float]]
    sees: str


def from_table(space: SearchSpace, metric: str, count: int, folder: str | None, seed: int) -> Labels:
    """So many random architectures with this column of the space's tables. Raises DataError as `Tabular`."""
    from eval.tabular import Tabular

    table = Tabular(space.tables, metric, folder)
    genes = Random(f"labels {seed}").sample(sorted(table.values), min(count, len(table.values)))
    return Labels([(space.arch(g), table.values[g]) for g in genes], *(table.sees or {"val"}))


def from_file(space: SearchSpace, path: Path, count: int | None, seed: int) -> Labels:
    """The architectures of a file, or so many random ones of them. Raises SearchError where they are not as told here.

    A JSON list, JSON lines, or a parquet table; each row with `score`, larger is better; `measured_on`, the part of the
    data that it was measured on ('train', 'val' or 'test'); and the architecture: `genes`, as `result.json` has them,
    or the choice of every variable of the space by its name.
    """
    rows = [_label(space, path, number, row) for number, row in enumerate(_records(path), start=1)]
    parts = {part for _, _, part in rows}
    if len(parts) != 1:
        raise SearchError(f"{path}: scores of one kind are needed, not {' and '.join(sorted(parts)) or 'none at all'}")
    if count is not None:
        rows = Random(f"labels {seed}").sample(rows, min(count, len(rows)))
    return Labels([(arch, score) for arch, score, _ in rows], *parts)


def _records(path: Path) -> list[Any]:
    if not path.is_file():
        raise SearchError(f"there is no file {path} of labels")
    if path.suffix == ".parquet":
        return rows_of(path)
    try:
        text = path.read_text()
        found = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines() if line]
    except (OSError, ValueError) as error:
        raise SearchError(
            f"{path} cannot be read as {path.suffix[1:]}: {' '.join(str(error).split())[:160]}"
        ) from error
    if not isinstance(found, list):
        raise SearchError(f"{path} holds no list of labels but a {type(found).__name__}; give a list of objects")
    return found


def _label(space: SearchSpace, path: Path, number: int, row: Any) -> tuple[Arch, float, str]:
    """Architecture, truth, and what the truth was measured on."""
    where = f"{path}, row {number}"
    if not isinstance(row, Mapping):
        raise SearchError(f"{where} is no object but a {type(row).__name__}")
    score, part = row.get(SCORE), row.get(MEASURED_ON)
    if isinstance(score, bool) or not isinstance(score, int | float) or score != score:
        raise SearchError(f"{where} has no number as {SCORE!r} but {score!r}")
    if part not in PARTS:
        raise SearchError(
            f"{where} says {part!r} of what its score was {MEASURED_ON!r}; say {', '.join(PARTS)}: no search takes "
            "scores that were measured on test data"
        )
    try:
        if row.get(GENES) is not None:
            return space.arch([int(gene) for gene in row[GENES]]), float(score), part
        return space.named(**{v.name: row[v.name] for v in space.variables}), float(score), part
    except KeyError as missing:
        raise SearchError(f"{where} has neither {GENES!r} nor the variable {missing}") from None
    except (SearchError, TypeError, ValueError) as error:
        raise SearchError(f"{where}: {error}") from error
