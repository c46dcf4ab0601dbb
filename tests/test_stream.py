"""Streamed weights: the predicted ones, in files that others read, in the memory of one tensor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import ghn
from ghn.errors import GHNError
from ghn.family import MEMBERS, member
from ghn.plan import DecodePlan, decoded
from ghn.stream import INDEX


def hypernet(name: str = "ghn2") -> ghn.Hypernet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ghn.Hypernet(ghn.GHN(member(name)), {"name": "test"}, 32, tuple("0123456789"))


def network(width: int = 48) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3),
        nn.BatchNorm2d(width),
        nn.Conv2d(width, 2 * width, 13),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 10),
    )


@pytest.mark.parametrize(("name", "several"), [("ghn2", False), ("logah-t", True)])
def test_weights_are_decoded_some_at_a_time(name: str, several: bool) -> None:
    """As many as take so much decoding: what is tiled from a small block is decoded at once."""
    model, graph = hypernet(name).model, ghn.trace(nn.Sequential(*(nn.Linear(512, 512) for _ in range(8))))
    plans = list(DecodePlan.pieces(model.collate([graph]), model.decoder, 2 * 512 * 512, decoded))
    filled = [
        target.slot.fqn for plan in plans for groups in plan.groups.values() for g in groups for target in g.targets
    ]
    assert sorted(filled) == sorted(slot.fqn for slot in graph.slots)
    assert (len(plans) > 3) == several


@pytest.mark.parametrize("name", [name for name in MEMBERS if name[-2:] not in ("-s", "-l", "xl")])
@pytest.mark.parametrize("shard_bytes", [1, 300_000])
def test_streamed_weights_are_the_predicted_ones(tmp_path: Path, name: str, shard_bytes: int) -> None:
    hyper = hypernet(name)
    with torch.device("meta"):
        model = network()
    expected, _ = hyper.predict(model)
    (tmp_path / "model-00009-of-00009.safetensors").write_bytes(b"of an earlier prediction")
    done: list[float] = []
    options = {"metadata": {"from": "here"}, "progress": done.append}
    report = hyper.stream(tmp_path, model, shard_bytes=shard_bytes, **options)
    assert done == sorted(done)
    assert done[-1] == 1
    index = json.loads((tmp_path / INDEX).read_text())
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files == sorted(set(index["weight_map"].values()))
    assert index["metadata"]["total_size"] == 4 * report.num_params == 4 * sum(w.numel() for w in expected.values())
    found = {}
    for file in files:
        part = load_file(tmp_path / file)
        assert len(part) == 1 or sum(4 * t.numel() for t in part.values()) <= shard_bytes
        assert all(index["weight_map"][key] == file for key in part)
        found |= part
        with safe_open(tmp_path / file, "pt") as opened:
            assert opened.metadata() == {"from": "here", "format": "pt"}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-7)
    assert list(report.predicted) == list(dict(model.named_parameters()))
    assert all(seconds >= 0 for seconds in report.seconds.values())


def test_a_folder_is_complete_when_it_has_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hyper, model = hypernet(), network()
    hyper.stream(tmp_path, model, shard_bytes=50_000)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(GHNError, match=r"cannot write .*model-00001.*No space left"):
            hyper.stream(tmp_path, model, shard_bytes=50_000)
    assert not (tmp_path / INDEX).exists()
    assert not list(tmp_path.glob(".*"))
    hyper.stream(tmp_path, model, shard_bytes=50_000)
    assert (tmp_path / INDEX).exists()


MEMORY = """
import resource, sys, torch
from torch import nn
import ghn
from ghn.family import member

torch.set_num_threads(1)
hyper = ghn.Hypernet(ghn.GHN(member("logah-t")), {}, 32, tuple("0123456789"))
with torch.device("meta"):
    small, large = nn.Sequential(nn.Linear(64, 64)), nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(24)))
for model, name in ((small, "small"), (large, "large")):
    model.expected_input_sz = None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    hyper.stream(f"{sys.argv[1]}/{name}", model, example_input=torch.zeros(1, model[0].in_features), shard_bytes=10**8)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_memory_is_that_of_a_tensor_not_of_the_network(tmp_path: Path) -> None:
    """24 layers of 16 MiB: 384 MiB of weights pass through, and less than a fifth of that is ever held."""
    script = tmp_path / "memory.py"
    script.write_text(MEMORY)
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 80
