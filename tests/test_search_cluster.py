"""Workers of a Dask cluster: the same result as processes and as none, and what is wrong with a cluster told."""

import pytest
from search_cases import TOTAL, Digits, Toy

from search.budget import Budget
from search.driver import Outcome, search
from search.errors import SearchError
from search.strategies import make_strategy
from search.workers import workers

distributed = pytest.importorskip(
    "distributed", reason="distributed is not installed (pip install 'ghn-predict[dask]')"
)
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning", "default::ResourceWarning")


def found(count: int, cluster: str | None, *seeds: int) -> list[Outcome]:
    """What a search finds with each seed, on the same workers."""
    outcomes = []
    with workers(count, cluster, Digits()) as (executor, evaluator):
        for seed in seeds:
            strategy = make_strategy("evolution", Toy(), TOTAL, seed, population=6, sample=3)
            outcomes.append(search(strategy, evaluator, Budget(24), batch=3, seed=seed, executor=executor))
    return outcomes


def test_two_workers_of_a_cluster_find_what_two_processes_and_none_do() -> None:
    alone, pair, cluster = found(0, None, 0, 1), found(2, None, 0, 1), found(0, "local:2", 0, 1)
    assert [o.results for o in alone] == [o.results for o in pair] == [o.results for o in cluster]
    assert [o.best for o in alone] == [o.best for o in cluster]
    assert alone[0].results != alone[1].results


def test_a_cluster_of_threads_is_refused() -> None:
    """And one that is there is joined by its address."""
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        pytest.raises(SearchError, match=r"have several threads .*start them with --nthreads 1"),
    ):
        found(0, cluster.scheduler_address, 0)


@pytest.mark.parametrize(
    ("count", "where", "says"),
    [
        (0, "local:many", "give tcp://HOST:PORT, or local:N"),
        (0, "local:0", "give tcp://HOST:PORT, or local:N"),
        (2, "local:2", "give one"),
        (0, "tcp://127.0.0.1:9", "no Dask cluster answers at tcp://127.0.0.1:9"),
    ],
)
def test_what_is_no_cluster_is_told(count: int, where: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.cluster.WAIT", 2)
    with pytest.raises(SearchError, match=says):
        found(count, where, 0)
