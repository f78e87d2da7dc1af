"""Oracles: scipy.stats where it has the method, a naive loop elsewhere. scipy is a dependency of the tests only."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from lit_simignore.metrics.statistics import (
    Estimate,
    cluster_bootstrap,
    cluster_interval,
    holm,
    mcnemar_exact,
    wilson_interval,
)
from lit_simignore.types import UserError

scipy_stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle of these tests")


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 40), (1, 3), (7, 40), (1314, 2017), (2017, 2017), (5, 5)])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_wilson_agrees_with_scipy(successes: int, n: int, level: float) -> None:
    expected = scipy_stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    assert wilson_interval(successes, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_knows_nothing_without_data_and_reaches_the_ends_exactly() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 9).low == 0.0
    assert wilson_interval(9, 9).high == 1.0


@pytest.mark.parametrize(("successes", "n", "level"), [(-1, 3, 0.9), (4, 3, 0.9), (1, -2, 0.9), (1, 3, 1.0), (1, 3, 0)])
def test_wilson_refuses_values_out_of_range(successes: int, n: int, level: float) -> None:
    with pytest.raises(UserError):
        wilson_interval(successes, n, level)


def test_mcnemar_agrees_with_scipy_for_all_small_counts_and_some_large() -> None:
    counts = [(a, b) for a in range(12) for b in range(12)] + [(149, 91), (60, 37), (2000, 2100), (0, 900)]
    for fixed, broken in counts:
        expected = scipy_stats.binomtest(fixed, fixed + broken, 0.5).pvalue if fixed + broken else 1.0
        assert mcnemar_exact(fixed, broken) == pytest.approx(expected, rel=1e-9), (fixed, broken)


def test_mcnemar_is_symmetric_and_survives_underflow() -> None:
    assert mcnemar_exact(3, 17) == mcnemar_exact(17, 3)
    assert mcnemar_exact(0, 5000) == 0.0
    with pytest.raises(UserError, match="fixed=-1"):
        mcnemar_exact(-1, 2)


def test_holm_agrees_with_the_definition_over_all_rejection_levels() -> None:
    """Naive oracle: Holm's adjusted p is the smallest family level at which the procedure rejects the hypothesis."""
    generator = random.Random(0)
    for _ in range(30):
        p_values = [round(generator.random() ** 3, 3) for _ in range(generator.randint(1, 6))]
        adjusted = holm(p_values)
        for alpha in [step / 500 + 1e-9 for step in range(500)]:
            rejected = _rejected_by_holm(p_values, alpha)
            assert [p <= alpha for p in adjusted] == rejected


def _rejected_by_holm(p_values: list[float], alpha: float) -> list[bool]:
    rejected = [False] * len(p_values)
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > alpha / (len(p_values) - step):
            break
        rejected[index] = True
    return rejected


def test_holm_keeps_the_order_and_caps_at_one() -> None:
    assert holm([0.9, 0.01, 0.5]) == pytest.approx([1.0, 0.03, 1.0])
    assert holm([]) == []
    with pytest.raises(UserError, match="between 0 and 1"):
        holm([0.1, math.nan])


def _clustered(num_groups: int = 60) -> tuple[list[float], list[float], list[str]]:
    generator = random.Random(1)
    scores_a, scores_b, groups = [], [], []
    for group in range(num_groups):
        hard = generator.random()
        for _ in range(generator.randint(1, 6)):
            scores_a.append(float(generator.random() > hard))
            scores_b.append(float(generator.random() > hard * 0.8))
            groups.append(f"g{group}")
    return scores_a, scores_b, groups


def test_cluster_bootstrap_agrees_with_a_naive_loop_over_groups() -> None:
    scores_a, scores_b, groups = _clustered()
    members: dict[str, list[float]] = {}
    for a, b, group in zip(scores_a, scores_b, groups, strict=True):
        members.setdefault(group, []).append(b - a)
    names, generator, means = sorted(members), np.random.default_rng(5), []
    for _ in range(20_000):
        drawn = [value for index in generator.integers(0, len(names), len(names)) for value in members[names[index]]]
        means.append(sum(drawn) / len(drawn))
    estimate = cluster_bootstrap(scores_a, scores_b, groups, num_resamples=20_000)
    assert estimate.value == pytest.approx(sum(scores_b) / len(scores_b) - sum(scores_a) / len(scores_a))
    expected = np.quantile(means, [0.025, 0.975])
    # Monte-Carlo noise of a 2.5 % quantile from 20 000 draws is about 1 % of the interval's length.
    assert estimate[1:] == pytest.approx(expected, abs=0.03 * (expected[1] - expected[0]))


def test_cluster_interval_agrees_with_the_clustered_standard_error() -> None:
    scores, _, groups = _clustered(num_groups=400)
    mean = sum(scores) / len(scores)
    totals: dict[str, float] = {}
    for score, group in zip(scores, groups, strict=True):
        totals[group] = totals.get(group, 0.0) + score - mean
    error = math.sqrt(sum(total**2 for total in totals.values())) / len(scores)
    low, high = cluster_interval(scores, groups)[1:]
    assert low is not None and high is not None
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1.0, abs=0.05)


def test_the_interval_does_not_depend_on_the_order_of_the_samples_and_does_on_the_groups() -> None:
    scores_a, scores_b, groups = _clustered()
    scores_b = [b * 0.1 + 0.03 for b in scores_b]  # sums that round differently in different orders
    order = list(range(len(groups)))
    random.Random(2).shuffle(order)
    shuffled = [scores_a[i] for i in order], [scores_b[i] for i in order], [groups[i] for i in order]
    assert cluster_bootstrap(*shuffled) == cluster_bootstrap(scores_a, scores_b, groups)
    assert cluster_bootstrap(scores_a, scores_b, [""] * len(groups)) != cluster_bootstrap(scores_a, scores_b, groups)


def test_sums_within_a_group_are_rounded_once_whatever_their_order() -> None:
    values, groups = [0.1, 0.2, 0.3, 0.9, 0.7, 0.4], ["g", "g", "g", "h", "h", "h"]
    assert sum(values[:3]) != sum(values[2::-1])
    assert cluster_interval(values, groups) == cluster_interval(values[2::-1] + values[3:], groups)


def test_samples_without_a_group_stand_alone() -> None:
    scores = [float(i % 3 == 0) for i in range(50)]
    alone = cluster_interval(scores, [""] * 50)
    assert alone == cluster_interval(scores, [str(i) for i in range(50)])


def test_one_group_has_a_mean_but_no_interval() -> None:
    assert cluster_interval([0.0, 1.0], ["x", "x"]) == Estimate(0.5, None, None)


def test_bootstrap_refuses_no_samples_and_unpaired_samples() -> None:
    with pytest.raises(UserError, match="at least one"):
        cluster_interval([], [])
    with pytest.raises(UserError, match="2 and 1"):
        cluster_bootstrap([0.0, 1.0], [1.0], ["a", "b"])


def test_many_groups_are_drawn_in_blocks_without_changing_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    scores_a, scores_b, groups = _clustered()
    whole = cluster_bootstrap(scores_a, scores_b, groups, num_resamples=500)
    monkeypatch.setattr("lit_simignore.metrics.statistics._DRAWS_PER_BLOCK", 100)
    assert cluster_bootstrap(scores_a, scores_b, groups, num_resamples=500) == pytest.approx(whole)
