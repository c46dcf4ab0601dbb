"""Scores against known networks and a slow oracle, summaries against numpy, and the commands."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import SHARED
from torch import nn
from training import write_pictures

import deepnets_gen
import ghn
from eval.benchmark import Summary, score_split, seeded, sustaining
from eval.score import score
from ghn.cli import main
from ghn.errors import ModelError
from ghn.hyper import Hypernet
from ghn.model import GHN, GHNConfig
from train.data import CLASSES, Images, load, load_sample

RESNETS, CIFAR = SHARED / "data" / "cifar_resnets", SHARED / "data" / "cifar10"


@pytest.fixture(scope="module")
def images() -> Images:
    return load_sample()


@pytest.fixture(scope="module")
def tiny() -> Hypernet:
    model = seeded(lambda: GHN(GHNConfig(hid=8, max_shape=(16, 16, 3, 3))), 0)
    assert isinstance(model, GHN)
    return Hypernet(model, {}, 16, CLASSES)


def few(images: Images, count: int) -> Images:
    return images.take(torch.arange(count))


class Block(nn.Module):
    """The residual block of He et al. 2016 for CIFAR: identity shortcuts, subsampled and padded with zeros."""

    def __init__(self, inp: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inp, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.stride, self.grow = stride, out - inp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        short = x[:, :, :: self.stride, :: self.stride]
        return torch.relu(y + nn.functional.pad(short, (0, 0, 0, 0, self.grow // 2, self.grow // 2)))


class ResNet20(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = [(16, 16, 1), (16, 32, 2), (32, 64, 2)]
        for i, (inp, out, stride) in enumerate(widths, 1):
            blocks = [Block(inp, out, stride), Block(out, out, 1), Block(out, out, 1)]
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


@pytest.mark.skipif(not RESNETS.is_dir(), reason="../shared/data/cifar_resnets is not at hand")
def test_a_trained_network_scores_what_it_should(images: Images) -> None:
    """Images, labels, normalisation and scoring agree with somebody else's trained ResNet-20 (it has seen batch 5)."""
    state = torch.load(RESNETS / "resnet20-12fca82f.th", map_location="cpu", weights_only=True)["state_dict"]
    model = ResNet20()
    model.load_state_dict({k.removeprefix("module."): v for k, v in state.items()}, strict=False)
    result = score(model, few(images, 512))
    assert result.accuracy > 0.93
    assert result.images == 512


def test_equals_a_plain_loop(images: Images) -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(3600, 10)), 0)
    some = few(images, 100)
    result = score(model, some, batch=40)
    right, loss = 0, 0.0
    model.train()
    for start in range(0, 100, 40):
        pixels, labels = some.pixels[start : start + 40], some.labels[start : start + 40]
        mean, std = torch.tensor(some.mean).view(3, 1, 1), torch.tensor(some.std).view(3, 1, 1)
        logits = model((pixels / 255 - mean) / std)
        right += int((logits.argmax(1) == labels).sum())
        loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
    assert result.accuracy == right / 100
    assert result.loss == pytest.approx(loss / 100, rel=1e-4)


def test_the_model_comes_back_as_it_was(images: Images) -> None:
    model = nn.Sequential(nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10), nn.AdaptiveAvgPool2d(1), nn.Flatten()).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    score(model, few(images, 64))
    assert model.training
    assert all(m.training for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Flatten(0), "not a row of logits each"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)), "tells 4 classes apart"),
        (nn.Conv2d(3, 4, 64), "cannot run on 32-pixel images"),
    ],
)
def test_networks_that_cannot_be_scored(images: Images, model: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        score(model, few(images, 8))


def test_summary_is_numpys() -> None:
    values = [0.1, 0.4, 0.25, 0.3]
    summary = Summary.of(values)
    assert (summary.n, summary.least, summary.best) == (4, 0.1, 0.4)
    assert summary.mean == pytest.approx(np.mean(values))
    assert summary.standard_error == pytest.approx(np.std(values, ddof=1) / 2)
    assert Summary.of([0.5]).standard_error == 0


def test_a_split_is_its_networks_one_by_one(tiny: Hypernet, images: Images) -> None:
    some = few(images, 32).resized(16)
    results = score_split(tiny, "test", 2, some)
    for result, genotype in zip(results, deepnets_gen.generate("test", 2), strict=True):
        network = deepnets_gen.build(genotype, num_classes=10, image_size=16)
        assert result.params == sum(p.numel() for p in network.parameters())
        alone = score(tiny.init(network), some)
        assert (result.score.accuracy, result.score.loss) == (alone.accuracy, alone.loss)


@pytest.fixture
def folder(tiny: Hypernet, tmp_path: Path) -> Path:
    ghn.save(tmp_path / "tiny", tiny.model, image_size=16, classes=CLASSES, card={"name": "tiny"})
    return tmp_path / "tiny"


def test_score_command_with_baselines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["resnet18", "--checkpoint", str(folder), "--images", "16", "--baseline", "--json", "--record"]
    assert main(["score", *arguments]) == 0
    record = json.loads(capsys.readouterr().out)
    assert list(record["scores"]) == ["random initialisation", "untrained GHN", "predicted by the GHN"]
    assert record["report"]["num_params"] == 11_173_962
    assert list(ghn.load(folder).card["metrics"]) == ["resnet18, top-1 on 16 test images of 16 px"]


def test_evaluate_command_writes_every_network(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "test.json"
    options = ["--checkpoint", str(folder), "--count", "2", "--images", "16", "--out", str(out), "--record"]
    assert main(["evaluate", *options]) == 0
    record = json.loads(out.read_text())
    assert len(record["networks"]) == record["summary"]["n"] == 2
    assert "n = 2" in capsys.readouterr().out
    assert "2 networks of test, top-1 on 16 test images of 16 px" in ghn.load(folder).card["metrics"]


def test_sustain_raises_what_fades_before_networks_are_scored(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--sustain is `ghn.sustain_variance` on training images, in both commands."""
    data, out = str(write_pictures(tmp_path / "set", 10, 12)), tmp_path / "scores.json"
    options = ["--checkpoint", str(folder), "--data", data, "--sustain"]
    assert main(["evaluate", "--split", "bnfree", "--count", "1", "--out", str(out), *options]) == 0
    assert "sustained" in capsys.readouterr().out
    record = json.loads(out.read_text())
    test = load("test", data, side=16)
    hyper, (genotype,) = ghn.load(folder), deepnets_gen.generate("bnfree", 1)
    model = hyper.init(deepnets_gen.build(genotype, num_classes=10, image_size=16))
    before = score(model, test)
    after = score(sustaining(load("train", data, side=16))(model), test)
    assert record["sustained"]
    assert record["networks"][0]["loss"] == after.loss != before.loss

    assert main(["score", "deepnets/bnfree/0", "--json", *options]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert [scores[kind]["loss"] for kind in ("predicted by the GHN", "the same, sustained")] == [
        before.loss,
        after.loss,
    ]


@pytest.mark.skipif(not CIFAR.is_dir(), reason="the full CIFAR-10 set is not beside the checkout")
def test_sustain_looks_at_images_of_the_size_that_is_scored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CIFAR-10 is loaded at its own 32 pixels whatever is asked for; this GHN is of 16."""
    options = ["--checkpoint", str(folder), "--data", str(CIFAR), "--images", "64", "--sustain", "--json"]
    assert main(["score", "deepnets/bnfree/0", *options]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    hyper, (genotype,) = ghn.load(folder), deepnets_gen.generate("bnfree", 1)
    model = hyper.init(deepnets_gen.build(genotype, num_classes=10, image_size=16))
    sustained = sustaining(load("train", CIFAR).resized(16))(model)
    expected = score(sustained, few(load("test", CIFAR), 64).resized(16))
    assert scores["the same, sustained"]["loss"] == expected.loss


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "resnet18", "--images", "8", "--sustain"], "add --data SET"),
        (["score", "no_such_net"], "no_such_net"),
        (["score", "resnet18", "--checkpoint", "no_such_ghn"], "no checkpoint 'no_such_ghn'"),
        (["score", "resnet18", "--images", "0"], "above 0"),
        (["score", "resnet18", "--images", "8", "--image-size", "64"], "cannot be shown at 64"),
        (["score", "resnet18", "--data", "nowhere"], "no images in nowhere"),
        (["evaluate", "--count", "1", "--images", "8", "--out", "no_such_folder/x.json"], "no_such_folder"),
    ],
)
def test_mistakes_are_one_sentence(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments if "--checkpoint" in arguments else [*arguments, "--checkpoint", str(folder)]
    assert main(given) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_a_checkpoint_is_not_left_half_written(folder: Path) -> None:
    shutil.rmtree(folder)
    assert main(["score", "resnet18", "--checkpoint", str(folder), "--images", "8", "--record"]) == 2
    assert not folder.exists()
