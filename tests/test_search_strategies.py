"""Every strategy conforms; each against what its paper says, by hand or by another implementation."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from search_cases import TOTAL, Digits, StrategyCase, Toy

from eval.evaluator import Arch, Cost, Result
from search.budget import Budget
from search.driver import search
from search.errors import SearchError
from search.objective import Limit, Maximise, Minimise, Objective, Reward, maximise
from search.pareto import crowding, dominates, front, hypervolume, ranks
from search.strategies import STRATEGIES, make_strategy
from search.strategy import Strategy

BOTH = Objective((Maximise("total"), Minimise("largest")))


class Named(StrategyCase):
    name = ""

    def make(self, seed: int = 0, objective: Objective | None = None) -> Strategy:
        return make_strategy(self.name, Toy(), objective or TOTAL, seed, **self.settings)


class TestRandom(Named):
    name, finds = "random", 10.0

    def test_the_batch_plays_no_part(self) -> None:
        assert self.run(self.make()) == self.run(self.make(), batch=7)


class TestEvolution(Named):
    name, settings = "evolution", {"population": 10, "sample": 4}

    def test_the_oldest_die_and_parents_win_tournaments(self) -> None:
        strategy = self.make()
        results = self.run(strategy)
        living = {tuple(g) for g, _ in strategy.state_dict()["living"]}
        assert living == {r.arch.genes for r in results[-10:]}
        for child in strategy.ask(20):  # each is a neighbour of somebody alive
            assert any(child in Toy().neighbors(Toy().arch(g)) for g in living)

    def test_a_first_population_is_scored_first(self) -> None:
        first = [Toy().arch([3, 3, 3, 3, g]) for g in range(3)]
        strategy = make_strategy("evolution", Toy(), TOTAL, 0, population=5, sample=2, initial=first)
        assert strategy.ask(5)[:3] == first

    def test_beats_random_search_from_the_same_number(self) -> None:
        def mean(name: str, **settings: int) -> float:
            runs = [
                search(make_strategy(name, Toy(), TOTAL, seed, **settings), Digits(), Budget(60)) for seed in range(20)
            ]
            return float(np.mean([o.best[0].metrics["total"] for o in runs]))

        assert mean("evolution", population=10, sample=4) > mean("random") + 0.3


class TestLocal(Named):
    name = "local"

    def test_walks_to_a_place_whose_neighbours_are_no_better(self) -> None:
        seen: dict[tuple[int, ...], float] = {}
        strategy, space, evaluator = self.make(), Toy(), Digits()
        for _ in range(400):
            asked = strategy.ask(1)
            if strategy.told and strategy.state_dict()["centre"] is None:
                top = max(seen, key=lambda g: seen[g])
                assert all(seen[a.genes] <= seen[top] for a in space.neighbors(space.arch(top)))
                break
            strategy.tell(results := evaluator.evaluate(asked))
            seen[asked[0].genes] = results[0].metrics.get("total", float("-inf"))
        else:
            pytest.fail("never came to rest")
        assert len(evaluator.calls) == len(set(evaluator.calls)), "a neighbour was scored twice"


class TestNsga2(Named):
    name, settings = "nsga2", {"population": 12}

    def test_no_survivor_is_of_a_later_front_than_one_that_died(self) -> None:
        strategy, evaluator = self.make(objective=BOTH), Digits()
        for _ in range(5):
            before = [tuple(v) for _, v in strategy.state_dict()["parents"] if v]
            results = evaluator.evaluate(strategy.ask(12))
            strategy.tell(results)
            both = before + [v for r in results if (v := BOTH.values(r)) is not None]
            alive = [tuple(v) for _, v in strategy.state_dict()["parents"] if v]
            rank = dict(zip(both, ranks(both), strict=True))
            dead = [p for p in both if p not in alive]
            assert max(rank[p] for p in alive) <= min((rank[p] for p in dead), default=99)
            assert len(alive) == min(12, len(both))


class TestOptuna(Named):
    name, budget, finds = "optuna", 30, 10.0

    @pytest.fixture(autouse=True)
    def optuna(self) -> None:
        pytest.importorskip("optuna")

    def test_an_unknown_sampler_is_told(self) -> None:
        with pytest.raises(SearchError, match="TPESampler"):
            make_strategy("optuna", Toy(), TOTAL, sampler="nonsense")


def test_what_is_wrong_is_told() -> None:
    with pytest.raises(SearchError, match=r"random, evolution"):
        make_strategy("nonsense", Toy(), TOTAL)
    with pytest.raises(SearchError, match="cannot be made with"):
        make_strategy("random", Toy(), TOTAL, nonsense=1)
    with pytest.raises(SearchError, match="cannot compete"):
        make_strategy("evolution", Toy(), TOTAL, population=5, sample=6)
    with pytest.raises(SearchError, match="no parents"):
        make_strategy("nsga2", Toy(), TOTAL, population=1)


def test_strategies_wait_for_neither_torch_nor_a_ghn() -> None:
    """And not just in their own imports: nothing that they import brings torch."""
    modules = [f"search.strategies.{path.partition(':')[0]}" for path in STRATEGIES.values()]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules or 'ghn.model' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0


def _result(**metrics: float) -> Result:
    return Result(Toy().arch([1, 0, 0, 0, 0]), metrics, Cost(1), "test")


def test_the_reward_of_mnasnet() -> None:
    """Tan et al. 2019, equations 2-3: twice the latency counts as 5% of the accuracy, by the soft exponent."""
    soft, hard = Reward.soft("acc", "ms", 80.0), Reward.hard("acc", "ms", 80.0)
    assert soft({"acc": 0.5, "ms": 80.0}) == 0.5
    assert soft({"acc": 0.5, "ms": 160.0}) == pytest.approx(0.5 * 2**-0.07)
    assert soft({"acc": 0.5 * 1.05, "ms": 160.0}) == pytest.approx(soft({"acc": 0.5, "ms": 80.0}), rel=2e-3)
    assert soft({"acc": 0.5, "ms": 40.0}) > 0.5
    assert hard({"acc": 0.5, "ms": 40.0}) == 0.5
    assert hard({"acc": 0.5, "ms": 160.0}) == 0.25
    assert soft.needs == ("acc", "ms")
    with pytest.raises(SearchError, match="above 0"):
        Reward.soft("acc", "ms", 0.0)


def test_limits_and_failures_have_no_value() -> None:
    objective = Objective((Maximise("acc"), Minimise("ms")), (Limit("ms", 10),))
    assert objective.values(_result(acc=0.5, ms=10)) == (0.5, -10)
    assert objective.values(_result(acc=0.5, ms=10.1)) is None
    assert objective.values(replace(_result(), error="no")) is None
    with pytest.raises(SearchError, match=r"reads ms; the evaluator gives acc"):
        objective.check(("acc",))
    with pytest.raises(SearchError, match="something to maximise"):
        Objective(())
    assert maximise("acc").needs == {"acc"}


# Fronts against their definitions and against pymoo.

points = arrays(float, st.tuples(st.integers(1, 25), st.integers(2, 3)), elements=st.integers(0, 6).map(float))


@given(points)
def test_ranks_are_fronts_of_what_is_left(x: np.ndarray) -> None:
    left, number = list(range(len(x))), 0
    found = ranks(x.tolist())
    while left:
        best = [i for i in left if not any(dominates(x[j], x[i]) for j in left)]
        assert best == [i for i in left if found[i] == number]
        left, number = [i for i in left if i not in best], number + 1
    assert front(x.tolist()) == [i for i, rank in enumerate(found) if rank == 0]


@given(points)
def test_hypervolume_counts_unit_cubes(x: np.ndarray) -> None:
    """On whole numbers it is the number of unit cubes below a point."""
    cubes = np.stack(np.meshgrid(*[np.arange(6)] * x.shape[1], indexing="ij"), -1).reshape(-1, x.shape[1])
    covered = ((cubes[:, None] + 1) <= x[None]).all(2).any(1).sum()
    assert hypervolume(x.tolist(), [0.0] * x.shape[1]) == covered


def test_fronts_are_those_of_pymoo() -> None:
    pytest.importorskip("pymoo")
    from pymoo.indicators.hv import HV
    from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    rng = np.random.default_rng(0)
    for shape in ((40, 2), (40, 3)):
        x = rng.normal(size=shape)
        theirs = NonDominatedSorting().do(-x)
        ours = ranks(x.tolist())
        assert [sorted(f.tolist()) for f in theirs] == [
            [i for i, r in enumerate(ours) if r == n] for n in range(max(ours) + 1)
        ]
        first = x[theirs[0]]
        got, wanted = np.array(crowding(first.tolist())), calc_crowding_distance(-first) * shape[1]
        assert np.allclose(got[np.isfinite(got)], wanted[np.isfinite(wanted)])
        assert np.array_equal(np.isinf(got), np.isinf(wanted))
        reference = x.min(0) - 0.1
        volume = HV(ref_point=-reference)(-x)
        assert volume is not None
        assert hypervolume(x.tolist(), reference.tolist()) == pytest.approx(float(volume))


def test_nsga2_covers_as_much_as_pymoo_does() -> None:
    """Hypervolume after 300 evaluations of a problem with a known front, five seeds."""
    pytest.importorskip("pymoo")
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.pm import PolynomialMutation
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    weights = np.random.default_rng(0).normal(size=(2, 12))

    class Wide(Toy):
        variables = Toy.variables[:1] * 12

        def active(self, genes: tuple[int, ...]) -> list[bool]:
            return [True] * 12

        def identity(self, genes: tuple[int, ...]) -> str:
            return str(genes)

    class Weighted(Digits):
        metrics = ("one", "other")

        def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
            one, other = (weights @ np.array(arch.genes)).tolist()
            return {"one": one, "other": other - 0.2 * one}, 0

    class Theirs(Problem):
        def __init__(self) -> None:
            super().__init__(n_var=12, n_obj=2, xl=0, xu=3, vtype=int)

        def _evaluate(self, x: np.ndarray, out: dict, *args: object, **kwargs: object) -> None:
            y = x @ weights.T
            out["F"] = -np.stack([y[:, 0], y[:, 1] - 0.2 * y[:, 0]], 1)

    objective, reference = Objective((Maximise("one"), Maximise("other"))), (-15.0, -15.0)
    ours, theirs = [], []
    for seed in range(5):
        outcome = search(make_strategy("nsga2", Wide(), objective, seed, population=20), Weighted(), Budget(300))
        ours.append(hypervolume([v for r in outcome.best if (v := objective.values(r))], reference))
        algorithm = NSGA2(
            pop_size=20,
            sampling=IntegerRandomSampling(),
            crossover=UniformCrossover(prob=0.9, repair=RoundingRepair()),
            mutation=PolynomialMutation(prob=1.0, eta=3, repair=RoundingRepair()),
        )
        found = minimize(Theirs(), algorithm, ("n_gen", 15), seed=seed)
        theirs.append(hypervolume((-found.F).tolist(), reference))
    assert np.mean(ours) > 0.97 * np.mean(theirs), (ours, theirs)
