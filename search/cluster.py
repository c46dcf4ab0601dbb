"""Workers of a Dask cluster behind the protocol of `concurrent.futures`; the only file that imports `distributed`.

Dask, not Ray: its client is such an executor as it is, it is pure Python of a few megabytes, and a cluster of any kind
(SSH, Slurm, Kubernetes, cloud) is joined by its address.
"""

from collections.abc import Generator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from eval.evaluator import Evaluator
from ghn.adapters import MissingExtraError
from search.errors import SearchError
from search.workers import Held, begin

LOCAL = "local:"
WAIT = 30  # seconds for the scheduler to answer


@contextmanager
def dask(where: str, evaluator: Evaluator) -> Generator[tuple[Executor, Evaluator]]:
    """An executor on a Dask cluster, and the evaluator to search with.

    where: the scheduler's address, or 'local:N' for N processes of this machine. Every worker, also one that joins
    later, is sent the evaluator once, and keeps it; searches can share a cluster. Raises SearchError where there is no
    cluster, or a worker has several threads: scores are drawn from torch's own generator, which threads would share.
    """
    try:
        import distributed
    except ImportError as error:
        raise MissingExtraError("a Dask cluster needs distributed: pip install 'ghn-predict[dask]'") from error
    with _client(distributed, where) as client:
        threads = {address: count for address, count in client.nthreads().items() if count != 1}
        if threads:
            raise SearchError(
                f"{len(threads)} workers of {where} have several threads ({next(iter(threads))} has "
                f"{next(iter(threads.values()))}); start them with --nthreads 1 --nworkers N"
            )

        class Holds(distributed.WorkerPlugin):
            name = evaluator.fingerprint

            def setup(self, worker: Any) -> None:
                begin(evaluator)

        client.register_plugin(Holds())
        with client.get_executor(pure=False) as executor:
            yield executor, Held(evaluator)


def _client(distributed: Any, where: str) -> Any:
    try:
        if not where.startswith(LOCAL):
            return distributed.Client(where, timeout=WAIT, set_as_default=False)
        count = where.removeprefix(LOCAL)
        if not count.isdecimal() or int(count) < 1:
            raise SearchError(f"no cluster {where!r}; give tcp://HOST:PORT, or local:N for N processes here")
        return distributed.Client(
            n_workers=int(count), threads_per_worker=1, dashboard_address=None, set_as_default=False
        )
    except (OSError, ValueError, TimeoutError) as error:
        if isinstance(error, SearchError):
            raise
        raise SearchError(f"no Dask cluster answers at {where} ({error}); start `dask scheduler` there") from error
