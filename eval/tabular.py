"""Scores looked up in a table of trained networks."""

from collections.abc import Sequence
from pathlib import Path

from eval import tables
from eval.evaluator import Arch, Evaluator, digest, fingerprint
from eval.tables import NOTHING, Table
from ghn.errors import DataError, GHNError


class Tabular(Evaluator):
    """The metric of this name in the first of the tables that has it. folder: of the files, or $GHN_TABLES.

    `sees` names the part of the data that the column was measured on, so that a search refuses test columns. Raises
    DataError where no table has the metric, or its file is missing.
    """

    def __init__(self, source: Sequence[Table], metric: str, folder: str | Path | None = None) -> None:
        table = next((t for t in source if metric in t.columns), None)
        if table is None:
            known = ", ".join(name for t in source for name in t.columns)
            raise DataError(f"no table of this space has {metric!r}; known are {known or 'none'}")
        self.values = tables.load(table, metric, folder)
        self.metrics = (metric,)
        self.sees = frozenset({table.columns[metric]}) - {NOTHING}
        content = digest(f"{genes} {value!r}" for genes, value in sorted(self.values.items()))
        self.fingerprint = fingerprint(f"tabular.{metric}", file=table.file, content=content)

    def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
        if arch.genes not in self.values:
            raise GHNError(f"the table has no row for {arch.key}")
        return {self.metrics[0]: self.values[arch.genes]}, 0
