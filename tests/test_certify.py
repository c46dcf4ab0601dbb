"""Rank statistics against scipy, certificates against what is known, prunings against their definitions."""

import json
import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_cases import Toy

from eval.certify import Certificate, bootstrap, certify
from eval.evaluator import Cost, Result
from eval.rank import kendall, percentiles, precision, regret
from eval.report import certificates_page
from ghn.errors import GHNError
from search.prune import mutual, pap, pie, prs, variation, vote

numbers = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=40)


@given(numbers)
def test_kendall_counts_pairs(rows: list[tuple[int, int]]) -> None:
    x, y = np.array(rows).T
    n = len(x)
    pairs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i in range(n) for j in range(i)]
    total = sum(int(a * b) for a, b in pairs)
    spread = sum(a != 0 for a, _ in pairs) * sum(b != 0 for _, b in pairs)
    found = kendall(x, y)
    assert math.isnan(found) if spread == 0 else found == pytest.approx(total / math.sqrt(spread))


def test_kendall_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for n, levels in ((1000, 10**6), (3000, 40)):
        x = rng.integers(0, levels, n)
        y = x + rng.integers(0, levels, n)
        assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
        assert kendall(x.astype(float), -y.astype(float)) == pytest.approx(-kendall(x, y))


def test_top_statistics_by_hand() -> None:
    truth, scores = np.array([1.0, 5.0, 3.0, 4.0]), np.array([0.9, 0.1, 0.8, 0.7])
    assert [precision(scores, truth, k) for k in (1, 2, 4)] == [0, 0, 1]
    assert [regret(scores, truth, k) for k in (1, 2, 3, 4)] == [4, 2, 1, 0]
    assert percentiles(np.array([3.0, 1.0, 3.0, 9.0])).tolist() == [0.5, 0.125, 0.5, 0.875]


def results(scores: list[float | None]) -> list[Result]:
    arch = Toy().arch([1, 0, 0, 0, 0])
    return [
        Result(arch, {} if s is None else {"s": s}, Cost(1, 0, 0.25), "test", 0, "failed" if s is None else None)
        for s in scores
    ]


def certificate(noise: float, n: int = 400, seed: int = 0) -> tuple[Certificate, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth, depth = rng.normal(size=n), rng.integers(0, 4, n)
    scores = truth + noise * rng.normal(size=n) - 0.5 * depth
    traits = {"depth": depth.tolist(), "other": rng.normal(size=n).tolist()}
    variants = {"seed 1": results((truth + noise * rng.normal(size=n)).tolist())}
    found = certify(results(scores.tolist()), truth.tolist(), "s", "truth", traits=traits, variants=variants)
    return found, scores


def test_a_certificate_says_what_is_known() -> None:
    found, scores = certificate(0.3)
    truth = np.array([t for _, t in found.points])
    assert found.tau.value == kendall(scores, truth)
    assert found.tau.low < found.tau.value < found.tau.high
    assert found.tau_top.value < found.tau.value
    assert (found.n, found.failed, found.seconds) == (400, 0, 0.25)
    assert found.bias["depth"].tau.high < 0, "deep ones are under-rated"
    assert [round(mean, 6) for *_, mean in found.bias["depth"].groups] == sorted(
        (round(mean, 6) for *_, mean in found.bias["depth"].groups), reverse=True
    )
    assert found.bias["other"].tau.low < 0 < found.bias["other"].tau.high
    assert sum(count for *_, count, _ in found.bias["other"].groups) == 400
    assert found.seed_spread is not None
    json.dumps(found.to_dict(), allow_nan=False)
    assert "top tenth" in str(found)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 30 samples of a normal distribution, 95% intervals hold its tau in 25 or more (by chance fewer: 1 in 600)."""
    rho = 0.8
    population, held = 2 / math.pi * math.asin(rho), 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x, z = rng.normal(size=(2, 60))
        found = bootstrap(kendall, (x, rho * x + math.sqrt(1 - rho**2) * z), rng)
        held += found.low <= population <= found.high
    assert held >= 25


def test_doubt_is_told_where_the_top_is_chance() -> None:
    sharp, noisy = certificate(0.01)[0], certificate(5.0)[0]
    assert noisy.doubtful
    assert "may be zero" in str(noisy)
    good = certify(results(list(range(100))), list(range(100)), "s", "truth")
    assert not good.doubtful
    assert (good.tau.value, good.precision.value, good.regret[1]) == (1, 1, 0)
    assert sharp.tau.value > noisy.tau.value


def test_failures_count_as_worst_and_signs_are_minded() -> None:
    scores: list[float | None] = list(range(50))
    worst = certify(results([None, *scores[1:]]), list(range(50)), "s", "truth")
    assert (worst.tau.value, worst.failed) == (1, 1)
    losses = certify(results([-float(s or 0) for s in scores]), list(range(50)), "s", "t", lower_is_better=True)
    assert losses.tau.value == 1
    with pytest.raises(GHNError, match="needs 20 architectures"):
        certify(results([1.0] * 5), [1.0] * 5, "s", "truth")


def test_a_constant_score_has_no_tau() -> None:
    found = certify(results([1.0] * 30), list(range(30)), "s", "truth")
    assert math.isnan(found.tau.value)
    assert found.doubtful
    assert found.to_dict()["tau"]["value"] is None


def test_the_page_shows_every_evaluator() -> None:
    pytest.importorskip("matplotlib")
    page = certificates_page("A <title>", {"good <b>": certificate(0.1)[0], "bad": certificate(5.0)[0]})
    assert page.count("<svg") == 2
    assert "A &lt;title&gt;" in page
    assert "good &lt;b&gt;" in page
    assert "may be chance" in page
    assert page.index("good") < page.index("bad")


# SAEP.

LABELS = np.array([0, 0, 1, 1, 2, 2, 0, 1])


def test_pap_keeps_what_helps() -> None:
    """Three voters, one of which breaks every tie rightly; the one that always errs goes."""
    right, wrong = LABELS, (LABELS + 1) % 3
    half = np.where(np.arange(8) < 4, right, wrong)
    other = np.where(np.arange(8) < 4, wrong, right)
    predicted = np.stack([half, other, right, wrong])
    kept = pap(predicted, LABELS)
    assert 2 in kept
    assert 3 not in kept
    error = [(vote(np.delete(predicted, i, 0)) != LABELS).mean() for i in range(4)]
    assert kept == [i for i in range(4) if error[i] > (vote(predicted) != LABELS).mean()]
    assert pap(np.stack([right, right, right]), LABELS) == [0, 1, 2]  # none is missed: all stay


def test_prs_drops_at_most_one_half_of_the_time() -> None:
    rng = Random(0)
    draws = [prs(4, rng) for _ in range(4000)]
    whole = sum(len(d) == 4 for d in draws)
    assert 1900 < whole < 2100
    assert all(450 < sum(i not in d for d in draws) < 550 for i in range(4))
    assert prs(1, rng) == [0]


def test_information_by_hand() -> None:
    a = np.array([0, 0, 1, 1])
    b = np.array([0, 1, 0, 1])
    assert (mutual(a, b), variation(a, b)) == (0, 1)  # independent
    assert mutual(a, 1 - a) == pytest.approx(1)
    assert variation(a, 1 - a) == pytest.approx(0)
    c = np.array([0, 0, 0, 1])
    h = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    joint = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    shared = math.log(2) + h - joint
    assert mutual(a, c) == pytest.approx(shared / math.sqrt(math.log(2) * h))
    assert variation(a, c) == pytest.approx(1 - shared / joint)


def test_pie_prefers_the_unlike_and_the_right() -> None:
    right = LABELS
    almost = np.where(np.arange(8) == 0, 2, LABELS)
    odd = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    predicted = np.stack([right, right, almost, odd])
    assert pie(predicted, LABELS, 2, alpha=0.0, first=0) == [0, 1]  # nothing but likeness to the truth
    assert pie(predicted, LABELS, 2, alpha=1.0, first=0) == [0, 3]  # nothing but unlikeness
    assert pie(predicted, LABELS, 4) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="cannot be kept"):
        pie(predicted, LABELS, 5)
