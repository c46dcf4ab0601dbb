"""Processes that evaluate: each is given the evaluator once, at its start, whatever images or tables it holds."""

from collections.abc import Generator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import get_context

from eval.evaluator import Arch, Evaluator, Result
from search.errors import SearchError

_held: dict[str, Evaluator] = {}  # in a worker: by fingerprint, for a cluster may serve several searches


class Held(Evaluator):
    """The same evaluator; what is sent to a worker is not it, but word to use the one held there."""

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
        return Here, (self.fingerprint,)


class Here(Evaluator):
    """In a worker: the evaluator held there, looked for only when asked, since schedulers too read what is sent."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def evaluate(self, archs: Sequence[Arch], seed: int = 0) -> list[Result]:
        return _held[self.fingerprint].evaluate(archs, seed)

    def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
        return _held[self.fingerprint].measure(arch, seed)


@contextmanager
def processes(count: int, evaluator: Evaluator) -> Generator[tuple[Executor | None, Evaluator]]:
    """An executor of `count` processes of one thread each, and the evaluator to search with; None for 0 processes."""
    if count < 1:
        yield None, evaluator
        return
    with ProcessPoolExecutor(count, get_context("spawn"), initializer=begin, initargs=(evaluator,)) as pool:
        yield pool, Held(evaluator)


def workers(
    count: int, cluster: str | None, evaluator: Evaluator
) -> AbstractContextManager[tuple[Executor | None, Evaluator]]:
    """`processes`, or where a cluster is named, its workers (`search.cluster`). Raises SearchError where both are."""
    if cluster is None:
        return processes(count, evaluator)
    if count:
        raise SearchError("--workers are processes of this machine, --cluster has its own; give one")
    from search.cluster import dask

    return dask(cluster, evaluator)


def begin(evaluator: Evaluator) -> None:
    """Makes this process a worker, of one thread, that holds the evaluator."""
    import torch

    torch.set_num_threads(1)
    _held[evaluator.fingerprint] = evaluator
