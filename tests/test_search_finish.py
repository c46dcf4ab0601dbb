"""The best few of a search, trained: chosen by validation images, resumable, and what is left is what was trained."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training import write_pictures

from eval.evaluator import Cost, Result
from eval.finetune import Parts, Start
from eval.score import score
from ghn.adapters.zoo import resolve
from ghn.cli import main
from ghn.hyper import Hypernet
from ghn.model import GHN, GHNConfig
from search.finish import finalists, finish, trained
from search.objective import Limit, Maximise, Objective
from search.spaces.nasbench201 import Nasbench201
from train.data import CLASSES, load_sample
from train.sgd import Schedule

pytestmark = pytest.mark.usefixtures("one_thread")
SPACE = Nasbench201(cells=1, channels=4)
OBJECTIVE = Objective((Maximise("x"),), (Limit("size", 5.0),))


def result(genes: tuple[int, ...], x: float, size: float = 1.0, error: str | None = None) -> Result:
    return Result(SPACE.arch(genes), {} if error else {"x": x, "size": size}, Cost(1), "e", 0, error)


def test_finalists_are_the_best_within_the_limit_each_network_once() -> None:
    one, same = (3, 0, 0, 0, 0, 3), (3, 0, 0, 1, 0, 3)
    rows = [result(one, 1.0), result((3, 1, 2, 4, 3, 0), 3.0), result((2, 2, 0, 1, 3, 4), 9.0, size=6.0)]
    rows += [result((0, 0, 0, 3, 0, 0), 3.0), result((1, 3, 0, 3, 0, 3), 0.0, error="no"), result(one, 2.0)]
    found = finalists(rows, OBJECTIVE, 3)
    assert [(r.arch.genes, r.metrics["x"]) for r in found] == [
        ((3, 1, 2, 4, 3, 0), 3.0),
        ((0, 0, 0, 3, 0, 0), 3.0),
        (one, 1.0),
    ]
    assert (SPACE.arch(one).key == SPACE.arch(same).key) == (
        len(finalists([rows[0], result(same, 5.0)], OBJECTIVE, 9)) == 1
    )


def test_the_first_is_what_validation_images_prefer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    hyper = Hypernet(GHN(GHNConfig(hid=8, max_shape=(8, 8, 3, 3))), {}, 8, CLASSES)
    images = [load_sample().take(torch.arange(i, 1000, 25)).resized(8) for i in range(2)]
    parts = Parts(images[0], images[1], images[1])
    chosen = [result((3, 1, 2, 4, 3, 0), 3.0), result((0, 0, 0, 3, 0, 0), 2.0)]
    start, schedule = Start("predicted", hyper), Schedule(steps=4, batch=20, lr=0.05)
    found = finish(SPACE, chosen, start, parts, schedule, folder=tmp_path)
    assert {f.result.arch for f in found} == {r.arch for r in chosen}
    assert found[0].curve.val >= found[1].curve.val
    assert finish(SPACE, chosen, start, parts, schedule) == found
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.*")}
    assert finish(SPACE, chosen, start, parts, schedule, folder=tmp_path) == found
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.*")} == before
    last = finish(SPACE, [result((1, 3, 0, 0, 0, 0), 9.0), chosen[0]], start, parts, schedule, folder=tmp_path)
    assert last[0].result == chosen[0]
    assert last[1].curve.error is not None  # cut off from its input
    model = trained(SPACE, found[0], 8, tmp_path)
    assert score(model, parts.val).accuracy == found[0].curve.val


def test_the_command_leaves_the_winner_as_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path / "set", classes=10, each=3)
    words = ["search", "--space", "nasbench201", "--strategy", "random", "--evaluator", "params", "--minimise"]
    words += ["params", "--budget", "6"]
    words += ["--finish", "2", "--finish-steps", "2", "--image-size", "8"]
    words += ["--data", str(tmp_path / "set"), "--out", str(tmp_path / "run")]
    assert main(words) == 0
    assert capsys.readouterr().out.count("trained for 2 steps") == 2
    record = json.loads((tmp_path / "run" / "result.json").read_text())["finalists"]
    assert [f["curve"]["init"] for f in record] == ["predicted"] * 2
    assert "trained from predicted weights" in (tmp_path / "run" / "report.html").read_text()
    winner = tmp_path / "run" / "winner"
    assert json.loads((winner / "arch.json").read_text())["genes"] == record[0]["genes"]
    model = resolve(f"{winner / 'network.py'}:Network", 10, 8, device="cpu")
    model.load_state_dict(load_file(winner / "weights.safetensors"))
    kept = [load_file(p) for p in (tmp_path / "run" / "training").rglob("*.safetensors")]
    assert len(kept) == 2
    assert any(all(torch.equal(v, w.get(n, v + 1)) for n, v in model.state_dict().items()) for w in kept)
    assert main([*words, "--workers", "2", "--cluster", "local:2"]) == 2
    assert "give one" in capsys.readouterr().err
