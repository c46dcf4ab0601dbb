"""Recipes: round trips, changes from the command line, clear refusals; schedule and averaged weights."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ghn.model import GHN, GHNConfig
from train.config import OPTIMISERS, Recipe, RecipeError, Stage
from train.optim import (
    fall_at,
    lr_at,
    make_optimiser,
    optimiser_tensors,
    polar,
    restore_optimiser,
    update_average,
)
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
        ("optimiser=sgd", "none of adam, adamw, muon"),
        ("ema=1", "must be in"),
        ("betas=[0.9]", "two numbers"),
        ("lr=-1", "lr must be at least 0"),
        ("decay=0", "fractions of the run"),
        ("milestones=[0.5, 2]", "fractions of the run"),
        ("augmentation=none", "none of cifar, mirror, imagenet"),
        ("ghn.hidden=8", "does not describe a GHN: .*hidden"),
        ("ghn.propagation=other", "'other' is none of gated, mlp, graphormer"),
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
    for name in ("ghn1_cifar10", "ghn2_cifar10", "mlp_cifar10"):
        made = recipe(name)
        found = [lr_at(made, math.ceil(epoch * made.steps / 300)) for epoch in (0, 199, 200, 249, 250, 299)]
        assert found == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5], rel=1e-6)


def test_warm_up_and_cosine_of_the_published_schedule() -> None:
    """GHN-3's, a step for an epoch: linspace(1e-5 / lr, 1, 5) for four epochs, then half a cosine from the fifth."""
    epochs, lr = 75, 4e-4
    made = Recipe(name="x", stages=(Stage(steps=epochs),), lr=lr, warmup=5, warmup_from=1e-5)
    for epoch in range(epochs):
        warm = torch.linspace(1e-5 / lr, 1, 5, dtype=torch.float64).tolist()
        factor = warm[epoch] if epoch < 4 else (1 + math.cos(math.pi * (epoch - 5) / (epochs - 5))) / 2
        assert lr_at(made, epoch) == pytest.approx(lr * factor, rel=1e-9 if epoch != 4 else 1e-3)


rates = st.builds(
    dict,
    lr=st.floats(1e-6, 1),
    warmup=st.integers(0, 30),
    warmup_from=st.sampled_from([0.0, 1e-7]),
    decay=st.floats(0.01, 1),
    lr_floor=st.floats(0, 1),
)


@given(steps=st.integers(1, 300), options=rates)
def test_a_rate_rises_stays_and_falls(steps: int, options: dict) -> None:
    made = Recipe(name="x", stages=(Stage(steps=steps),), **options)
    found = [lr_at(made, step) for step in range(steps + 1)]
    top = options["lr"] * (1 + 1e-12)
    nothing = options["lr"] * options["lr_floor"] == 0  # the least of all floats times a half is 0, too
    assert all(0 < rate <= top or nothing for rate in found)
    warm = options["warmup"]
    assert found[:warm] == sorted(found[:warm])
    assert found[warm:] == sorted(found[warm:], reverse=True)
    assert all(rate == pytest.approx(options["lr"]) for rate in found[warm : fall_at(made) + 1])
    if steps > options["warmup"]:
        assert found[steps] == pytest.approx(options["lr"] * options["lr_floor"], abs=1e-12)


@given(steps=st.integers(1, 200), more=st.integers(0, 200), options=rates)
def test_a_longer_run_has_the_same_rates_until_the_fall(steps: int, more: int, options: dict) -> None:
    short = Recipe(name="x", stages=(Stage(steps=steps),), **options)
    long = short.changed([f"stages.0.steps={steps + more}"])
    assert fall_at(short) <= fall_at(long)
    for step in range(min(steps, fall_at(short)) + 1):
        assert lr_at(short, step) == lr_at(long, step)


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_weight_decay_is_l2_or_decoupled(optimiser: str) -> None:
    """Three steps by the formulas of Kingma & Ba (L2: decay is part of the gradient) and Loshchilov & Hutter."""
    made = recipe("smoke").changed([f"optimiser={optimiser}", "weight_decay=0.3", "lr=0.1", "betas=[0.8, 0.9]"])
    model = nn.Linear(3, 1, bias=False).double()
    weight = model.weight.detach().clone()
    adam, mean, square = make_optimiser(model, made), torch.zeros_like(weight), torch.zeros_like(weight)
    for step, x in enumerate(torch.tensor([[1.0, 2, 0], [0, -1, 0], [3, 0.5, 0]], dtype=torch.float64), 1):
        model.weight.grad = x[None].clone()
        adam.step()
        gradient = x + 0.3 * weight if optimiser == "adam" else x
        weight = weight if optimiser == "adam" else weight * (1 - 0.1 * 0.3)
        mean, square = 0.8 * mean + 0.2 * gradient, 0.9 * square + 0.1 * gradient**2
        weight = weight - 0.1 * (mean / (1 - 0.8**step)) / ((square / (1 - 0.9**step)).sqrt() + 1e-8)
        assert torch.allclose(model.weight.detach(), weight, rtol=1e-10)


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 2, 2, 1)])
def test_muon_moves_a_matrix_along_the_polar_factor_of_its_momentum(shape: tuple[int, ...]) -> None:
    """Three steps against the singular value decomposition; a vector beside it moves as by AdamW."""
    made = recipe("smoke").changed(["optimiser=muon", "weight_decay=0.3", "lr=0.1", "betas=[0.8, 0.9]"])
    draw = torch.Generator().manual_seed(0)
    model = nn.ParameterList([torch.randn(shape, generator=draw), torch.randn(3, generator=draw)]).double()
    twin = nn.ParameterList([model[1].detach().clone()])
    matrix, mean = model[0].detach().flatten(1).clone(), torch.zeros(shape).double().flatten(1)
    ours = make_optimiser(model, made)
    theirs = torch.optim.AdamW(twin, lr=0.1, betas=(0.8, 0.9), weight_decay=0.3)
    for _ in range(3):
        model[0].grad = torch.randn(shape, generator=draw, dtype=torch.float64)
        model[1].grad = twin[0].grad = torch.randn(3, generator=draw, dtype=torch.float64)
        gradient = model[0].grad.flatten(1)
        ours.step()
        theirs.step()
        mean = 0.95 * mean + 0.05 * gradient
        u, s, vh = torch.linalg.svd(0.05 * gradient + 0.95 * mean, full_matrices=False)
        damped = s / (s.square() + 1e-4 * s[0] ** 2).sqrt()
        rows, columns = matrix.shape
        matrix = matrix * (1 - 0.1 * 0.3) - 0.2 * math.sqrt(max(1, rows / columns)) * (u * damped) @ vh
        assert torch.allclose(model[0].detach().flatten(1), matrix, rtol=1e-8)
        assert torch.equal(model[1], twin[0])


def test_muon_leaves_embeddings_to_adam_and_what_has_no_gradient_alone() -> None:
    made = recipe("smoke").changed(["optimiser=muon"])
    model = nn.ModuleList([nn.Embedding(4, 3), nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)])
    before = [p.detach().clone() for p in model.parameters()]
    optimiser = make_optimiser(model, made)
    model[1](model[0](torch.tensor([1]))).sum().backward()
    optimiser.step()
    moved = [not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)]
    assert moved == [True, True, False]
    keys = {name.split(".", 1)[0] for name in optimiser_tensors(model, optimiser) if name.endswith(".0.weight")}
    assert keys == {"step", "exp_avg", "exp_avg_sq"}
    assert all(p.grad is not None for p in (*model[0].parameters(), *model[1].parameters()))


def test_polar_factor_of_nothing_is_nothing() -> None:
    assert torch.equal(polar(torch.zeros(4, 2)), torch.zeros(4, 2))


def test_image_sizes_come_from_the_data_where_none_is_given() -> None:
    made = recipe("smoke").changed(["stages.0.image_size=null"])
    assert made.image_size is None
    with pytest.raises(RecipeError, match="fitted"):
        _ = made.stages[0].side
    assert [stage.side for stage in made.fitted(64).stages] == [64, 24]
    assert recipe("smoke").image_size == 24
    assert recipe("smoke").fitted(64) == recipe("smoke")


def test_published_hyper_parameters() -> None:
    """ghn_spec section 11, number by number."""
    for name, networks, images, smoothing, classes in [
        ("ghn1_cifar10", 1, 64, 0.0, 10),
        ("ghn2_cifar10", 8, 64, 0.0, 10),
        ("mlp_cifar10", 8, 64, 0.0, 10),
        ("ghn2_imagenet", 8, 256, 0.1, 1000),
    ]:
        made = recipe(name)
        (stage,) = made.stages
        assert (made.optimiser, made.lr, made.weight_decay, made.clip) == ("adam", 1e-3, 1e-5, 5.0)
        assert (stage.networks, stage.images, made.label_smoothing) == (networks, images, smoothing)
        assert (made.shared_images, made.node_budget, made.ema, made.warmup, made.dropout) == (True, 2200, 0, 0, True)
        assert made.ghn_config(classes).hid == 32
    assert recipe("ghn1_cifar10").ghn_config(10) == GHNConfig(cutoff=1, weight_norm=False, layernorm=False)
    assert recipe("ghn2_imagenet").ghn_config(1000).max_shape == (64, 64, 16, 16)


def test_a_start_from_identity_needs_a_decoder_that_has_one() -> None:
    with pytest.raises(RecipeError, match="'lowrank' has none"):
        recipe("smoke").changed(["identity=0.5", "ghn.decoder=lowrank"])
    assert recipe("ghn3_t_cifar10").changed(["identity=0.5"]).identity == 0.5


def test_published_hyper_parameters_of_ghn3() -> None:
    made = recipe("ghn3_t_cifar10")
    assert (made.optimiser, made.lr, made.weight_decay, made.clip) == ("adamw", 4e-4, 1e-2, 5.0)
    assert (made.norm_penalty, made.shared_images, made.ema, made.bf16) == (3e-5, True, 0, True)
    epoch = made.steps // 75
    assert made.warmup == 5 * epoch
    assert lr_at(made, 0) == pytest.approx(1e-5)
    assert lr_at(made, made.warmup) == pytest.approx(4e-4)
    assert lr_at(made, made.warmup + 35 * epoch) == pytest.approx(2e-4)
    assert lr_at(made, made.steps) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("ghn1_cifar10", 10, 1_620_668),
        ("ghn2_cifar10", 10, 1_620_764),
        ("mlp_cifar10", 10, 1_614_396),
        ("ghn2_imagenet", 1000, 2_319_720),
        ("ghn3_t_cifar10", 10, 4_531_500),
        ("ghn3_t_cifar10_cpu", 10, 4_531_500),
    ],
)
def test_published_sizes_of_the_ghns(name: str, classes: int, parameters: int) -> None:
    with torch.device("meta"):
        model = GHN(recipe(name).ghn_config(classes))
    assert sum(p.numel() for p in model.parameters()) == parameters


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


@pytest.mark.parametrize("optimiser", OPTIMISERS)
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
