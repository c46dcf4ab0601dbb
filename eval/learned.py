"""A ranker that learns from few trained architectures: a small network on an encoding, by pairs or by values.

Source of the loss: Xu et al., ReNAS, CVPR 2021, equation 3 (softplus of the signed difference over all pairs).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eval.evaluator import Arch, Evaluator, digest, fingerprint
from ghn.errors import GHNError

LEAST = 5  # labels
WIDTH, STEPS, LR, DECAY = 64, 300, 1e-2, 1e-3
MEMBERS = 3

Encoding = Callable[[Arch], Sequence[float]]


class Learned(Evaluator):
    """rank_score: larger for what should be better; it orders, and is on no scale.

    encode: an architecture as numbers: `SearchSpace.encode`, a GHN's embedding, or several (`Beside`). labels:
    (architecture, truth) that were trained; `told` names them, report on others. sees: the part of the data that the
    truth was measured on. inner: an evaluator whose metrics stand beside the encoding (stacking); an architecture that
    it fails on has no score, and teaches nothing. pairs: learn from pairs (a ranking loss); else from values, by
    squared error. The mean of MEMBERS networks of different initialisation. The labels' own cost is not charged.
    """

    metrics = ("rank_score",)

    def __init__(
        self,
        encode: Encoding,
        labels: Sequence[tuple[Arch, float]],
        sees: str,
        *,
        inner: Evaluator | None = None,
        pairs: bool = True,
        seed: int = 0,
    ) -> None:
        self.encode, self.inner = encode, inner
        self.sees = frozenset({sees}) | (inner.sees if inner else frozenset())
        self.told = frozenset(arch.key for arch, _ in labels)
        self.price = inner.price if inner else 1
        rows, truths = self._examples(labels, seed)
        self.labels = len(rows)
        if len(rows) < LEAST:
            raise GHNError(f"a ranker needs {LEAST} labelled architectures or more that make networks, not {len(rows)}")
        x = torch.tensor(rows, dtype=torch.float32)
        y = torch.tensor(truths, dtype=torch.float32)
        self._mean, self._scale = x.mean(0), x.std(0).clamp(min=1e-6)
        self._networks = [_fitted((x - self._mean) / self._scale, y, pairs, seed + k) for k in range(MEMBERS)]
        content = digest(f"{arch.genes} {truth!r}" for arch, truth in labels)
        columns = digest(f"{row!r}" for row in rows)
        of = inner.fingerprint if inner else None
        self.fingerprint = fingerprint("learned", labels=content, columns=columns, of=of, pairs=pairs, seed=seed)

    @torch.no_grad()
    def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
        row, images = self._row(arch, seed)
        x = (torch.tensor([row], dtype=torch.float32) - self._mean) / self._scale
        return {"rank_score": sum(network(x).item() for network in self._networks) / MEMBERS}, images

    def _examples(self, labels: Sequence[tuple[Arch, float]], seed: int) -> tuple[list[list[float]], list[float]]:
        """Rows and truths of the labelled architectures that have a row."""
        rows, truths = [], []
        for arch, truth in labels:
            try:
                rows.append(self._row(arch, seed)[0])
            except (GHNError, ArithmeticError, ValueError):
                continue
            truths.append(truth)
        return rows, truths

    def _row(self, arch: Arch, seed: int) -> tuple[list[float], int]:
        """What stands for the architecture, and the images that networks saw for it."""
        row, images = list(self.encode(arch)), 0
        if self.inner:
            (result,) = self.inner.evaluate([arch], seed)
            if result.error is not None:
                raise GHNError(result.error)
            row += [result.metrics[name] for name in self.inner.metrics]
            images = result.cost.images
        return row, images


@dataclass(frozen=True)
class Beside:
    """One encoding after the other, which travels to other processes as lambdas do not."""

    encodings: Sequence[Encoding]

    def __call__(self, arch: Arch) -> list[float]:
        return [number for encode in self.encodings for number in encode(arch)]


def _fitted(x: Tensor, y: Tensor, pairs: bool, seed: int) -> nn.Module:
    """A network trained on all labels at a time, its outputs brought to unit variance so that members weigh alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(x.shape[1], WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
        network.append(nn.Linear(WIDTH, 1)).append(nn.Flatten(0))
    target = (y - y.mean()) / y.std().clamp(min=1e-6)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=DECAY)
    for _ in range(STEPS):
        out = network(x)
        loss = pairwise_loss(out, y) if pairs else F.mse_loss(out, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        out = network(x)
        last = network[-2]
        assert isinstance(last, nn.Linear)
        last.bias.sub_(out.mean()).div_(spread := out.std().clamp(min=1e-6))
        last.weight.div_(spread)
    return network.eval()


def pairwise_loss(scores: Tensor, truth: Tensor) -> Tensor:
    """Mean over pairs of different truth of softplus(-(s_i - s_j) sign(y_i - y_j)), (n,) each."""
    signs = (truth[:, None] - truth[None]).sign()
    losses = F.softplus(-(scores[:, None] - scores[None]) * signs)
    return (losses * signs.abs()).sum() / signs.abs().sum().clamp(min=1)
