"""Processes that evaluate: each is given the evaluator once, at its start, whatever images or tables it holds."""

from collections.abc import Generator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from eval.evaluator import Arch, Evaluator, Result

_held: list[Evaluator] = []  # in a worker: its evaluator


class Held(Evaluator):
    """The same evaluator; what is sent to a worker of `processes` is not it, but word to use the one held there."""

    def __init__(self, inner: Evaluator) -> None:
        self.inner = inner
        self.metrics, self.fingerprint, self.sees, self.price = (
            inner.metrics,
            inner.fingerprint,
            inner.sees,
            inner.price,
        )

    def evaluate(self, archs: Sequence[Arch], seed: int = 0) -> list[Result]:
        return self.inner.evaluate(archs, seed)

    def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
        return self.inner.measure(arch, seed)

    def __reduce__(self) -> tuple[object, ...]:
        return _of_this_worker, ()


@contextmanager
def processes(count: int, evaluator: Evaluator) -> Generator[tuple[Executor | None, Evaluator]]:
    """An executor of `count` processes of one thread each, and the evaluator to search with; None for 0 processes."""
    if count < 1:
        yield None, evaluator
        return
    with ProcessPoolExecutor(count, get_context("spawn"), initializer=_begin, initargs=(evaluator,)) as pool:
        yield pool, Held(evaluator)


def _begin(evaluator: Evaluator) -> None:
    import torch

    torch.set_num_threads(1)
    _held.append(evaluator)


def _of_this_worker() -> Evaluator:
    return _held[0]
