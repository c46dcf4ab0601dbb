"""A ranker that learns from few trained architectures: a small network on an encoding, by pairs or by values.

Source of the loss: Xu et al., ReNAS, CVPR 2021, equation 3 (softplus of the signed difference over all pairs).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eval.evaluator import Arch, Evaluator, digest, fingerprint
from ghn.errors import GHNError

LEAST = 5  # labels
WIDTH, STEPS, LR, DECAY = 64, 300, 1e-2, 1e-3
MEMBERS = 3


class Learned(Evaluator):
    """rank_score: larger for what should be better; it orders, and is on no scale.

    encode: an architecture as numbers: `SearchSpace.encode`, or a GHN's embedding. labels: (architecture, truth) that
    were trained; report on others. sees: the part of the data that the truth was measured on. pairs: learn from pairs
    (a ranking loss); else from values, by squared error. The mean of MEMBERS networks of different initialisation.
    """

    metrics = ("rank_score",)

    def __init__(
        self,
        encode: Callable[[Arch], Sequence[float]],
        labels: Sequence[tuple[Arch, float]],
        sees: str,
        *,
        pairs: bool = True,
        seed: int = 0,
    ) -> None:
        if len(labels) < LEAST:
            raise GHNError(f"a ranker needs {LEAST} labelled architectures or more, not {len(labels)}")
        self.encode, self.sees = encode, frozenset({sees})
        x = torch.tensor([list(encode(arch)) for arch, _ in labels], dtype=torch.float32)
        y = torch.tensor([truth for _, truth in labels], dtype=torch.float32)
        self._mean, self._scale = x.mean(0), x.std(0).clamp(min=1e-6)
        self._networks = [_fitted((x - self._mean) / self._scale, y, pairs, seed + k) for k in range(MEMBERS)]
        content = digest(f"{arch.genes} {truth!r}" for arch, truth in labels)
        self.fingerprint = fingerprint("learned", labels=content, pairs=pairs, seed=seed)

    @torch.no_grad()
    def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
        row = torch.tensor([list(self.encode(arch))], dtype=torch.float32)
        x = (row - self._mean) / self._scale
        return {"rank_score": sum(network(x).item() for network in self._networks) / MEMBERS}, 0


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
