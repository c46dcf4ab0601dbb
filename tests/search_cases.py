"""Conformance: what every SearchSpace, every Strategy and every Evaluator must do. A test inherits and gives one."""

import json
from collections.abc import Sequence
from random import Random

import pytest
from reference import SHARED

from eval.evaluator import TEST, Arch, Evaluator, Result
from search.budget import Budget
from search.driver import search
from search.errors import SearchError
from search.history import from_record, to_record
from search.objective import Maximise, Minimise, Objective, maximise
from search.space import SearchSpace, Variable
from search.strategy import Strategy

TABLES = SHARED / "data" / "nas"
IMAGES = SHARED / "data" / "cifar10"
needs_tables = pytest.mark.skipif(not TABLES.is_dir(), reason="../shared/data/nas is not at hand")
needs_images = pytest.mark.skipif(not IMAGES.is_dir(), reason="../shared/data/cifar10 is not at hand")


class Toy(SearchSpace):
    """Five digits, the last of which counts only where the first is not 0; all zeros make no network."""

    name = "toy"
    variables = tuple(Variable(f"digit_{i}", tuple(range(4))) for i in range(5))

    def active(self, genes: tuple[int, ...]) -> Sequence[bool]:
        return [True] * 4 + [genes[0] > 0]

    def valid(self, genes: tuple[int, ...]) -> bool:
        return any(genes)

    def identity(self, genes: tuple[int, ...]) -> str:
        return "-".join(map(str, [genes[0], *sorted(genes[1:3]), *genes[3:]]))  # the middle digits may trade places


class Digits(Evaluator):
    """The sum of the digits and their largest; fails where the last is 3."""

    metrics = ("total", "largest")
    fingerprint = "digits"

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
        self.calls.append(arch.genes)
        if arch.genes[-1] == 3:
            raise ArithmeticError("the last digit is 3")
        return {"total": float(sum(arch.genes)), "largest": float(max(arch.genes))}, 10


class SpaceCase:
    """Properties of a space. builds: whether a random architecture is built and compared with its graph."""

    builds = True
    image_size = 32

    @pytest.fixture(scope="class")
    @classmethod
    def space(cls) -> SearchSpace:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def some(cls, space: SearchSpace) -> list[Arch]:
        rng = Random(0)
        return [space.sample(rng) for _ in range(20)]

    def test_sampling_depends_on_the_generator_alone(self, space: SearchSpace, some: list[Arch]) -> None:
        rng = Random(0)
        assert [space.sample(rng) for _ in range(20)] == some
        assert len({a.genes for a in some}) > 10

    def test_records_come_back(self, space: SearchSpace, some: list[Arch]) -> None:
        for arch in some:
            again = space.read(json.loads(json.dumps(arch.to_dict())))
            assert (again, again.key) == (arch, arch.key)
            assert space.named(**space.choices(arch)) == arch

    def test_neighbours_differ_in_one_choice_and_are_mutual(self, space: SearchSpace, some: list[Arch]) -> None:
        for arch in some[:4]:
            ways = space.neighbors(arch)
            assert len({a.genes for a in ways}) == len(ways) > 0
            assert arch not in ways
            fixed = [a for a in ways if space.active(a.genes) == space.active(arch.genes)]
            assert all(sum(g != h for g, h in zip(a.genes, arch.genes, strict=True)) == 1 for a in fixed)
            assert all(arch in space.neighbors(a) for a in fixed[:5])

    def test_mutants_are_neighbours_and_all_of_them_come_up(self, space: SearchSpace, some: list[Arch]) -> None:
        rng, arch = Random(1), some[0]
        ways = set(space.neighbors(arch))
        seen = {space.mutate(arch, rng) for _ in range(25 * len(ways))}
        assert seen <= ways
        assert len(seen) > 0.9 * len(ways)

    def test_children_have_their_parents_genes(self, space: SearchSpace, some: list[Arch]) -> None:
        rng = Random(2)
        for one, other in zip(some[:10], some[10:], strict=True):
            child = space.crossover(one, other, rng)
            active = space.active(child.genes)
            genes = zip(child.genes, one.genes, other.genes, active, strict=True)
            assert all(g in (a, b) for g, a, b, counts in genes if counts)

    def test_encodings_tell_architectures_apart(self, space: SearchSpace, some: list[Arch]) -> None:
        rows = {a.genes: tuple(space.encode(a)) for a in some}
        assert len(set(rows.values())) == len(rows)
        assert {len(row) for row in rows.values()} == {sum(len(v.choices) for v in space.variables)}
        assert all(sum(rows[a.genes]) == sum(space.active(a.genes)) for a in some)

    def test_genes_without_effect_are_set_to_0(self, space: SearchSpace, some: list[Arch]) -> None:
        for arch in some:
            active = space.active(arch.genes)
            rows = zip(arch.genes, active, space.variables, strict=True)
            changed = [g if counts else len(v.choices) - 1 for g, counts, v in rows]
            assert space.arch(changed) == arch

    def test_what_is_wrong_is_told(self, space: SearchSpace, some: list[Arch]) -> None:
        genes = list(some[0].genes)
        with pytest.raises(SearchError, match="variables"):
            space.arch(genes[1:])
        with pytest.raises(SearchError, match="choices, not number 99"):
            space.arch([*genes[:-1], 99])
        with pytest.raises(SearchError, match="no architecture of"):
            space.read({"space": "another", "genes": genes})
        with pytest.raises(SearchError, match="no variable nonsense"):
            space.named(nonsense=1)

    def test_the_stated_graph_is_that_of_the_module(self, space: SearchSpace, some: list[Arch]) -> None:
        if not self.builds:
            pytest.skip("makes no modules")
        import torch

        import ghn
        from ghn.errors import GHNError

        for arch in some:
            try:
                graph = space.graph(arch, 7, self.image_size)
            except GHNError:  # a cell that is cut off
                continue
            with torch.device("meta"):
                model = space.build(arch, 7, self.image_size)
            assert ghn.trace(model) == graph
            assert graph.num_params == sum(p.numel() for p in model.parameters())
            assert space.traits(arch)["params"] > 0
            assert space.describe(arch)
            assert len(space.picture(arch)) > 3
            return


class StrategyCase:
    """Properties of a strategy, on a space of digits whose sum is to be large."""

    settings: dict[str, object] = {}  # noqa: RUF012
    budget = 60
    finds = 12.0  # what it must reach within the budget

    def make(self, seed: int = 0, objective: Objective | None = None) -> Strategy:
        raise NotImplementedError

    def run(self, strategy: Strategy, batch: int = 1) -> tuple[Result, ...]:
        return search(strategy, Digits(), Budget(self.budget), batch=batch).results

    def test_finds_something_good(self) -> None:
        outcome = search(self.make(), Digits(), Budget(self.budget))
        assert outcome.best[0].metrics["total"] >= self.finds
        assert outcome.spent.evaluations == self.budget == len(outcome.results)

    def test_asking_changes_nothing(self) -> None:
        strategy, evaluator = self.make(), Digits()
        for _ in range(12):
            asked = strategy.ask(3)
            assert 1 <= len(asked) <= 3
            assert strategy.ask(3) == asked
            assert strategy.ask(1) == asked[:1]
            strategy.tell(evaluator.evaluate(asked))

    def test_the_seed_decides(self) -> None:
        assert self.run(self.make(3)) == self.run(self.make(3))
        assert self.run(self.make(3)) != self.run(self.make(4))

    def test_a_state_goes_on_as_the_strategy_would(self) -> None:
        strategy, evaluator = self.make(), Digits()
        for step in range(30):
            if step % 7 == 3:
                fresh = self.make()
                fresh.load_state_dict(json.loads(json.dumps(strategy.state_dict(), allow_nan=False)))
                assert fresh.ask(4) == strategy.ask(4)
                strategy = fresh
            strategy.tell(evaluator.evaluate(strategy.ask(2)))

    def test_telling_the_same_again_gives_the_same_strategy(self) -> None:
        strategy, evaluator = self.make(), Digits()
        told = []
        for _ in range(25):
            told.append(evaluator.evaluate(strategy.ask(2)))
            strategy.tell(told[-1])
        again = self.make()
        for results in told:
            again.tell(results)
        assert again.state_dict() == strategy.state_dict()
        assert again.ask(5) == strategy.ask(5)

    def test_failures_and_limits_are_survived(self) -> None:
        results = self.run(self.make(), batch=4)
        assert any(r.error for r in results)

        class Broken(Digits):
            def measure(self, arch: Arch, seed: int) -> tuple[dict[str, float], int]:
                raise ArithmeticError("always")

        assert len(search(self.make(), Broken(), Budget(30)).results) == 30

    def test_several_objectives_are_refused_or_searched(self) -> None:
        both = Objective((Maximise("total"), Minimise("largest")))
        if self.make().single:
            with pytest.raises(SearchError, match="maximises one value"):
                self.make(objective=both)
        else:
            assert len(search(self.make(objective=both), Digits(), Budget(self.budget)).best) >= 3


class EvaluatorCase:
    """Properties of an evaluator. exact: whether the same architecture gets the same score again."""

    exact = True

    @pytest.fixture(scope="class")
    @classmethod
    def evaluator(cls) -> Evaluator:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def archs(cls) -> list[Arch]:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def results(cls, evaluator: Evaluator, archs: list[Arch]) -> list[Result]:
        return evaluator.evaluate(archs, seed=5)

    def test_each_gets_its_result_in_order(
        self, evaluator: Evaluator, archs: list[Arch], results: list[Result]
    ) -> None:
        assert [r.arch for r in results] == archs
        for r in results:
            assert (r.error is None) == (set(r.metrics) == set(evaluator.metrics))
            assert r.metrics or r.error
            assert r.cost.seconds >= 0
            assert (r.evaluator, r.seed) == (evaluator.fingerprint, 5)
            assert r.cost.evaluations <= evaluator.price
        assert any(r.error is None for r in results)

    def test_a_score_does_not_depend_on_the_company(
        self, evaluator: Evaluator, archs: list[Arch], results: list[Result]
    ) -> None:
        again = evaluator.evaluate(archs[1:2], seed=5)
        if self.exact:
            assert again == results[1:2]
        else:
            assert [r.arch for r in again] == archs[1:2]

    def test_results_are_kept_as_json(self, results: list[Result]) -> None:
        space = Toy() if results[0].arch.space == "toy" else _space(results[0].arch)
        for r in results:
            assert from_record(json.loads(json.dumps(to_record(r), allow_nan=False)), space) == r

    def test_no_score_for_search_has_seen_test_data(self, evaluator: Evaluator) -> None:
        assert TEST not in evaluator.sees

    def test_it_has_a_fingerprint(self, evaluator: Evaluator) -> None:
        assert evaluator.fingerprint
        assert evaluator.metrics


def _space(arch: Arch) -> SearchSpace:
    from search.spaces import make_space

    return make_space(arch.space)


TOTAL = maximise("total")
