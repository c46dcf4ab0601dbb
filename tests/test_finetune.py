"""Fine-tuning: few shots are few and never test images, starts are paired, a kill changes nothing; the command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from search_cases import IMAGES, needs_images
from torch import nn
from training import write_pictures

from eval.finetune import Curve, Parts, Start, Subject, finetune, marks, tune
from eval.finetune_report import summary
from ghn.cli import main
from ghn.errors import DataError, TrainingError
from ghn.hyper import Hypernet
from ghn.model import GHN, GHNConfig
from train.data import CLASSES, Images, load, load_sample
from train.sgd import Schedule

pytestmark = pytest.mark.usefixtures("one_thread")
SCHEDULE = Schedule(steps=6, batch=10, lr=0.05)


def part(first: int, count: int = 30) -> Images:
    return load_sample().take(torch.arange(first, 1000, 1000 // count)[:count]).resized(8)


@pytest.fixture(scope="module")
def parts() -> Parts:
    return Parts(part(0), part(1), part(2))


def build() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(model, nn.Linear(8, 10))


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.of("small", build)


def hyper() -> Hypernet:
    torch.manual_seed(0)
    return Hypernet(GHN(GHNConfig(hid=8, max_shape=(8, 8, 3, 3))), {}, 8, CLASSES)


@needs_images
def test_few_shots_are_the_first_of_each_class_and_never_test_images() -> None:
    parts = Parts.load(IMAGES, shots=7, side=8, val=20, test=30)
    whole = load("train", IMAGES)
    assert torch.bincount(parts.train.labels).tolist() == [7] * 10
    assert torch.bincount(parts.val.labels).tolist() == [2] * 10
    assert torch.bincount(parts.shown.labels).tolist() == [3] * 10
    for label in range(10):
        first = whole.take(torch.nonzero(whole.labels == label).flatten()[:7]).resized(8)
        mine = parts.train.take(torch.nonzero(parts.train.labels == label).flatten())
        assert torch.equal(mine.pixels_at(torch.arange(7)), first.pixels_at(torch.arange(7)))
    rows = [{p.numpy().tobytes() for p in load(name, IMAGES).pixels_at(torch.arange(2000))} for name in ("val", "test")]
    full = Parts.load(IMAGES, shots=7, val=20, test=30, augmentation="mirror")
    assert (full.train.augmentation, parts.train.augmentation) == ("mirror", "cifar")
    shown = {p.numpy().tobytes() for p in full.train.pixels_at(torch.arange(70))}
    assert not shown & rows[0]
    assert not shown & rows[1]
    with pytest.raises(DataError, match="there are"):
        Parts.load(IMAGES, shots=4000)


def test_the_packaged_test_images_are_no_training_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GHN_DATA", raising=False)
    with pytest.raises(DataError, match="a full image set is needed"):
        Parts.load(None, shots=1)


def test_marks() -> None:
    assert marks(60) == (0, 1, 2, 5, 10, 20, 50, 60)
    assert marks(1) == (0, 1)


def test_the_rate_is_chosen_by_validation_and_seeds_are_paired(subject: Subject, parts: Parts) -> None:
    starts = [Start("kaiming"), Start("predicted", hyper())]
    found = finetune(subject, starts, parts, SCHEDULE, rates=(1e-6, 0.05), seeds=(0, 1))
    assert [(c.init, c.seed) for c in found.curves] == [(i, s) for i in ("kaiming", "predicted") for s in (0, 1)]
    for start in starts:
        mine = [c for c in found.tried if c.init == start.name]
        assert found.rates[start.name] == max(mine, key=lambda c: (c.val, -c.lr)).lr
        first = next(c for c in found.curves if c.init == start.name and c.seed == 0)
        assert first in mine  # the run of the choice is not done again
    other = replace(parts, shown=part(5))
    again = finetune(subject, starts, other, SCHEDULE, rates=(1e-6, 0.05), seeds=(0, 1))
    assert again.rates == found.rates  # other test images have no say
    rows = summary(found)["summary"]
    gains = [b.accuracy[-1] - a.accuracy[-1] for a, b in zip(found.curves[:2], found.curves[2:], strict=True)]
    assert rows["predicted"]["gain"][-1] == pytest.approx(sum(gains) / 2, abs=1e-4)
    assert rows["kaiming"]["gain"] == [0.0] * len(rows["kaiming"]["steps"])


def test_a_kill_changes_nothing_and_what_is_done_is_kept(
    subject: Subject, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.sgd.EVERY", 0.0)
    start = Start("predicted", hyper())

    def run(folder: Path | None, fatal: int) -> Curve:
        def die(curve: Curve, step: int) -> None:
            if step == fatal:
                raise KeyboardInterrupt

        return tune(subject, start, parts, SCHEDULE, 1, folder=folder, progress=die)

    wanted = run(None, 0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 4)
    assert [p.suffix for p in tmp_path.iterdir()] == [".state"]
    assert run(tmp_path, 0) == wanted
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]
    assert run(tmp_path, 1) == wanted  # no step is done again
    model = build()
    model.load_state_dict(load_file(tmp_path / f"{wanted.name}.safetensors"))
    mirrored = replace(parts, train=parts.train.augmented("mirror"))
    for other, schedule in ((parts, replace(SCHEDULE, steps=7)), (mirrored, SCHEDULE)):
        with pytest.raises(DataError, match="of another run"):
            tune(subject, start, other, schedule, 1, folder=tmp_path)
    (tmp_path / f"{wanted.name}.json").write_text("[]")
    with pytest.raises(DataError, match="delete it"):
        run(tmp_path, 0)


def test_what_diverges_at_one_rate_takes_another(subject: Subject, parts: Parts) -> None:
    schedule = replace(SCHEDULE, clip=None)
    found = finetune(subject, [Start("own")], parts, schedule, rates=(1e30, 0.05), seeds=(0,))
    assert found.rates == {"own": 0.05}
    assert "lower lr" in str(found.tried[0].error)
    with pytest.raises(TrainingError, match="at every rate tried"):
        finetune(subject, [Start("own")], parts, schedule, rates=(1e30,), seeds=(0,))


def test_a_module_that_is_always_the_same_begins_anew(parts: Parts) -> None:
    one = build()
    subject = Subject.of("shared", lambda: one)
    curves = [tune(subject, Start("own"), parts, SCHEDULE, seed) for seed in (0, 0)]
    assert curves[0] == curves[1]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A set of a few real pictures for seven classes, in folders."""
    return write_pictures(tmp_path / "set", classes=7, each=4)


def test_the_command(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On pictures of seven classes, where a GHN of ten predicts all but the classifier; then again, from a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), "
        "nn.Linear(8, num_classes))\n"
    )
    words = ["finetune", "nets.py:net", "--data", str(pictures), "--out", "out", "--shots", "3", "--steps", "4"]
    words += ["--batch", "7", "--rates", "0.01", "0.1", "--seeds", "2", "--image-size", "16", "--inits"]
    assert main([*words, "kaiming", "predicted", "predicted-orth"]) == 0
    assert "predicted-orth" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "curves.json").read_text())
    assert (record["images"], record["test_images"], len(record["classes"])) == (21, 28, 7)
    assert {c["init"] for c in record["curves"]} == {"kaiming", "predicted", "predicted-orth"}
    assert record["summary"]["kaiming"]["steps"] == [0, 1, 2, 4]
    assert (tmp_path / "out" / "report.html").read_text().count("<svg") == 1
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "training").iterdir()}
    assert main([*words, "kaiming", "predicted", "predicted-orth"]) == 0
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "training").iterdir()}
    weights = next(p for p in before if p.suffix == ".safetensors")
    assert main([*("two" if w == "out" else w for w in words), str(weights)]) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--inits", "magic"], "no initialisation 'magic'; there are own"),
        (["--inits", "own", "own"], "names own twice"),
        (["--epochs", "2", "--steps", "3"], "give one"),
        (["--rates", "0"], "'0' is not a number above 0"),
        (["--shots", "5"], "there are 4"),
        (["--data", "nowhere"], "no images in nowhere"),
        (["--device", "cuda:99"], "no device 'cuda:99' here"),
        (["--augmentation", "none"], "invalid choice: 'none'"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str], says: str, tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["finetune", "deepnets/test/0", "--inits", "own", "--data", str(pictures), "--out", str(tmp_path / "out")]
    assert main([*given, *words]) == 2
    said = capsys.readouterr().err.strip()
    assert says in said
    assert "Traceback" not in said


def test_names_told_without_imports_are_the_tables() -> None:
    from eval.finetune_cli import INITS
    from ghn.inits import INITS as KNOWN

    assert set(INITS) == set(KNOWN)
