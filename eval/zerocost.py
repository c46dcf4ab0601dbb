"""Scores of untrained networks from one batch of images, or from none at all. A new one is a function and a line.

Every score is of freshly initialised weights (PyTorch's defaults, from the seed and the architecture), with batch norms
on batch statistics.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from eval.benchmark import count_parameters, seeded
from eval.evaluator import Arch, Evaluator, Networks, digest, fingerprint
from eval.images import SearchImages
from ghn.errors import ModelError

LAYERS = (nn.Conv2d, nn.Linear)
RECTIFIERS = (F.relu, F.relu6, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
JITTER = 1e-5  # of jacov's eigenvalues


class ZeroCost(Evaluator):
    """One of SCORES. images: one batch of these decides; those of BLIND need none.

    image_size, classes: of the networks, where no images say. Raises ModelError for a score that there is not, or
    without the images that it needs.
    """

    def __init__(
        self, score: str, space: Networks, images: SearchImages | None, image_size: int = 32, classes: int = 10
    ) -> None:
        if score not in SCORES:
            raise ModelError(f"no zero-cost score {score!r}; there are {', '.join(SCORES)}")
        self.metrics, self.space = (score,), space
        if score in BLIND:
            side = images.images.side if images else image_size
            self.classes = len(images.images.classes) if images else classes
            self.x, self.y, content = torch.zeros(2, 3, side, side), torch.zeros(2).long(), [side, self.classes]
        elif images is None:
            raise ModelError(f"{score} needs images of the training or validation part")
        else:
            self.sees, content = frozenset({images.part}), images.content
            self.classes, (self.x, self.y) = len(images.images.classes), next(images.images.batches(len(images.images)))
        self.fingerprint = fingerprint(f"zerocost.{score}", space=space.networks, images=content)

    def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
        name = self.metrics[0]
        own = int(digest([f"{seed} {arch.genes}"]), 16)
        model = seeded(lambda: self.space.build(arch, self.classes, self.x.shape[-1]), own).train()
        value = SCORES[name](model, self.x, self.y)
        return {name: value}, 0 if name in BLIND else len(self.x)


def naswot(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """log |det K|, K_ij the number of rectified units in the same state (on or off) for images i and j.

    Source: Mellor et al., ICML 2021, equations 1-2: K_ij = N_A - Hamming distance of the units' binary codes. Minus
    infinity where two images have the same codes, or nothing is rectified.
    """
    kernel = torch.zeros(len(x), len(x), dtype=torch.float64)
    with torch.no_grad():
        for code in rectified(model, x):
            on = code.flatten(1).to(torch.float32)
            off = 1 - on
            kernel += (on @ on.T + off @ off.T).double()  # exact: whole numbers below 2^24
    sign, value = torch.linalg.slogdet(kernel)
    return value.item() if sign > 0 else float("-inf")


def rectified(model: nn.Module, x: Tensor) -> list[Tensor]:
    """For each ReLU that the network calls, which of its inputs are above 0: (B, ...) booleans."""
    seen: list[Tensor] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in RECTIFIERS:
                seen.append(args[0] > 0)
            return func(*args, **(kwargs or {}))

    with Watch():
        model(x)
    return seen


def synflow(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """log of the sum over all weights of |w dR/dw|, R the sum of the outputs for an image of ones, by absolute weights.

    Source: Tanaka et al., NeurIPS 2020, equation 2; without norms as in Abdelfattah et al., ICLR 2021.
    """
    without_norms(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.abs().double()
    out = model.eval()(torch.ones_like(x[:1], dtype=torch.float64)).sum()
    return math.log(sum((p.detach() * g).abs().sum().item() for p, g in _gradients(out, model)))


def snip(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Sum over the weights of layers of |w dL/dw|. Source: Lee et al., ICLR 2019; Abdelfattah et al., ICLR 2021."""
    grads = _gradients(F.cross_entropy(model(x), y), model)
    return sum((p.detach() * g).abs().sum().item() for p, g in grads)


def grad_norm(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Sum over layers of the Euclidean norm of dL/dw. Source: Abdelfattah et al., ICLR 2021, section 3.2."""
    grads = _gradients(F.cross_entropy(model(x), y), model)
    return sum(g.norm().item() for _, g in grads)


def jacov(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """-sum_i (log(s_i + k) + 1 / (s_i + k)), s the eigenvalues of the correlations between the images' Jacobians.

    The Jacobian of an image is that of the sum of its logits by its pixels. Source: Mellor et al., arXiv 2006.04647v1,
    equation 4, k = 1e-5.
    """
    x = x.clone().requires_grad_()
    (jacobian,) = torch.autograd.grad(model(x).sum(), x)
    values = torch.linalg.eigvalsh(torch.corrcoef(jacobian.flatten(1).double())) + JITTER
    return -(values.log() + 1 / values).sum().item()


def params(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Numbers in all parameters."""
    return float(count_parameters(model))


def flops(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Multiply-adds of convolutions and linear layers for one image."""
    total = 0

    def count(module: nn.Module, _: object, out: Tensor) -> None:
        nonlocal total
        weight = next(module.parameters())
        total += weight.numel() * (out[0].numel() // weight.shape[0])

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, LAYERS)]
    with torch.no_grad():
        model.eval()(x[:2])  # two: a norm of one image of one pixel has nothing to take a variance of
    for hook in hooks:
        hook.remove()
    return float(total)


Score = Callable[[nn.Module, Tensor, Tensor], float]
SCORES: dict[str, Score] = {f.__name__: f for f in (naswot, synflow, snip, grad_norm, jacov, params, flops)}
BLIND = ("synflow", "params", "flops")  # that no image decides


def _gradients(value: Tensor, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The weights of all layers that have a say in the value, each with its gradient."""
    weights = [m.weight for m in model.modules() if isinstance(m, LAYERS)]
    grads = torch.autograd.grad(value, weights, allow_unused=True)
    return [(w, g) for w, g in zip(weights, grads, strict=True) if g is not None]


def without_norms(model: nn.Module) -> nn.Module:
    """The model, its batch norms made to pass everything on unchanged, for good."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return model
