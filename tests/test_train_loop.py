"""Runs: resumed is bit for bit uninterrupted, also after kill -9; steps that are not finite are skipped."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training import TINY, tensors, tiny, trainer

import ghn
from ghn.errors import CheckpointError, TrainingError
from ghn.family import member
from train import checkpoint, loop, runs
from train.config import Recipe
from train.data import load_sample
from train.log import Log, Row, read_rows
from train.loop import Trainer
from train.recipes import smoke
from train.recompute import recomputing
from train.step import Job

CHILD = """
import os, signal, sys
from pathlib import Path
from training import tiny, trainer
from train import runs

class Killer:
    def __init__(self, *args): pass
    def write(self, row):
        if row.step == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

runs.Progress = Killer  # the log comes before it, the step's checkpoint after it
folder = Path(sys.argv[1])
run = trainer(tiny(), folder)
folder.mkdir()
runs.run(run, folder)
"""


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Path]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run = trainer(tiny(), folder)
    runs.run(run, folder)
    return run, folder


def assert_same(run: Trainer, other: Trainer) -> None:
    found, expected = tensors(run), tensors(other)
    assert found.keys() == expected.keys()
    assert all(found[name].numpy().tobytes() == expected[name].numpy().tobytes() for name in expected)


@pytest.mark.parametrize("above", [1, None])
def test_recomputing_activations_changes_nothing(
    uninterrupted: tuple[Trainer, Path], tmp_path: Path, above: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = []
    monkeypatch.setattr("train.step.recomputing", lambda module: entered.append(module) or recomputing(module))
    run = trainer(tiny(recompute_above=above), tmp_path)
    run.run(Log())
    assert bool(entered) == (above is not None)
    assert_same(run, uninterrupted[0])


def test_a_run_learns_something_and_leaves_its_record(uninterrupted: tuple[Trainer, Path]) -> None:
    run, folder = uninterrupted
    rows = read_rows(folder / "log.csv")
    assert [int(row["step"]) for row in rows] == list(range(6))
    assert [bool(row["val_accuracy"]) for row in rows] == [False, True] * 3
    assert run.counts.steps_skipped == 0
    assert run.counts.networks_drawn == 12
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    kept = {p.name for p in (folder / "checkpoints").glob("step-*")}
    best = (folder / "checkpoints" / "best").read_text()
    assert kept == {"step-00000004", "step-00000006", best}
    shipped = ghn.load(folder / "ghn")
    assert shipped.image_size == 16
    for name, value in shipped.model.state_dict().items():
        assert torch.equal(value, run.average.state_dict()[name])
    assert any(not torch.equal(a, b) for a, b in zip(run.ghn.parameters(), run.average.parameters(), strict=True))


def test_killed_and_resumed_is_uninterrupted(uninterrupted: tuple[Trainer, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    log = folder / "log.csv"
    command = [sys.executable, "-W", "error", "-c", CHILD, str(folder), "3"]
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert len(read_rows(log)) == 4
    with log.open("a") as file:
        file.write("5,0,1.2")  # a line that the kill cut off

    run = trainer(tiny(), folder)
    run.restore(checkpoint.load(checkpoint.latest(run.checkpoints)))
    assert run.counts.step == 2
    runs.run(run, folder)
    expected, other = uninterrupted
    assert_same(run, expected)
    kept = ("step", "loss", "accuracy", "lr", "grad_norm", "val_accuracy")
    for row, twin in zip(read_rows(log), read_rows(other / "log.csv"), strict=True):
        assert [row[key] for key in kept] == [twin[key] for key in kept]


def test_every_checkpoint_leads_to_the_same_end(uninterrupted: tuple[Trainer, Path], tmp_path: Path) -> None:
    expected, folder = uninterrupted
    torch.manual_seed(999)  # what went on in the process before must not matter
    run = trainer(tiny(), tmp_path)
    run.restore(checkpoint.load(folder / "checkpoints" / "step-00000004"))
    run.run(Log())
    assert_same(run, expected)


def test_an_interrupted_run_has_its_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupts:
        def __init__(self, *args: object) -> None: ...

        def write(self, row: Row) -> None:
            if row.step == 3:
                raise KeyboardInterrupt

        def close(self) -> None: ...

    monkeypatch.setattr(runs, "Progress", Interrupts)
    run = trainer(tiny(), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        runs.run(run, tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "curves.html").exists()
    assert len(read_rows(tmp_path / "log.csv")) == 4
    assert not (tmp_path / "ghn").exists()


def test_training_leaves_torchs_generator_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    trainer(tiny(val_every=1), tmp_path).run(Log())
    assert torch.equal(before, torch.get_rng_state())


def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(tiny(), tmp_path)
    original = loop.meta_gradient

    def poisoned(ghn: torch.nn.Module, *args: object, **kwargs: object) -> object:
        result = original(ghn, *args, **kwargs)  # ty: ignore[invalid-argument-type]
        if run.counts.step in (1, 3):
            gradient = next(p.grad for p in ghn.parameters() if p.grad is not None)
            gradient[0] = float("inf")
        return result

    monkeypatch.setattr(loop, "meta_gradient", poisoned)
    seen: list[tuple[int, dict[str, torch.Tensor]]] = []

    class Watch:
        def write(self, row: object) -> None:
            seen.append((run.counts.steps_skipped, {k: v.clone() for k, v in tensors(run).items()}))

        def close(self) -> None: ...

    run.run(Log(Watch()))
    assert [skipped for skipped, _ in seen] == [0, 1, 1, 2, 2, 2]
    for step in (1, 3):
        assert all(torch.equal(seen[step][1][name], value) for name, value in seen[step - 1][1].items())
    assert all(torch.isfinite(value).all() for value in tensors(run).values())


def test_a_run_that_learns_nothing_any_more_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps 0 and 2 to 4 fail. A patience of two forgives the first and the next two; that of three forgives all."""
    original = loop.meta_gradient

    def poisoned(ghn: torch.nn.Module, jobs: Mapping[int, Job], **kwargs: object) -> object:
        images = {place: torch.full_like(job.images, float("nan")) for place, job in jobs.items()}
        fails = run.counts.step in (0, 2, 3, 4)
        given = {place: replace(job, images=images[place]) if fails else job for place, job in jobs.items()}
        return original(ghn, given, **kwargs)  # ty: ignore[invalid-argument-type]

    monkeypatch.setattr(loop, "meta_gradient", poisoned)
    run = trainer(tiny(patience=3, val_networks=0), tmp_path / "patient")
    run.run(Log())
    assert (run.counts.step, run.counts.steps_skipped, run.counts.networks_skipped) == (6, 4, 8)
    run = trainer(tiny(patience=2, val_networks=0), tmp_path / "impatient")
    with pytest.raises(TrainingError, match=r"3 steps in a row, the last one 4, .* patience=2"):
        run.run(Log())
    saved = checkpoint.load(checkpoint.latest(run.checkpoints))
    assert (saved.step, saved.state["counts"]["in_a_row"]) == (4, 2)


def test_stages_change_size_and_networks(tmp_path: Path) -> None:
    recipe = smoke().changed(["stages.0.steps=1", "corpus=1", "stages.1.max_macs=2000000"])
    run = trainer(recipe, tmp_path)
    said: list[str] = []
    run.run(Log(), said.append)
    assert [message.split(":")[0] for message in said if message.startswith("stage")] == [
        "stage 1 of 2",
        "stage 2 of 2",
    ]
    assert run.counts.step == 2


def test_a_stage_has_local_steps_of_its_own(tmp_path: Path) -> None:
    log = Log()
    everywhere = trainer(tiny(stages=(replace(TINY, steps=2),), local_steps=2, val_networks=0), tmp_path / "recipe")
    everywhere.run(log)
    here = trainer(tiny(stages=(replace(TINY, steps=2, local_steps=2),), val_networks=0), tmp_path / "stage")
    here.run(log)
    assert_same(here, everywhere)
    without = trainer(tiny(stages=(replace(TINY, steps=2, local_steps=1),), local_steps=2, val_networks=0), tmp_path)
    without.run(log)
    assert not torch.equal(tensors(without)["model.embed.weight"], tensors(here)["model.embed.weight"])


def test_a_run_made_longer_is_the_longer_run(tmp_path: Path) -> None:
    """From before the learning rate fell, bit for bit: nothing jumps, nothing starts anew."""
    short, long = (tiny(stages=(replace(TINY, steps=steps),), decay=0.5, val_networks=0) for steps in (6, 10))
    for name, recipe in (("short", short), ("long", long)):
        trainer(recipe, tmp_path / name).run(Log())
    saved = checkpoint.load(checkpoint.named_folder(tmp_path / "short" / "checkpoints", checkpoint.STEADY))
    assert saved.step == 2 + (6 - 2) // 2
    run, expected = trainer(long, tmp_path / "short"), trainer(long, tmp_path / "long")
    run.restore(saved)
    run.run(Log())
    expected.restore(checkpoint.load(checkpoint.latest(tmp_path / "long" / "checkpoints")))
    assert_same(run, expected)


def test_a_checkpoint_is_best_within_its_stage(tmp_path: Path) -> None:
    run = trainer(tiny(), tmp_path)
    seen = []
    for stage, val in [(0, 0.3), (0, None), (0, 0.3), (0, 0.4), (1, 0.2), (1, 0.1), (1, 0.25)]:
        run._stage_index = stage
        seen.append(run._improved(val))
    assert seen == [True, False, False, True, True, False, True]


def test_start_from_another_runs_weights(uninterrupted: tuple[Trainer, Path], tmp_path: Path) -> None:
    expected, folder = uninterrupted
    run = trainer(tiny(), tmp_path)
    run.start_from(checkpoint.load(checkpoint.latest(folder / "checkpoints")).tensors["average"])
    assert run.counts.step == 0
    for a, b in zip(run.ghn.parameters(), expected.average.parameters(), strict=True):
        assert torch.equal(a, b)


def test_checkpoint_of_another_size_is_refused(uninterrupted: tuple[Trainer, Path], tmp_path: Path) -> None:
    _, folder = uninterrupted
    saved = checkpoint.load(checkpoint.latest(folder / "checkpoints"))
    other = trainer(tiny(ghn={"hid": 16}), tmp_path)
    with pytest.raises(CheckpointError, match="does not fit"):
        other.restore(saved)
    with pytest.raises(CheckpointError, match="do not fit"):
        other.start_from(saved.tensors["average"])


def test_every_local_step_of_a_stratified_run_sees_all_classes(tmp_path: Path) -> None:
    stage, sample = replace(TINY, images=10, local_steps=2), load_sample()
    for stratified in (True, False):
        run = Trainer(tiny(stages=(stage,), stratified=stratified), sample, sample, tmp_path / str(stratified))
        run._enter_stage(print)
        labels = [job.labels for job in run._jobs([0, 1], [0, 1]).values()]
        classes = [len(each.unique()) for both in labels for each in both.chunk(2)]
        assert len(classes) == 4
        assert (min(classes) == 10) == stratified


def test_the_recipe_says_how_images_are_changed(tmp_path: Path) -> None:
    """Whatever the images were loaded for: a shift brings black rows or columns in, a mirror does not."""
    white = load_sample()
    white = replace(white, pixels=torch.full_like(white.pixels, 255))
    for how in ("cifar", "mirror"):
        run = Trainer(tiny(augmentation=how), white, white, tmp_path / how)
        run._enter_stage(print)
        images = torch.cat([job.images for job in run._jobs([0, 1], [0, 1]).values()])
        assert (images.amin() < 0) == (how == "cifar")


def test_shared_images(tmp_path: Path) -> None:
    def drawn(recipe: Recipe) -> list[torch.Tensor]:
        run = trainer(recipe, tmp_path)
        run._enter_stage(lambda message: None)
        return [job.images for job in run._jobs([0, 1], [0, 1]).values()]

    first, second = drawn(tiny(shared_images=True))
    assert torch.equal(first, second)
    first, second = drawn(tiny(shared_images=False))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["mlp", "ghn3-t", "logah-t"])
def test_every_member_trains_and_is_kept(tmp_path: Path, name: str) -> None:
    """A run of two steps; what it saves is loaded with the same parts, and differs from where it started."""
    parts = member(name).to_dict() | {"hid": 16, "max_shape": [16, 16, 5, 5], "layers": 1, "heads": 2, "rank": 4}
    del parts["num_classes"]
    run = trainer(tiny(stages=(replace(TINY, steps=2),), ghn=parts, norm_penalty=3e-5), tmp_path)
    before = {key: value.clone() for key, value in run.ghn.state_dict().items()}
    runs.run(run, tmp_path)
    moved = [key for key, value in run.ghn.state_dict().items() if not torch.equal(value, before[key])]
    assert {key.split(".")[0] for key in moved} >= {"embed", "shape_enc", "gnn", "decoder", "decoder_1d"}
    assert ghn.load(tmp_path / "ghn").model.config == run.ghn.config
