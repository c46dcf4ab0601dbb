"""Winners as plain files: of every space, run where this project cannot be imported, with the same logits."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor, nn

import ghn
from eval.evaluator import Arch
from ghn.adapters.zoo import resolve
from ghn.errors import GHNError, ModelError
from ghn.hyper import Hypernet
from ghn.model import GHN, GHNConfig
from search.errors import SearchError
from search.export import export, predicted
from search.source import source
from search.space import SearchSpace
from search.spaces import SPACES, make_space
from train.data import CLASSES

pytestmark = pytest.mark.usefixtures("one_thread")
SIDES = {"mnasnet": 64}
ALONE = """
import importlib.util, sys, torch
from pathlib import Path
from safetensors.torch import load_file
sys.modules.update(dict.fromkeys(('ghn', 'deepnets_gen', 'train', 'eval', 'search')))
torch.set_num_threads(1)
for folder in sorted(Path(sys.argv[1]).iterdir()):
    spec = importlib.util.spec_from_file_location('network', folder / 'network.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.Network()
    model.load_state_dict(load_file(folder / 'weights.safetensors'))
    x = torch.load(folder / 'x')
    torch.save(model.eval()(x).detach(), folder / 'y')
"""


def small(name: str) -> SearchSpace:
    options: dict[str, dict[str, int]] = {"nasbench201": {"cells": 1, "channels": 8}, "darts": {"cells": 3}}
    made = make_space(name)
    return type(made)(**options.get(name, {}))


def buildable(space: SearchSpace, side: int, count: int) -> list[Arch]:
    rng, found = Random(3), []
    while len(found) < count:
        arch = space.sample(rng)
        try:
            space.graph(arch, 10, side)
        except GHNError:  # a cell that is cut off
            continue
        found.append(arch)
    return found


def test_winners_of_every_space_run_without_us(tmp_path: Path) -> None:
    torch.manual_seed(0)
    hyper = Hypernet(GHN(GHNConfig(hid=8, max_shape=(8, 8, 3, 3))), {}, 32, CLASSES)
    wanted = {}
    for name in SPACES:
        space, side = small(name), SIDES.get(name, 32)
        for i, arch in enumerate(buildable(space, side, 2)):
            folder = tmp_path / f"{name}{i}"
            export(space, arch, folder, predicted(space, arch, hyper, side), CLASSES, side)
            model = hyper.init(space.build(arch, 10, side)).eval()
            x = torch.linspace(-1, 1, 3 * 3 * side * side).sin().view(3, 3, side, side)
            torch.save(x, folder / "x")
            wanted[folder] = model(x).detach()
            assert space.read(json.loads((folder / "arch.json").read_text())) == arch
            text = (folder / "network.py").read_text()
            assert {line.split()[1] for line in text.splitlines() if line[:4] in ("from", "impo")} <= {
                "torch",
                "torch.nn",
            }
    subprocess.run([sys.executable, "-c", ALONE, str(tmp_path)], check=True, cwd=tmp_path)
    assert len(wanted) == 2 * len(SPACES)
    for folder, y in wanted.items():
        assert torch.allclose(torch.load(folder / "y"), y, atol=1e-5), folder.name


def test_a_winner_is_a_network_like_any_other(tmp_path: Path) -> None:
    """Its file is traced, has the graph that the space states, and is trained."""
    space, hyper = small("deepnets"), ghn.load("ghn2-cifar10")
    arch = buildable(space, 16, 1)[0]
    export(space, arch, tmp_path, predicted(space, arch, hyper, 16), CLASSES, 16)
    model = resolve(f"{tmp_path / 'network.py'}:Network", 10, 16, device="cpu")
    assert ghn.trace(model).key == space.graph(arch, 10, 16).key
    model.train()(torch.randn(4, 3, 16, 16)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(ModelError, match=r"importing .* failed"):
        resolve(f"{tmp_path / 'nowhere.py'}:Network", 10, 16)


def test_what_cannot_be_written_is_told() -> None:
    class Fickle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(SearchError, match="Fickle cannot be written as a plain file"):
        source(Fickle(), "none", 8, 10)
