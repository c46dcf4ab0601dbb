"""Training of one network: killed anywhere it ends as if it had not been; who shares a seed sees the same images."""

from pathlib import Path

import pytest
import torch
from torch import nn

from ghn.errors import DataError, ModelError, TrainingError
from train import sgd
from train.data import Images, load_sample
from train.sgd import Schedule, descend

pytestmark = pytest.mark.usefixtures("one_thread")
SCHEDULE = Schedule(epochs=3, batch=16, lr=0.05)


def images(count: int = 49) -> Images:
    sample = load_sample().take(torch.arange(0, 1000, 1000 // count)[:count])
    return sample.resized(8)


def network(width: int = 6, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(36 * width, 10),
    )


def test_steps_and_images_are_counted() -> None:
    assert [SCHEDULE.epoch(n) for n in (1, 15, 16, 17, 32, 33, 34)] == [1, 1, 1, 1, 2, 2, 3]
    assert (SCHEDULE.total(49), SCHEDULE.seen(49), SCHEDULE.seen(50)) == (9, 144, 150)  # one image alone is left out
    assert (Schedule(steps=5, batch=16).total(49), Schedule(steps=5, batch=16).seen(49)) == (5, 80)


@pytest.mark.parametrize("killed", [0, 1, 4, 5, 8])
def test_a_kill_at_any_step_changes_nothing(killed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgd, "EVERY", 0.0)  # the state is kept after each step

    def run(model: nn.Module, file: Path | None, fatal: int | None) -> list[list[float]]:
        def die(step: int) -> None:
            if step == fatal:
                raise KeyboardInterrupt

        watch = lambda step: (step, next(model.parameters()).sum().item())  # noqa: E731
        return descend(model, images(), SCHEDULE, 3, marks=(0, 2, 5), watch=watch, file=file, progress=die)

    whole, broken, file = network(), network(), tmp_path / "deep" / "state"
    wanted = run(whole, None, None)
    assert [row[0] for row in wanted] == [0, 2, 5, 9]
    if killed:
        with pytest.raises(KeyboardInterrupt):
            run(broken, file, killed)
    again = network(seed=99)  # what it began with makes no difference once there is a state
    again = again if killed > 1 else network()
    assert run(again, file, None) == wanted
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    before = file.stat().st_mtime_ns
    assert run(network(), file, None) == wanted  # finished: nothing is done again
    assert file.stat().st_mtime_ns == before


def test_every_network_of_a_seed_sees_the_same_images_and_each_once_an_epoch() -> None:
    def seen(model: nn.Module, seed: int) -> list[torch.Tensor]:
        batches: list[torch.Tensor] = []
        model.register_forward_pre_hook(lambda module, args: batches.append(args[0].clone()))
        descend(model, images(), SCHEDULE, seed)
        return batches

    one, other, third = seen(network(), 1), seen(network(12, seed=5), 1), seen(network(), 2)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, third, strict=True))
    batches = sgd._Batches(images(), SCHEDULE, 1)
    for epoch in range(3):
        for step in range(3 * epoch, 3 * epoch + 3):
            batches.at(step)
        assert torch.cat(batches.parts).sort().values.tolist() == list(range(49))


def test_it_is_torchs_own_sgd_step_by_step() -> None:
    """Against a loop written out, without clipping: the same weights after all steps."""
    schedule = Schedule(epochs=2, batch=16, lr=0.1, clip=None)
    model, plain = network(), network()
    for m in (model, plain):
        m[4].p = 0.0
    descend(model, images(), schedule, 0)
    batches, total = sgd._Batches(images(), schedule, 0), schedule.total(49)
    momenta = [torch.zeros_like(p) for p in plain.parameters()]
    for step in range(total):
        x, y = batches.at(step)
        nn.functional.cross_entropy(plain.train()(x), y).backward()
        lr = 0.1 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / total)).item())
        with torch.no_grad():
            for p, v in zip(plain.parameters(), momenta, strict=True):
                g = p.grad + 3e-4 * p
                v.mul_(0.9).add_(g) if step else v.copy_(g)
                p -= lr * (g + 0.9 * v)
                p.grad = None
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="step 2; train with a lower lr"):
        descend(network(), images(), Schedule(steps=5, lr=1e30, clip=None), 0)
    with pytest.raises(ModelError, match="cannot run on 8-pixel images"):
        descend(nn.Linear(3, 3), images(), SCHEDULE, 0)
    with pytest.raises(ModelError, match="tells 2 classes apart"):
        descend(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), images(), SCHEDULE, 0)
    file = tmp_path / "state"
    file.write_bytes(b"damaged")
    with pytest.raises(DataError, match="delete it"):
        descend(network(), images(), SCHEDULE, 0, file=file)
    file.unlink()
    descend(network(), images(), SCHEDULE, 0, file=file)
    with pytest.raises(DataError, match="delete it"):
        descend(network(7), images(), SCHEDULE, 0, file=file)
