"""`ghn search` and `ghn rank` from the command line: what they write, tell, refuse, and workers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from search_cases import TABLES, needs_tables

from ghn.cli import main
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


def test_images_decide_where_they_are_asked_for(tmp_path: Path, pictures: Path) -> None:
    """Predicted weights and a zero-cost score, searched together, each on pictures of the validation part."""
    words = ["search", "--space", "deepnets", "--strategy", "nsga2", "--set", "population=3"]
    words += ["--evaluator", "predicted+params", "--maximise", "accuracy", "--minimise", "params", "--budget", "6"]
    words += ["--data", str(pictures), "--images", "20", "--image-size", "16", "--limit", "params=2e6"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[1:]]
    assert all(row["error"] or set(row["metrics"]) == {"accuracy", "loss", "margin", "params"} for row in rows)
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
