"""How long a network takes on this machine."""

import time
from statistics import median

import torch

from eval.evaluator import Arch, Evaluator, Networks, fingerprint
from eval.zerocost import without_norms

WARM_UP = 3


class Latency(Evaluator):
    """latency_ms: the median of `repeats` forward passes in eval mode, on one thread, after three that do not count.

    batch: images at a time. Weights are random and batch norms left out, as if folded into the convolutions. No two
    measurements are the same; keep other work off the machine.
    """

    metrics = ("latency_ms",)

    def __init__(self, space: Networks, image_size: int = 32, batch: int = 1, repeats: int = 20) -> None:
        self.space, self.side, self.batch, self.repeats = space, image_size, batch, repeats
        self.fingerprint = fingerprint("latency", space=space.networks, side=image_size, batch=batch, repeats=repeats)

    @torch.no_grad()
    def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
        model = without_norms(self.space.build(arch, 10, self.side)).eval()
        x = torch.zeros(self.batch, 3, self.side, self.side)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            taken = [_seconds(model, x) for _ in range(WARM_UP + self.repeats)][WARM_UP:]
        finally:
            torch.set_num_threads(threads)
        return {"latency_ms": 1e3 * median(taken)}, 0


def _seconds(model: torch.nn.Module, x: torch.Tensor) -> float:
    began = time.perf_counter()
    model(x)
    return time.perf_counter() - began
