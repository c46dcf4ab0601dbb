"""`ghn search` and `ghn rank` from the command line: what they write, tell, refuse, and workers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from search_cases import TABLES, needs_tables

from eval.rank import kendall
from eval.tabular import Tabular
from ghn.cli import main
from search.evaluators import Resources
from search.labels import from_table
from search.options import drawn
from search.spaces import make_space
from train.data import load_sample

pytestmark = [needs_tables, pytest.mark.usefixtures("one_thread")]
ON = ["--space", "nasbench201", "--tables", str(TABLES)]
VALID = ["search", *ON, "--evaluator", "tabular:cifar10_valid_12"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A set of a few real pictures a class, in folders."""
    import torch
    from PIL import Image

    sample = load_sample()
    for label, name in enumerate(sample.classes):
        for part in ("train", "val", "test"):
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for i in torch.nonzero(sample.labels == label).flatten()[:3].tolist():
                picture = Image.fromarray(sample.pixels[i].permute(1, 2, 0).numpy())
                picture.save(tmp_path / "set" / part / name / f"{i}.png")
    return tmp_path / "set"


def test_a_search_leaves_a_report_a_history_and_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*VALID, "--strategy", "evolution", "--set", "population=20", "--set", "sample=5", "--budget", "60"]
    words += ["--truth", "cifar10_test_200", "--certify", "60", "--out", str(tmp_path)]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "top tenth" in said.out
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["spent"]["evaluations"] == 60
    assert (result["oracle"], result["certificate"]["n"]) == (False, 60)
    assert 80 < result["best"][0]["truth"] < 95
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") >= 2  # the trajectory, the winner's cell
    assert "|nor_conv" in page or "|skip" in page
    assert sorted(p.name for p in (tmp_path / "winner").iterdir()) == [
        "arch.json",
        "network.py",
        "weights.safetensors",
    ]
    before = (tmp_path / "history.jsonl").read_bytes()
    assert main(words) == 0  # everything is there already
    assert (tmp_path / "history.jsonl").read_bytes() == before
    assert "going on after" in capsys.readouterr().err
    assert main([*words, "--seed", "1"]) == 2
    assert "belongs to another run" in capsys.readouterr().err


def test_rank_puts_evaluators_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    specs = ["tabular:params_m_c10_formula", "tabular:cifar10_valid_12", "tabular:one_shot_acc"]
    words = ["rank", *ON, "--evaluators", *specs, "--truth", "cifar10_test_200", "--n", "300", "--seeds", "2"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("tau 0.") == 3
    found = json.loads((tmp_path / "certificates.json").read_text())
    assert list(found) == specs
    assert all(0.3 < c["tau"]["value"] < 0.75 for c in found.values())
    assert found[specs[1]]["variants"]["seed 1"][1] == 1.0  # a table does not mind the seed
    assert set(found[specs[0]]["bias"]) == {"params", "depth", "paths", "skips"}
    assert (tmp_path / "certificates.html").read_text().count("<svg") == 3


def test_a_ranker_learns_from_the_table_and_is_certified_on_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels are of 12 epochs on validation images, and better than what they are made of."""
    spec = "learned:cifar10_valid_12:80:genes"
    words = ["rank", *ON, "--evaluators", spec, "tabular:cifar10_valid_12", "--truth", "cifar10_test_200"]
    assert main([*words, "--n", "400", "--out", str(tmp_path / "rank")]) == 0
    found = json.loads((tmp_path / "rank" / "certificates.json").read_text())
    assert found[spec]["n"] == 400
    assert found[spec]["tau"]["value"] > 0.45
    space = make_space("nasbench201")
    genes = [genes for genes, _ in _labels(80)]
    told = {space.arch(g).key for g in genes}
    assert Resources(space, str(TABLES)).make(spec).told == told
    assert {a.genes for a in drawn(space, [*genes, (3, 3, 3, 3, 3, 3)], 50, 0, told)} == {(3, 3, 3, 3, 3, 3)}

    words = ["search", *ON, "--strategy", "evolution", "--evaluator", spec, "--budget", "40", "--checkpoint", "none"]
    words += ["--truth", "cifar10_test_200", "--certify", "100", "--set", "population=10", "--set", "sample=3"]
    assert main([*words, "--out", str(tmp_path / "search")]) == 0
    result = json.loads((tmp_path / "search" / "result.json").read_text())
    assert (result["certificate"]["metric"], result["certificate"]["n"]) == ("rank_score", 100)
    assert result["best"][0]["truth"] > 91
    said = capsys.readouterr().err
    assert ("may rank no better than chance" in said) == (not result["certificate"]["tau_top"]["low"] > 0)


def test_a_ranker_and_size_rank_better_together() -> None:
    resources = Resources(space := make_space("nasbench201"), str(TABLES))
    ranker, size = "learned:cifar10_valid_12:80:genes,params", "params.params"
    both = resources.make(f"blend:{size},{ranker}")
    alone = [resources.make(spec) for spec in (ranker, size)]
    assert both.told == alone[0].told
    truth = Tabular(space.tables, str(space.truth), str(TABLES)).values
    archs = drawn(space, list(truth), 300, 0, both.told)
    taus = [
        kendall(
            np.array([r.metrics.get(e.metrics[0], -np.inf) for r in e.evaluate(archs)]),
            np.array([truth[a.genes] for a in archs]),
        )
        for e in (both, *alone)
    ]
    assert taus[0] > max(taus[1:])


def test_predicted_weights_of_small_networks_rank_large_ones(tmp_path: Path, pictures: Path) -> None:
    """The certificate is of the scores that the search saw; the winner is exported in its own size."""
    words = ["search", *ON, "--strategy", "random", "--evaluator", "predicted", "--proxy", "cells=1", "--budget", "4"]
    words += ["--data", str(pictures), "--images", "20", "--image-size", "16", "--truth", "cifar10_test_200"]
    assert main([*words, "--certify", "20", "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["certificate"]["metric"], result["certificate"]["n"]) == ("accuracy", 20)
    assert result["spent"]["images"] == 80
    weights = (tmp_path / "run" / "winner" / "weights.safetensors").read_bytes()
    assert b'"cells.11.conv_a' in weights, "five cells a stage: the second reduction is the twelfth"


def _labels(count: int) -> list[tuple[tuple[int, ...], float]]:
    """Genes and 12-epoch accuracy of the cells that `learned` draws with seed 0."""
    found = from_table(make_space("nasbench201"), "cifar10_valid_12", count, str(TABLES), 0)
    return [(arch.genes, score) for arch, score in found.rows]


def test_a_search_goes_by_labels_of_the_users_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"genes": list(genes), "score": score, "measured_on": "val"} for genes, score in _labels(40)]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    words = ["search", *ON, "--strategy", "random", "--budget", "20", "--checkpoint", "none"]
    words += ["--evaluator", f"learned:{tmp_path}/mine.json::genes,params", "--workers", "1"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["spent"]["evaluations"] == 20
    (tmp_path / "mine.json").write_text(json.dumps([{**row, "measured_on": "test"} for row in rows]))
    assert main([*words, "--out", str(tmp_path / "other")]) == 2
    assert "measured on test data" in capsys.readouterr().err


def test_images_decide_where_they_are_asked_for(tmp_path: Path, pictures: Path) -> None:
    """Predicted weights and a zero-cost score, searched together, each on pictures of the validation part."""
    words = ["search", "--space", "deepnets", "--strategy", "nsga2", "--set", "population=3"]
    words += ["--evaluator", "predicted+params", "--maximise", "accuracy", "--minimise", "params", "--budget", "6"]
    words += ["--data", str(pictures), "--images", "20", "--image-size", "16", "--limit", "params=2e6"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[1:]]
    assert all(row["error"] or set(row["metrics"]) == {"accuracy", "loss", "margin", "lead", "params"} for row in rows)
    assert sum(row["images"] for row in rows) >= 20
    assert json.loads((tmp_path / "run" / "result.json").read_text())["certificate"] is None


def test_what_needs_no_images_asks_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GHN_DATA", raising=False)
    words = ["search", "--space", "deepnets", "--strategy", "nsga2", "--evaluator", "synflow+flops", "--budget", "8"]
    words += ["--maximise", "synflow", "--minimise", "flops", "--checkpoint", "none", "--out", str(tmp_path)]
    assert main(words) == 0
    assert json.loads((tmp_path / "result.json").read_text())["spent"]["images"] == 0


def test_area_begins_with_the_best_by_a_cheap_score(tmp_path: Path) -> None:
    words = [*VALID, "--strategy", "evolution", "--set", "population=8", "--set", "sample=3", "--budget", "12"]
    words += ["--warm", "tabular:params_m_c10_formula:50", "--checkpoint", "none", "--out", str(tmp_path)]
    assert main(words) == 0
    warm, rows = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()[1:]]
        for name in ("warm.jsonl", "history.jsonl")
    )
    assert len(warm) == 50
    best = sorted(warm, key=lambda row: -row["metrics"]["params_m_c10_formula"])[:8]
    assert [row["genes"] for row in rows[:8]] == [row["genes"] for row in best]


def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    words = [*VALID, "--strategy", "random", "--neighbors", "3", "--batch", "4", "--budget", "40"]
    words += ["--checkpoint", "none"]
    for name, workers in (("one", "0"), ("two", "2")):
        assert main([*words, "--workers", workers, "--out", str(tmp_path / name)]) == 0
    one, two = (json.loads((tmp_path / name / "result.json").read_text())["best"] for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--evaluator", "tabular:cifar10_test_200"], "measured on test data"),
        (["--evaluator", "nonsense"], "no evaluator 'nonsense'; there are tabular, predicted"),
        (["--evaluator", "tabular:nonsense"], "no table of this space has 'nonsense'"),
        (["--budget", "soon"], "such as 300"),
        (["--maximise", "speed"], "the objective reads speed"),
        (["--reward", "mild:a:b:3"], "give soft:METRIC"),
        (["--limit", "x=much"], "'much' is not a number"),
        (["--strategy", "local", "--warm", "params:9"], "with --strategy evolution"),
        (["--set", "nonsense=3"], "cannot be made with"),
        (["--truth", "nonsense"], "no table of this space has 'nonsense'"),
        (["--evaluator", "trained:few"], "needs a number of epochs"),
        (["--evaluator", "naswot"], "a full image set is needed"),
        (["--evaluator", "predicted:many"], "takes a number of steps"),
        (["--evaluator", "learned"], "needs labels, as learned:"),
        (["--evaluator", "learned:cifar10_valid_12:few"], "needs labels, as learned:"),
        (["--evaluator", "learned:cifar10_valid_12:9:trained"], "cannot read 'trained'; give some of genes, ghn"),
        (["--evaluator", "learned:cifar10_test_200:9:genes"], "measured on test data"),
        (["--evaluator", "learned:nonsense:9:genes"], "no table of this space has 'nonsense'"),
        (["--evaluator", "learned:cifar10_valid_12:3:genes"], "5 labelled architectures"),
        (["--evaluator", "learned:nowhere.json"], "there is no file nowhere.json of labels"),
        (["--evaluator", "blend:params"], "needs two evaluators or more, as blend:"),
        (["--evaluator", "blend:learned:cifar10_valid_12:9:genes,params"], "needs two evaluators or more, as blend:"),
        (["--evaluator", "params.speed"], "gives params, not 'speed'"),
        (["--evaluator", "blend:tabular:one_shot_acc,tabular:cifar10_test_200"], "measured on test data"),
        (["--evaluator", "params", "--proxy", "cells"], "give KEY=N, as cells=1"),
        (["--evaluator", "params", "--proxy", "depth=2"], "cannot be made with"),
        (["--tables", "nowhere"], "no nasbench201.parquet in nowhere"),
        (["--neighbors", "0"], "one neighbour or more"),
        (["--workers", "-1"], "not a whole number"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GHN_DATA", raising=False)
    monkeypatch.delenv("GHN_TABLES", raising=False)
    given = [*VALID, "--strategy", "random", "--budget", "5", "--out", str(tmp_path / "run"), *words]
    assert main(given) == 2
    said = capsys.readouterr().err.strip()
    assert says in said
    assert "Traceback" not in said
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


def test_help_teaches_without_waiting_for_torch() -> None:
    code = "import sys; from ghn.cli import main; main(['search', '--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "AREA" in done.stdout
    assert "no score ever sees test images" in done.stdout


def test_names_told_without_imports_are_the_tables() -> None:
    from eval.zerocost import SCORES
    from search.cli import STRATEGIES
    from search.evaluators import ZERO_COST
    from search.options import SPACES
    from search.spaces import SPACES as KNOWN
    from search.strategies import STRATEGIES as NAMES

    assert set(SPACES) == set(KNOWN)
    assert set(STRATEGIES) == set(NAMES)
    assert set(ZERO_COST) == set(SCORES)
