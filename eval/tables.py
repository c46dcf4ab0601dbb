"""Tables of benchmark results in parquet files: where they are, what is in them, which data each column has seen."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ghn.adapters import MissingExtraError
from ghn.errors import DataError

ENV = "GHN_TABLES"
NOTHING = "nothing"  # what a column has seen that no image decided: a latency, a number of parameters
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """One file. read: the columns that name an architecture. genes: of a row with these; None: not of this space.

    columns: name of a metric -> the part of the data that decided it: 'val', 'test', or NOTHING. source: whose results
    they are. Rows of the same architecture are averaged.
    """

    file: str
    source: str
    read: tuple[str, ...]
    genes: Callable[[Row], tuple[int, ...] | None]
    columns: Mapping[str, str]


def load(table: Table, metric: str, folder: str | Path | None = None) -> dict[tuple[int, ...], float]:
    """Genes -> value of this metric. folder: where the file is, or $GHN_TABLES. Raises DataError."""
    path = _find(table, folder)
    sums: dict[tuple[int, ...], list[float]] = {}
    for row in rows_of(path, (*table.read, metric)):
        genes, value = table.genes(row), row[metric]
        if genes is not None and value is not None:
            sums.setdefault(genes, []).append(float(value))
    if not sums:
        raise DataError(f"{path} has no rows of this space; it should hold {table.source}")
    return {genes: sum(values) / len(values) for genes, values in sums.items()}


def _find(table: Table, folder: str | Path | None) -> Path:
    given = folder or os.environ.get(ENV)
    how = f"Give its folder with --tables or in the environment variable {ENV}."
    if not given:
        raise DataError(f"the table {table.file} is needed ({table.source}) and no folder was named. {how}")
    path = Path(given).expanduser() / table.file
    if not path.is_file():
        raise DataError(f"there is no {table.file} in {path.parent} ({table.source}). {how}")
    return path


def rows_of(path: Path, columns: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
    """The rows of a parquet file, with these columns or all. Raises DataError where it cannot be read as that."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingExtraError(f"pyarrow cannot be imported ({error}); run `pip install pyarrow`") from error
    try:
        return parquet.read_table(path, columns=columns and list(columns), use_threads=False).to_pylist()
    except (OSError, ArrowException, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        wanted = f" with the columns {', '.join(columns)}" if columns else ""
        raise DataError(f"{path} cannot be read as a table{wanted}: {reason}") from error
