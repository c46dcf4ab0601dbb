"""What changes the GHN's weights: optimiser, learning-rate schedule, averaged weights."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from train.config import Recipe

MOMENTUM = 0.95  # of the matrices
STRIDE = 2.0  # how much faster they move than Adam's learning rate says
LEAST = 1e-4  # of the largest squared singular value: directions far below it are noise, and are not blown up


def make_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Adam (weight decay as L2), AdamW or Muon over all parameters of the model."""
    settings: dict[str, Any] = {"lr": recipe.lr, "betas": recipe.betas, "weight_decay": recipe.weight_decay}
    if recipe.optimiser == "muon":
        embeddings = [layer.weight for layer in model.modules() if isinstance(layer, nn.Embedding)]
        return Muon(model.parameters(), spared=embeddings, **settings)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimiser]
    return kind(model.parameters(), **settings)


class Muon(torch.optim.AdamW):
    """AdamW, but a matrix moves along the polar factor of its momentum: in all its directions equally fast.

    A convolution's weight counts as the matrix of its rows. The step is STRIDE * lr * sqrt(max(1, rows / columns)).
    spared: not to be treated as matrices; of an embedding's rows, a step uses a few.
    Source: Jordan et al. 2024, "Muon". The polar factor comes from the eigenvectors of the smaller Gram matrix instead
    of from Newton-Schulz iterations on the matrix: the large ones of a GHN are tall (15,488 x 32, 4,096 x 256), and all
    of GHN-2's take 18 ms on one core where torch.optim.Muon takes 98.
    """

    def __init__(self, parameters: Iterable[Tensor], spared: Iterable[Tensor] = (), **settings: Any) -> None:
        super().__init__(parameters, **settings)
        self._spared = {id(parameter) for parameter in spared}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # ty: ignore[incompatible-method-override]
        """Moves all parameters that have a gradient; a closure is not supported."""
        assert closure is None
        (group,) = self.param_groups
        matrices = [p for p in group["params"] if p.grad is not None and p.ndim > 1 and id(p) not in self._spared]
        gradients = [p.grad for p in matrices]
        for p in matrices:
            p.grad = None
        super().step()
        for p, gradient in zip(matrices, gradients, strict=True):
            p.grad = gradient
            self._turn(p, gradient.flatten(1), self.state[p], group)
        return None

    def _turn(self, p: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"] = state.get("step", torch.tensor(0.0)) + 1  # AdamW expects it when a state is loaded
        momentum = state.setdefault("momentum", torch.zeros_like(gradient))
        momentum.lerp_(gradient, 1 - MOMENTUM)
        rows, columns = gradient.shape
        step = STRIDE * group["lr"] * math.sqrt(max(1.0, rows / columns))
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.sub_(polar(gradient.lerp(momentum, MOMENTUM)).view_as(p), alpha=step)


def polar(matrix: Tensor) -> Tensor:
    """U V^T of a matrix U S V^T, but that singular values far below the largest come out smaller than 1 (LEAST)."""
    if len(matrix) < matrix.shape[1]:
        return polar(matrix.t()).t()
    squares, v = torch.linalg.eigh(matrix.t() @ matrix)
    floor = (LEAST * squares[-1]).clamp(min=torch.finfo(matrix.dtype).tiny)
    return matrix @ (v * (squares.clamp(min=0) + floor).rsqrt()) @ v.t()


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
