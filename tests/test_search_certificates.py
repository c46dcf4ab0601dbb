"""Where a search's certificate comes from: a file, the package, its finalists; and what is said where there is none."""

import json
import math
import re
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from search_cases import IMAGES, TABLES, Toy, needs_images, needs_tables
from test_certify import certificate, results

from eval.certify import Certificate
from eval.finetune import Curve
from eval.images import SearchImages
from ghn.cli import build_parser, main
from ghn.errors import GHNError
from search.certificates import known, of_finalists, read, shipped, uncertified
from search.errors import SearchError
from search.evaluators import Resources
from search.finish import Finalist
from search.objective import maximise
from search.spaces import make_space

ON = ["--space", "nasbench201", "--checkpoint", "none"]
SEARCH = ["search", "--strategy", "random", "--budget", "5", *ON]


def test_a_certificate_comes_back_from_json() -> None:
    found = replace(certificate(0.3)[0], made={"space": "toy"}, origin="here")
    again = Certificate.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    lost = replace(found, tau=replace(found.tau, value=math.nan))
    assert math.isnan(Certificate.from_dict(lost.to_dict()).tau.value)
    for broken in ({}, {**found.to_dict(), "tau": 3}, {**found.to_dict(), "bias": {"depth": {}}}, []):
        with pytest.raises(GHNError, match="this is no certificate"):
            Certificate.from_dict(broken)  # ty: ignore[invalid-argument-type]


@needs_tables
def test_what_rank_certifies_a_search_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, out = "tabular:cifar10_valid_12", tmp_path / "rank"
    words = ["rank", *ON, "--tables", str(TABLES), "--evaluators", spec, "--truth", "cifar10_test_200", "--n", "40"]
    assert main([*words, "--out", str(out)]) == 0
    words = [*SEARCH, "--tables", str(TABLES), "--certificate", str(out)]
    assert main([*words, "--evaluator", spec, "--out", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    measured = json.loads((out / "certificates.json").read_text())[spec]
    assert result["certificate"] == {**measured, "origin": str(out)}
    assert (result["certificate"]["n"], result["not_certified"]) == (40, None)
    assert str(out) in (tmp_path / "run" / "report.html").read_text()
    capsys.readouterr()

    assert main([*words, "--evaluator", "tabular:one_shot_acc", "--out", str(tmp_path / "other")]) == 2
    said = capsys.readouterr().err
    assert "certifies other scores than one_shot_acc by tabular:one_shot_acc" in said
    assert '"tabular:cifar10_valid_12" there' in said
    assert not (tmp_path / "other" / "history.jsonl").exists(), "refused before anything is evaluated"
    macro = [w if w != "nasbench201" else "macro" for w in words]
    assert main([*macro, "--evaluator", "params", "--out", str(tmp_path / "other")]) == 2
    assert 'space: "nasbench201" there, "macro" now' in capsys.readouterr().err


@pytest.mark.parametrize(("text", "says"), [(None, "cannot read"), ("{", "holds no"), ('{"a": 1}', "holds no")])
def test_files_that_hold_none(text: str | None, says: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "certificates.json").write_text(text)
    with pytest.raises(SearchError, match=says):
        read(tmp_path)


def test_the_package_brings_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SEARCH, "--evaluator", "params", "--out", str(tmp_path / "one")]) == 0
    found = json.loads((tmp_path / "one" / "result.json").read_text())["certificate"]
    assert (found["origin"], found["n"], found["metric"]) == ("shipped with the package", 1000, "params")
    assert main([*SEARCH, "--evaluator", "params+flops", "--out", str(tmp_path / "two")]) == 0
    assert json.loads((tmp_path / "two" / "result.json").read_text())["certificate"] == found
    capsys.readouterr()
    words = [*SEARCH, "--evaluator", "params", "--minimise", "params", "--out", str(tmp_path / "three")]
    assert main(words) == 0, "as a score of which less is better it is not certified"
    assert "not certified" in capsys.readouterr().err


@needs_images
def test_what_is_shipped_is_of_the_scores_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each certificate the evaluator is made anew: GHN, images and space have the fingerprint that was measured."""
    monkeypatch.setattr(SearchImages, "load", cache(SearchImages.load))
    for c in shipped():
        made = c.made
        if ":" in made["evaluator"]:
            continue  # a blend scores 200 networks first, steps read all training images
        space, options = make_space(made["space"]), {}
        if "checkpoint" in made:
            options["checkpoint"] = made["checkpoint"]
        resources = Resources(
            space,
            data=str(IMAGES),
            images=made.get("images", 1),
            side=made.get("image_size"),
            proxy=made.get("proxy", {}),
            **options,
        )
        evaluator = resources.make(made["evaluator"])
        assert known([c], evaluator, c.metric) is c, made
        assert resources.options(made["evaluator"]) == made
        assert c.n >= 100


def test_twenty_finalists_certify_what_chose_them() -> None:
    rows = results([0.5 + i / 100 for i in range(20)])
    last = [Finalist(r, Curve("predicted", 0.1, 0, val=r.metrics["s"] / 2), ()) for r in rows]
    found = of_finalists(last, maximise("s"), 500)
    assert found
    assert (found.tau.value, found.n, found.truth) == (1, 20, "validation accuracy after 500 steps")
    assert "finalists" in found.origin
    assert of_finalists(last[1:], maximise("s"), 500) is None


def test_where_there_is_none_the_command_that_makes_one_is_told() -> None:
    space = make_space("nasbench201")
    resources = Resources(space, images=32, side=16, proxy={"cells": 1})
    said = uncertified(space, "naswot", resources.options("naswot"), ["--space", "nasbench201", "--images", "32"])
    assert "The package has a certificate of others (images: 64 there, 32 now)" in said
    (command,) = re.findall("`ghn (.*?)`", said)
    told = build_parser().parse_args(shlex.split(command))
    assert (told.evaluators, told.truth, told.images) == (["naswot"], "cifar10_test_200", 32)
    near = {**resources.options("naswot"), "neighbors": 3}
    assert "--truth cifar10_test_200 certifies" in uncertified(space, "naswot", near, [])
    assert "--finish 20" in uncertified(Toy(), "total", {"space": "toy", "evaluator": "digits"}, [])
