"""History: every result of a run in the order of asking, appended to a file as it comes; what a run resumes from."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from eval.evaluator import Cost, Result
from ghn.files import write
from search.errors import SearchError
from search.space import SearchSpace

SYNC = 1.0  # seconds between waits for the disk, which take longer than looking a score up


class History:
    """Results of one run. header: what was searched and how; a file goes on only under the same header.

    The file is JSON, a line for the header and a line per result. A last line that a kill cut off is dropped.
    """

    def __init__(self, results: list[Result], file: Any = None) -> None:
        self.results = results
        self._file, self._synced = file, 0.0

    @classmethod
    def in_memory(cls) -> Self:
        return cls([])

    @classmethod
    def open(cls, path: Path, header: Mapping[str, Any], space: SearchSpace) -> Self:
        """The history in this file, begun with this header where there is none. Raises SearchError where it is of
        another run or damaged."""
        text = json.dumps(header, sort_keys=True)
        if not path.exists():
            write(path, f"{text}\n".encode())
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.decode().splitlines()
        _check_header(path, lines[0] if lines else "", header)
        results = [_read(path, number, line, space) for number, line in enumerate(lines[1:], start=2)]
        file = path.open("r+b")
        file.truncate(len(whole))
        file.seek(0, os.SEEK_END)
        return cls(results, file)

    def append(self, result: Result) -> None:
        """Adds a result; when this returns, no kill of the process takes it away again."""
        self.results.append(result)
        if self._file is not None:
            self._file.write((json.dumps(to_record(result)) + "\n").encode())
            self._file.flush()
            if time.monotonic() - self._synced > SYNC:
                self._sync()

    def close(self) -> None:
        if self._file is not None:
            self._sync()
            self._file.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def to_record(result: Result) -> dict[str, Any]:
    """JSON-ready; `from_record` gives the result back."""
    cost = result.cost
    return {
        "genes": list(result.arch.genes),
        "metrics": dict(result.metrics),
        "error": result.error,
        "evaluations": cost.evaluations,
        "images": cost.images,
        "evaluator": result.evaluator,
        "seed": result.seed,
        "seconds": cost.seconds,
    }


def from_record(record: Mapping[str, Any], space: SearchSpace) -> Result:
    """The result that `to_record` wrote. KeyError, TypeError or SearchError where it is none."""
    cost = Cost(record["evaluations"], record["images"], record["seconds"])
    arch = space.arch(record["genes"])
    return Result(arch, record["metrics"], cost, record["evaluator"], record["seed"], record["error"])


def _check_header(path: Path, line: str, header: Mapping[str, Any]) -> None:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise SearchError(f"{path} is no history of a search; give another folder") from error
    wanted = json.loads(json.dumps(header))
    if found != wanted:
        raise SearchError(
            f"{path} belongs to another run ({changes(found, wanted)}); give another folder, or the same settings"
        )


def changes(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What differs, in words."""
    keys = [k for k in {**wanted, **found} if found.get(k) != wanted.get(k)]
    return "; ".join(f"{k}: {_short(found.get(k))} there, {_short(wanted.get(k))} now" for k in keys)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _read(path: Path, number: int, line: str, space: SearchSpace) -> Result:
    try:
        return from_record(json.loads(line), space)
    except (KeyError, TypeError, ValueError) as error:
        raise SearchError(f"{path}, line {number} is damaged ({error}); cut the file off before it") from error
