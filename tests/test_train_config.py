"""Recipes: round trips, changes from the command line, clear refusals; schedule and averaged weights."""

import math

import pytest
import torch
from torch import nn

from train.config import Recipe, RecipeError, Stage
from train.optim import lr_at, make_optimiser, optimiser_tensors, restore_optimiser, update_average
from train.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_round_trip(name: str) -> None:
    made = recipe(name)
    assert made.name == name
    assert Recipe.from_dict(made.to_dict()) == made


def test_changes() -> None:
    changed = recipe("smoke").changed(["lr=3e-4", "stages.0.steps=7", "optimiser=adam", "stages.1.channels=null"])
    assert (changed.lr, changed.stages[0].steps, changed.optimiser) == (3e-4, 7, "adam")
    assert changed.stages[1].channels is None
    assert changed.steps == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lr", "not of the form"),
        ("rl=1", "no field 'rl'"),
        ("stages.0.stepz=1", "no field 'stepz'"),
        ("stages.9.steps=1", "no '9'"),
        ("stages.x.steps=1", "no 'x'"),
        ("lr.x=1", "does not name a field"),
        ("lr=fast", "must be of type float"),
        ("bf16=1", "must be of type bool"),
        ("seed=true", "must be of type int"),
        ("stages.0.steps=0", "steps must be at least 1"),
        ("stages.0.images=1", "images must be at least 2"),
        ("stages=[]", "has no stages"),
        ("stages=3", "not a recipe"),
        ("optimiser=sgd", "neither 'adam' nor 'adamw'"),
        ("ema=1", "must be in"),
        ("betas=[0.9]", "two numbers"),
        ("lr=-1", "lr must be at least 0"),
    ],
)
def test_wrong_changes_are_named(change: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe("smoke").changed([change])


def test_unknown_recipe_names_the_known() -> None:
    with pytest.raises(RecipeError, match="ghn2_cifar10"):
        recipe("ghn3")


def test_stage_at_counts_steps() -> None:
    made = Recipe(name="x", stages=(Stage(steps=3), Stage(steps=2)))
    assert [made.stage_at(step) for step in range(6)] == [0, 0, 0, 1, 1, 1]


def test_cosine_schedule() -> None:
    made = Recipe(name="x", stages=(Stage(steps=100),), lr=2.0, warmup=10, lr_floor=0.1)
    rates = [lr_at(made, step) for step in range(101)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.1)
    assert rates[100] == pytest.approx(0.2)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_milestones_of_the_published_schedule() -> None:
    made = recipe("ghn2_cifar10")
    found = [lr_at(made, math.ceil(epoch * made.steps / 300)) for epoch in (0, 199, 200, 249, 250, 299)]
    assert found == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5], rel=1e-6)


def test_average_follows_the_closed_form() -> None:
    average, model = nn.Linear(2, 2), nn.Linear(2, 2)
    expected = average.weight.detach().double()
    for step in range(50):
        with torch.no_grad():
            model.weight += step
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
        update_average(average, model, 0.9, step)
    assert torch.allclose(average.weight.double(), expected, rtol=1e-5)


def test_average_without_decay_is_the_model() -> None:
    average, model = nn.Linear(2, 2), nn.Linear(2, 2)
    update_average(average, model, 0.0, 5)
    assert torch.equal(average.weight, model.weight)


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_optimiser_restored_continues_exactly(optimiser: str) -> None:
    made = recipe("smoke").changed([f"optimiser={optimiser}"])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))

    def advance(model: nn.Sequential, optimiser: torch.optim.Optimizer, only_first: bool) -> None:
        optimiser.zero_grad()
        (model[0] if only_first else model)(torch.ones(1, 3)).square().sum().backward()
        optimiser.step()

    first = make_optimiser(model, made)
    advance(model, first, only_first=True)  # the second layer has no state yet
    twin = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    twin.load_state_dict(model.state_dict())
    second = make_optimiser(twin, made)
    restore_optimiser(twin, second, optimiser_tensors(model, first))
    for _ in range(3):
        advance(model, first, only_first=False)
        advance(twin, second, only_first=False)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert not math.isnan(sum(p.sum().item() for p in twin.parameters()))
