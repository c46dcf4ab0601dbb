"""What changes the GHN's weights: optimiser, learning-rate schedule, averaged weights."""

import math

import torch
from torch import Tensor, nn

from train.config import Recipe


def make_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Adam (weight decay as L2) or AdamW over all parameters of the model."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimiser]
    return kind(model.parameters(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)


def lr_at(recipe: Recipe, step: int) -> float:
    """Learning rate of a step (from 0): linear warm-up, then drops to a tenth at the milestones, else a cosine.

    With 'epoch' for 'step' this is the published schedule of GHN-3, and without warm-up that of GHN-2 (ghn_spec 11).
    """
    if step < recipe.warmup:
        start = recipe.warmup_from or recipe.lr / recipe.warmup
        return start + (recipe.lr - start) * step / max(1, recipe.warmup - 1)
    if recipe.milestones:
        return recipe.lr * 0.1 ** sum(step >= fraction * recipe.steps for fraction in recipe.milestones)
    fall = fall_at(recipe)
    done = (step - fall) / max(1, recipe.steps - fall)
    cosine = (1 + math.cos(math.pi * min(1.0, max(0.0, done)))) / 2
    return recipe.lr * (recipe.lr_floor + (1 - recipe.lr_floor) * cosine)


def fall_at(recipe: Recipe) -> int:
    """The step after which the cosine falls; those before are the same in every run that is longer."""
    return recipe.warmup + math.floor((1 - recipe.decay) * max(0, recipe.steps - recipe.warmup))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Moves the averaged weights towards the model's. Early on the decay is smaller, so that the start is forgotten."""
    decay = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def optimiser_tensors(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as 'moment.parameter name' -> tensor."""
    names = [name for name, _ in model.named_parameters()]
    state = optimiser.state_dict()["state"]
    return {f"{moment}.{names[index]}": value for index in state for moment, value in state[index].items()}


def restore_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Puts back what `optimiser_tensors` gave."""
    index = {name: i for i, (name, _) in enumerate(model.named_parameters())}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        moment, _, name = key.partition(".")
        state.setdefault(index[name], {})[moment] = value.clone()  # load_state_dict may keep it
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
