"""The driver: budgets are kept, killed runs go on to the same result, workers change nothing, tests stay unseen."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_cases import TABLES, TOTAL, Digits, Toy, needs_tables

from eval.evaluator import Arch, Cost, Evaluator, Result
from eval.tabular import Tabular
from eval.wrap import Calibrated, Cascade, Ensemble, Joined, Neighborhood, Partitioned
from ghn.cli import main
from search.budget import Budget
from search.driver import Outcome, search
from search.errors import SearchError
from search.history import History
from search.objective import Maximise, Minimise, Objective, maximise
from search.spaces import make_space
from search.strategies import make_strategy

HEADER = {"format": 1, "seed": 0}
NAMES = ("random", "evolution", "local", "nsga2")
BUDGET = Budget(40)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


class Mortal(Digits):
    """Dies at its n-th evaluation."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
        if len(self.calls) == self.at:
            raise Killed
        return super().measure(arch, seed)


def run(name: str, evaluator: Evaluator, path: Path | None = None, **options: object) -> Outcome:
    space = Toy()
    sizes = {"evolution": {"population": 8, "sample": 3}, "nsga2": {"population": 8}}
    strategy = make_strategy(name, space, TOTAL, 1, **sizes.get(name, {}))
    if path is None:
        return search(strategy, evaluator, BUDGET, **options)  # ty: ignore[invalid-argument-type]
    with History.open(path, HEADER, space) as history:
        return search(strategy, evaluator, BUDGET, history=history, **options)  # ty: ignore[invalid-argument-type]


def untimed(path: Path) -> list[dict]:
    """The lines of a history without what no two runs share."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reuse", [False, True])
def test_a_killed_run_goes_on_to_the_same_result(name: str, reuse: bool, tmp_path: Path) -> None:
    whole = run(name, Digits(), tmp_path / "whole.jsonl", batch=3, reuse=reuse)
    for at in (0, 1, 8, 20, 39):
        path = tmp_path / f"{at}.jsonl"
        evaluator = Mortal(at)
        with pytest.raises(Killed):
            run(name, evaluator, path, batch=3, reuse=reuse)
        again = Digits()
        assert run(name, again, path, batch=3, reuse=reuse) == whole
        assert untimed(path) == untimed(tmp_path / "whole.jsonl")
        assert len(again.calls) <= 40 - max(0, at - 2), "more than a batch was evaluated again"


@settings(max_examples=25)
@given(part=st.floats(0, 1), name=st.sampled_from(NAMES))
def test_a_history_cut_off_anywhere_goes_on_to_the_same_result(
    part: float, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As a kill in the middle of a write leaves it."""
    path = tmp_path_factory.mktemp("cut") / "history.jsonl"
    whole = run(name, Digits(), path, batch=4)
    content = path.read_bytes()
    header = content.index(b"\n") + 1
    path.write_bytes(content[: header + round(part * (len(content) - header))])
    assert run(name, Digits(), path, batch=4) == whole
    assert len(untimed(path)) == 41


@needs_tables
def test_a_process_that_is_killed_goes_on(tmp_path: Path) -> None:
    """kill -9 on the command itself, at whatever moment."""
    words = ["search", "--space", "nasbench201", "--strategy", "local", "--evaluator", "tabular:cifar10_valid_12"]
    words += ["--budget", "400", "--tables", str(TABLES), "--checkpoint", "none", "--out"]
    path = tmp_path / "killed" / "history.jsonl"
    code = "import sys; from ghn.cli import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen([sys.executable, "-c", code, *words, str(path.parent)], stderr=subprocess.DEVNULL) as process:
        limit = time.monotonic() + 100
        while not path.exists() or path.stat().st_size < 10_000:
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < limit
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    written = len(path.read_text().splitlines())
    assert main([*words, str(path.parent)]) == main([*words, str(tmp_path / "whole")]) == 0
    assert untimed(path) == untimed(tmp_path / "whole" / "history.jsonl")
    assert 10 < written < len(untimed(path))
    results = [json.loads((tmp_path / f / "result.json").read_text()) for f in ("killed", "whole")]
    assert results[0]["best"] == results[1]["best"]


def test_histories_of_other_runs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    run("random", Digits(), path)
    with pytest.raises(SearchError, match=r"another run \(seed: 0 there, 1 now\)"):
        History.open(path, {"format": 1, "seed": 1}, Toy())
    with pytest.raises(SearchError, match="strategy now asks for"):
        run("local", Digits(), path)
    path.write_text(path.read_text().replace('"genes": [', '"genes": [9, ', 1))
    with pytest.raises(SearchError, match="line 2 is damaged"):
        History.open(path, HEADER, Toy())
    path.write_text("no JSON\n")
    with pytest.raises(SearchError, match="no history of a search"):
        History.open(path, HEADER, Toy())


@pytest.mark.parametrize("name", NAMES)
def test_workers_change_nothing(name: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        assert run(name, Digits(), batch=4, executor=pool) == run(name, Digits(), batch=4)
        assert run(name, Digits(), batch=4, executor=pool, reuse=True) == run(name, Digits(), batch=4, reuse=True)


def test_what_is_the_same_network_is_paid_for_once() -> None:
    evaluator = Digits()
    outcome = run("evolution", evaluator, batch=5, reuse=True)
    keys = [Toy().arch(genes).key for genes in evaluator.calls]
    assert len(keys) == len(set(keys)) == outcome.spent.evaluations <= 40
    assert len(outcome.results) > outcome.spent.evaluations
    first = {r.arch.key: r for r in reversed(outcome.results)}
    assert all(r.metrics == first[r.arch.key].metrics for r in outcome.results)


def test_a_search_ends_when_there_is_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.driver.FREE", 30)
    strategy = make_strategy("evolution", Toy(), TOTAL, 0, population=2, sample=1)
    assert search(strategy, Digits(), Budget(100_000), reuse=True).spent.evaluations <= 4**5


# Budgets.


def test_budgets_are_read() -> None:
    assert Budget.parse("300") == Budget(300)
    assert Budget.parse("1.5m, 20") == Budget(20, None, 90.0)
    assert Budget.parse("2h") == Budget(seconds=7200.0)
    assert Budget.parse("500images") == Budget(images=500)
    for text in ("", "x", "-3", "0", "3 days"):
        with pytest.raises(SearchError, match="such as 300"):
            Budget.parse(text)


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 5))
def test_evaluations_never_exceed_the_budget(limit: int, batch: int, neighbours: int) -> None:
    """Also where each costs several: neighbours are charged."""
    evaluator = Digits()
    wrapped = Neighborhood(evaluator, Toy(), neighbours)
    outcome = search(make_strategy("random", Toy(), TOTAL), wrapped, Budget(limit), batch=batch)
    assert outcome.spent.evaluations == len(evaluator.calls) <= limit
    assert outcome.spent.evaluations > limit - (neighbours + 1)
    assert outcome.spent.images == 10 * sum(genes[-1] != 3 for genes in evaluator.calls)


def test_images_and_seconds_stop_a_search() -> None:
    outcome = search(make_strategy("random", Toy(), TOTAL), Digits(), Budget(images=100))
    assert 100 <= outcome.spent.images < 110
    outcome = search(make_strategy("random", Toy(), TOTAL), Digits(), Budget(seconds=1e-9))
    assert len(outcome.results) == 1


def test_the_outcome_is_the_front() -> None:
    objective = Objective((Maximise("total"), Minimise("largest")))
    outcome = search(make_strategy("random", Toy(), objective), Digits(), Budget(200))
    points = {objective.values(r) for r in outcome.best}
    everything = [v for r in outcome.results if (v := objective.values(r)) is not None]
    for v in everything:
        beaten = any(w != v and all(a >= b for a, b in zip(w, v, strict=True)) for w in everything)
        assert (v in points) == (not beaten)
    assert len({r.arch.genes for r in outcome.best}) == len(outcome.best)


def test_an_objective_without_its_metric_is_refused() -> None:
    with pytest.raises(SearchError, match="the evaluator gives total, largest"):
        search(make_strategy("random", Toy(), maximise("speed")), Digits(), Budget(1))


# Split hygiene.


class Seen(Digits):
    """Says that test data had a say in its scores."""

    sees = frozenset({"test"})


def wrapped_in_everything(inner: Evaluator) -> list[Evaluator]:
    space, clean = Toy(), Digits()
    return [
        inner,
        Ensemble([clean, inner]),
        Neighborhood(inner, space, 2),
        Partitioned({"a": clean, "b": inner}, lambda arch: "a"),
        Cascade(clean, inner, "total", 3.0),
        Cascade(inner, clean, "total", 3.0),
        Calibrated(inner, "total", [(0.0, 1.0)], "val"),
        Calibrated(clean, "total", [(0.0, 1.0)], "test"),
        Joined([_Other(), Joined([inner])]),
    ]


class _Other(Digits):
    metrics = ("other",)

    def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
        return {"other": 1.0}, 0


def test_no_wrapping_hides_that_test_data_was_seen() -> None:
    for evaluator in wrapped_in_everything(Seen()):
        strategy = make_strategy("random", Toy(), maximise("total"))
        with pytest.raises(SearchError, match="test data"):
            search(strategy, evaluator, Budget(5))
        assert search(strategy, evaluator, Budget(20), oracle=True).oracle


@needs_tables
def test_search_never_reads_a_test_column(tmp_path: Path) -> None:
    """With every test column of the table shuffled, a search finds the same, and its report tells other truths."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import numpy as np

    space = make_space("nasbench201")
    name = space.tables[0].file
    table = parquet.read_table(TABLES / name)
    order = np.random.default_rng(0).permutation(len(table))
    for i, column in enumerate(table.column_names):
        if "test" in column:
            table = table.set_column(i, column, table.column(column).take(order))
    parquet.write_table(table, tmp_path / name)
    found: list[tuple[Result, ...]] = []
    for folder in (TABLES, tmp_path):
        evaluator = Tabular(space.tables, "cifar10_valid_12", folder)
        strategy = make_strategy("evolution", space, maximise("cifar10_valid_12"))
        found.append(search(strategy, evaluator, Budget(150)).results)
    assert found[0] == found[1]
    truths = [Tabular(space.tables, "cifar10_test_200", folder).values for folder in (TABLES, tmp_path)]
    assert truths[0] != truths[1]
    with pytest.raises(SearchError, match="test data"):
        search(strategy, Tabular(space.tables, "cifar10_test_200", TABLES), Budget(5))


@needs_tables
def test_every_column_says_what_it_has_seen() -> None:
    for name in ("nasbench201", "macro", "mnasnet", "darts"):
        for table in make_space(name).tables:
            for column, part in table.columns.items():
                assert ("test" in column) == (part == "test"), column
                assert part in ("test", "val", "train", "nothing")


def test_costs_add_up() -> None:
    assert Cost(1, 2, 3.0) + Cost(4, 5, 6.0) == Cost(5, 7)
    assert (Cost(1, 2, 3.0) + Cost(4, 5, 6.0)).seconds == 9.0
