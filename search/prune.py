"""Which members of an ensemble to keep: the three prunings of SAEP, from their definitions.

All work on the labels that each member predicts for the same images; choose on validation images, report on others.
Source: Bian et al., Sub-Architecture Ensemble Pruning in Neural Architecture Search, IEEE TNNLS 2021.
"""

from random import Random

import numpy as np


def prs(members: int, rng: Random) -> list[int]:
    """Pruning by random selection: with probability 1/2 all members but one, each as likely; else all."""
    kept = list(range(members))
    if members > 1 and rng.random() < 0.5:
        kept.pop(rng.randrange(members))
    return kept


def pap(predicted: np.ndarray, labels: np.ndarray) -> list[int]:
    """Pruning by accuracy: the members without which the vote of all would err more; all where there is none.

    predicted: (members, images) labels. labels: (images,) true ones.
    """
    whole = _error(predicted, labels)
    kept = [i for i in range(len(predicted)) if _error(np.delete(predicted, i, 0), labels) > whole]
    return kept or list(range(len(predicted)))


def pie(
    predicted: np.ndarray, labels: np.ndarray, count: int, alpha: float = 0.5, first: int | None = None
) -> list[int]:
    """Pruning by information entropy: `count` members, chosen one by one for being unlike those chosen and like the
    truth.

    The next is the p with the largest sum over the chosen q of alpha VI(p, q) + (1 - alpha) (MI(p, L) + MI(q, L)) / 2,
    VI = 1 - I / H(p, q) and MI = I / sqrt(H H). first: the one to begin with (default: the most accurate).
    """
    if not 1 <= count <= len(predicted):
        raise ValueError(f"{count} of {len(predicted)} members cannot be kept")
    truth = [mutual(row, labels) for row in predicted]
    begin = int((predicted == labels).mean(1).argmax()) if first is None else first
    kept = [begin]
    while len(kept) < count:
        left = [p for p in range(len(predicted)) if p not in kept]
        gains = [
            sum(alpha * variation(predicted[p], predicted[q]) + (1 - alpha) * (truth[p] + truth[q]) / 2 for q in kept)
            for p in left
        ]
        kept.append(left[int(np.argmax(gains))])
    return sorted(kept)


def vote(predicted: np.ndarray) -> np.ndarray:
    """(images,) the label that most members give; of equals the lowest."""
    counts = np.stack([(predicted == c).sum(0) for c in range(int(predicted.max()) + 1)])
    return counts.argmax(0)


def mutual(one: np.ndarray, other: np.ndarray) -> float:
    """I(one, other) / sqrt(H(one) H(other)); 0 where one of them is constant."""
    shared, h_one, h_other, _ = _information(one, other)
    return shared / (h_one * h_other) ** 0.5 if h_one > 0 and h_other > 0 else 0.0


def variation(one: np.ndarray, other: np.ndarray) -> float:
    """1 - I(one, other) / H(one, other): 0 for the same up to names, 1 for independence; 0 where both are constant."""
    shared, _, _, joint = _information(one, other)
    return 1 - shared / joint if joint > 0 else 0.0


def _information(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float, float]:
    """Mutual information, both entropies and the joint one, in nats."""
    h_one, h_other = _entropy(one), _entropy(other)
    joint = _entropy(one.astype(np.int64) * (int(other.max()) + 1) + other)
    return max(0.0, h_one + h_other - joint), h_one, h_other, joint


def _entropy(values: np.ndarray) -> float:
    p = np.unique(values, return_counts=True)[1] / len(values)
    return float(max(0.0, -(p * np.log(p)).sum()))


def _error(predicted: np.ndarray, labels: np.ndarray) -> float:
    return float((vote(predicted) != labels).mean()) if len(predicted) else 1.0
