"""What is shipped under checkpoints/ loads, says what it is, and predicts weights that see."""

import pytest
import torch

import ghn
from eval.benchmark import score_split
from eval.score import score
from ghn.adapters.zoo import resolve
from train.data import load_sample

NAMES = sorted(ghn.checkpoints())


def test_there_is_the_default_one() -> None:
    assert "ghn2-cifar10" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_card_says_where_it_comes_from(name: str) -> None:
    hyper = ghn.load(name)
    assert {"recipe", "data", "done", "hardware", "versions", "metrics"} <= hyper.card.keys()
    assert hyper.card["done"]["seconds"] > 0
    assert len(hyper.classes) == hyper.model.config.num_classes
    assert (ghn.checkpoints()[name] / "README.md").read_text().startswith(f"# {name}")


def test_unseen_networks_beat_chance_clearly() -> None:
    """Three held-out networks and a ResNet, on images never trained on: each five standard errors above 10%."""
    torch.set_num_threads(1)
    hyper = ghn.load("ghn2-cifar10")
    images = load_sample().take(torch.arange(400))
    scores = [r.score for r in score_split(hyper, "test", 3, images)]
    scores.append(score(hyper.init(resolve("resnet18", 10, 32, device="cpu")), images))
    for result in scores:
        assert result.accuracy - 5 * result.standard_error > 0.1


def test_every_weight_of_resnet50_is_predicted_and_finite() -> None:
    weights, report = ghn.load("ghn2-cifar10").predict(resolve("resnet50", 10, 32))
    assert (report.num_params, report.skipped) == (23_520_842, ())
    assert all(bool(w.isfinite().all()) for w in weights.values())
