"""Labels for evaluators that learn: what is read from files, and what is said about those that cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest
from search_cases import Toy

from ghn.errors import GHNError
from search.labels import from_file

ROWS = [
    {"genes": [1, 2, 3, 0, 1], "score": 0.5, "measured_on": "val"},
    {**{f"digit_{i}": gene for i, gene in enumerate((0, 0, 1, 2, 0))}, "score": 2, "measured_on": "val"},
]
ARCHS = [(Toy().arch((1, 2, 3, 0, 1)), 0.5), (Toy().arch((0, 0, 1, 2, 0)), 2.0)]


def _write(path: Path, rows: Any) -> Path:
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows)) + "\n")
    return path


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_architectures_come_by_genes_or_by_choices(suffix: str, tmp_path: Path) -> None:
    labels = from_file(Toy(), _write(tmp_path / f"mine.{suffix}", ROWS), None, 0)
    assert (labels.rows, labels.sees) == (ARCHS, "val")


@pytest.mark.parametrize("row", [0, 1])
def test_a_table_says_the_same(row: int, tmp_path: Path) -> None:
    labels = from_file(Toy(), _write(tmp_path / "mine.parquet", ROWS[row : row + 1]), None, 0)
    assert labels.rows == ARCHS[row : row + 1]


def test_some_of_them_are_drawn_by_seed(tmp_path: Path) -> None:
    rows = [{"genes": [1, i % 4, i // 4 % 4, 0, 0], "score": i, "measured_on": "train"} for i in range(16)]
    path = _write(tmp_path / "mine.json", rows)
    one, again, other = (from_file(Toy(), path, 6, seed) for seed in (0, 0, 1))
    assert one == again != other
    assert len({arch.genes for arch, _ in one.rows}) == 6
    assert one.sees == "train"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({"genes": []}, "holds no list of labels but a dict"),
        ([3], "row 1 is no object"),
        ([ROWS[0], {**ROWS[0], "score": "good"}], "row 2 has no number as 'score' but 'good'"),
        ([{**ROWS[0], "score": float("nan")}], "no number as 'score'"),
        ([{"genes": [1, 2, 3, 0, 1], "score": 1}], "says None of what its score was 'measured_on'"),
        ([ROWS[0], {**ROWS[0], "measured_on": "train"}], "not train and val"),
        ([], "not none at all"),
        ([{**ROWS[0], "genes": [1, 2]}], "row 1: toy has 5 variables, 2 genes were given"),
        ([{**ROWS[0], "genes": "abc"}], "row 1: invalid literal"),
        ([{**ROWS[0], "genes": 7}], "row 1: "),
        ([{**ROWS[1], "digit_2": 9}], "digit_2 is one of 0, 1, 2, 3, not 9"),
        ([{"score": 1, "measured_on": "val", "digit_0": 1}], "has neither 'genes' nor the variable 'digit_1'"),
    ],
)
def test_what_is_wrong_is_named(rows: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(GHNError, match=says):
        from_file(Toy(), _write(tmp_path / "mine.json", rows), None, 0)


def test_files_that_are_none(tmp_path: Path) -> None:
    for suffix in ("json", "jsonl", "parquet"):
        (tmp_path / f"mine.{suffix}").write_bytes(b"\xff\x00 {")
        with pytest.raises(GHNError, match="cannot be read"):
            from_file(Toy(), tmp_path / f"mine.{suffix}", None, 0)
    with pytest.raises(GHNError, match="there is no file"):
        from_file(Toy(), tmp_path / "none.json", None, 0)
