"""Training on a device that is not the CPU: the same numbers, and no tensor of the CPU among the device's.

No GPU is needed: `second_device` stands in for one. What it cannot show is CUDA's own kernels, speed and NCCL.
"""

from pathlib import Path

import pytest
from test_train_distributed import CHILD, NUMBERS, TRAIN, assert_same, ended, log, start, trained

DEVICE = """
from second_device import DEVICE
from train import distributed
distributed.chosen_device = lambda name, rank=0: DEVICE
"""
ORACLE = """
import torch
from second_device import DEVICE, Second
from torch.nn import functional as F

there, here = torch.ones(2, 3, device=DEVICE, requires_grad=True), torch.ones(2, 3)
assert isinstance(there, Second) and (there.device, here.device.type) == (DEVICE, "cpu")
(there * torch.tensor(2.0))[torch.tensor([0, 1])].sum().backward()
assert there.grad.device == DEVICE and there.grad.cpu().tolist() == [[2.0] * 3] * 2
for mixed in (torch.add, F.linear, lambda *both: torch.cat(both), lambda a, b: b[a.long()]):
    try:
        mixed(there, here)
    except RuntimeError as error:
        assert "of two devices" in str(error), error
    else:
        raise AssertionError("two devices in one operation")
with torch.autocast(DEVICE.type, torch.bfloat16):
    assert (there @ there.t()).dtype == torch.bfloat16 and (there + there).dtype == torch.float32
"""
COMPARED = """
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from second_device import DEVICE
from train.data import load_sample
from train.distributed import World
from train.loop import Trainer
from train.recipes import recipe

torch.set_num_threads(1)
images = load_sample()
parts = images.take(torch.arange(900)), images.take(torch.arange(900, 1000))
changed = recipe(sys.argv[2]).changed(sys.argv[3:])
found = []
for device in (torch.device("cpu"), DEVICE):
    trainer, rows = Trainer(changed, *parts, Path(sys.argv[1]) / device.type, world=World(device=device)), []
    trainer.run(SimpleNamespace(write=rows.append))
    assert {p.device for p in trainer.ghn.parameters()} == {device}
    found.append([(row.loss, row.grad_norm) for row in rows])
    print(device, found[-1], file=sys.stderr)
pairs = [pair for rows in zip(*found, strict=True) for pair in zip(*rows, strict=True)]  # loss, norm, loss, norm, ...
assert len(pairs) == 2 * changed.steps
if changed.bf16:  # other roundings: norms differ by a third
    assert all(abs(a - b) <= 0.03 * a for a, b in pairs[::2]) and all(0.5 * a <= b <= 2 * a for a, b in pairs[1::2])
else:
    assert all(abs(a - b) <= 1e-3 * a for a, b in pairs)
"""
FINETUNED = """
import sys
from dataclasses import replace
from pathlib import Path

import torch
from deepnets_gen.zoo import network
from eval.finetune import FEW_SHOT, Parts, Start, Subject, finetune
from second_device import DEVICE, Second
from train import sgd
from train.data import load_sample

torch.set_num_threads(1)
sgd.EVERY = 0.0  # the state is kept after each step
images = load_sample().resized(8)
parts = Parts(*(images.take(torch.arange(first, first + 40)) for first in (0, 40, 80)))
subject = Subject.of("test/0", lambda: network("test/0", 10, 8, "cpu"))
schedule = replace(FEW_SHOT, steps=3, batch=10)


def curve(folder, device, fatal=None):
    def die(curve, step):
        if step == fatal:
            raise KeyboardInterrupt

    kept = Path(sys.argv[1]) / folder
    once = {"rates": [0.01], "seeds": [0], "folder": kept, "device": device, "progress": die}
    return finetune(subject, [Start("kaiming")], parts, schedule, **once).curves[0]


expected, found = curve("cpu", "cpu"), curve("second", DEVICE)
assert found.steps == (0, 1, 2, 3) and Second.made > 1000
assert all(abs(a - b) <= 1e-3 * a for a, b in zip(expected.loss, found.loss, strict=True)), (expected, found)
try:
    curve("killed", DEVICE, fatal=2)
except KeyboardInterrupt:
    pass
assert curve("killed", DEVICE) == found
names = sorted(path.name for path in Path(sys.argv[1], "second").iterdir())
assert names == ["kaiming-lr0.01-seed0.json", "kaiming-lr0.01-seed0.safetensors"], names
one, other = ([(Path(sys.argv[1]) / folder / name).read_bytes() for name in names] for folder in ("second", "killed"))
assert one == other
"""
SMALL = {**NUMBERS, "stages": NUMBERS["stages"].replace("60", "100"), "val_every": "4", "save_every": "4"}
CHANGES = {
    "ghn1_cifar10": {},
    "mlp_cifar10": {"optimiser": "muon"},
    "ghn2_cifar10_cpu": {"local_steps": "2", "parts": "2", "norm_penalty": "0.001", "clip_network": "1"},
    "ghn2_cifar10": {"bf16": "true", "dropout": "true", "recompute_above": "1"},
    "ghn3_t_cifar10": {"ghn": '{"hid":32,"layers":1,"max_shape":[16,16,5,5]}'},
}


def test_the_device_tells_its_tensors_from_the_cpus() -> None:
    code, said = ended(start(ORACLE))
    assert code == 0, said


@pytest.mark.parametrize("recipe", CHANGES)
def test_it_learns_as_on_the_cpu(recipe: str, tmp_path: Path) -> None:
    settings = [f"{key}={value}" for key, value in {**SMALL, **CHANGES[recipe]}.items()]
    code, said = ended(start(COMPARED, str(tmp_path), recipe, *settings))
    assert code == 0, said


def test_processes_that_share_it_killed_and_resumed_give_the_bits_of_one(tmp_path: Path) -> None:
    """Gradients go over main memory, as with several processes on one GPU."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    expected = trained(alone, "--set", "parts=2", code=DEVICE + CHILD)
    code, said = ended(start(DEVICE + CHILD, *TRAIN, "--out", str(shared), processes=2, KILL="1"))
    assert code != 0, said
    assert_same(trained(shared, "--resume", processes=2, code=DEVICE + CHILD), expected)
    assert log(shared) == log(alone)


def test_finetuning_on_it_is_that_of_the_cpu_and_survives_a_kill(tmp_path: Path) -> None:
    code, said = ended(start(FINETUNED, str(tmp_path)))
    assert code == 0, said
