"""Uncertainty of one accuracy and of the difference between two, for answers to the same questions.

Pure functions over plain sequences; numpy only. Results do not depend on the order of the samples: a run that was
interrupted and continued gives the same numbers as one that was not.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from lit_simignore.types import UserError

_DRAWS_PER_BLOCK = 4_000_000
"""Upper bound of the numbers held at once by the bootstrap (32 MB)."""


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A mean with its interval. The ends are ``None`` where the data cannot tell: fewer than two groups."""

    value: float
    low: float | None
    high: float | None


def wilson_interval(successes: float, n: int, level: float = 0.95) -> Interval:
    """Score interval of a proportion; it stays inside 0..1 and is honest near both ends.

    Args:
        successes: number of right answers, 0 to ``n`` (a sum of partial scores is accepted).
        n: number of answers; 0 gives the whole range, for nothing is known.
        level: confidence, between 0 and 1 exclusive.

    Raises:
        UserError: a value is out of its range.

    Source: E. B. Wilson, JASA 22 (1927), p. 209, without continuity correction.
    """
    _check_level(level)
    if n < 0 or not 0 <= successes <= n:
        raise UserError(f"expected 0 <= successes <= n; got successes={successes}, n={n}")
    if n == 0:
        return Interval(0.0, 1.0)
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    centre = (successes + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (successes * (n - successes) / n + z2 / 4)) / (n + z2)
    # At 0 and n one end is exactly 0 or 1; rounding must not move it.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(low, high)


def mcnemar_exact(fixed: int, broken: int) -> float:
    """Two-sided exact p-value of a paired comparison: under no difference, a changed answer is fixed or broken evenly.

    Args:
        fixed: samples that only the second method answers rightly.
        broken: samples that only the first method answers rightly.

    Returns:
        ``min(1, 2 P(X <= min(fixed, broken)))`` with ``X ~ Binomial(fixed + broken, 1/2)``; 1 when nothing changed.
        Computed in whole numbers, hence exact up to the final division.

    Source: Q. McNemar, Psychometrika 12 (1947), in its exact (binomial) form.
    """
    if fixed < 0 or broken < 0:
        raise UserError(f"expected counts >= 0; got fixed={fixed}, broken={broken}")
    n, fewer = fixed + broken, min(fixed, broken)
    term = tail = 1
    for k in range(fewer):
        term = term * (n - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / 2**n)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for having made all these comparisons at once (family-wise error), in the given order.

    Source: S. Holm, Scand. J. Statist. 6 (1979): step down, never smaller than the step before, at most 1.
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise UserError(f"expected p-values between 0 and 1; got {list(p_values)}")
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def cluster_bootstrap(
    scores_a: Sequence[float],
    scores_b: Sequence[float],
    group_ids: Sequence[str],
    *,
    level: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Mean of ``b - a`` over paired samples, with a percentile interval that draws whole groups.

    Args:
        scores_a: score of every sample under the first method.
        scores_b: score of the same samples under the second.
        group_ids: samples that share an id are drawn together; an empty id is a group of its own.
        level: confidence, between 0 and 1 exclusive.
        num_resamples: resampled means; 10 000 leave about +-1 % of the interval's length as noise.
        seed: the same seed and data give the same interval, in whatever order the samples come.

    Raises:
        UserError: no samples, or lengths that differ.

    Source: cluster ("pairs") bootstrap, Davison and Hinkley (1997), section 3.8; the weight of a sample is the
    same in every group, so large groups count more.
    """
    if len(scores_a) != len(scores_b):
        raise UserError(f"expected paired scores of equal length; got {len(scores_a)} and {len(scores_b)}")
    differences = [b - a for a, b in zip(scores_a, scores_b, strict=True)]
    return cluster_interval(differences, group_ids, level=level, num_resamples=num_resamples, seed=seed)


def cluster_interval(
    values: Sequence[float],
    group_ids: Sequence[str],
    *,
    level: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Mean of ``values`` with a percentile bootstrap interval over whole groups; see :func:`cluster_bootstrap`."""
    _check_level(level)
    if not values or len(values) != len(group_ids):
        raise UserError(f"expected one group id per value, at least one; got {len(values)} and {len(group_ids)}")
    if num_resamples < 1:
        raise UserError(f"num_resamples must be at least 1; got {num_resamples}")
    mean = math.fsum(values) / len(values)
    groups = _group_totals(values, group_ids)
    if len(groups) < 2:
        return Estimate(mean, None, None)
    means = _resampled_means(groups, num_resamples, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(mean, float(low), float(high))


def _group_totals(values: Sequence[float], group_ids: Sequence[str]) -> np.ndarray:
    """``(G, 2)`` sum and size of every group. ``fsum`` rounds once, whatever the order within the group."""
    members: defaultdict[str, list[float]] = defaultdict(list)
    alone: list[tuple[float, int]] = []
    for value, group in zip(values, group_ids, strict=True):
        if group:
            members[group].append(value)
        else:
            alone.append((value, 1))
    return np.array(alone + [(math.fsum(group), len(group)) for group in members.values()], dtype=np.float64)


def _resampled_means(groups: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """Means of ``num_resamples`` draws of ``G`` groups with replacement.

    Groups of equal sum and size are interchangeable, so it is enough to draw how often each KIND of group occurs.
    With single right-or-wrong answers there are three kinds, however many samples.
    """
    kinds, counts = np.unique(groups, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    block = max(1, _DRAWS_PER_BLOCK // len(kinds))
    means = []
    for start in range(0, num_resamples, block):
        size = min(block, num_resamples - start)
        drawn = generator.multinomial(len(groups), counts / len(groups), size=size)
        totals = drawn @ kinds
        means.append(totals[:, 0] / totals[:, 1])
    return np.concatenate(means)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UserError(f"level must lie between 0 and 1, e.g. 0.95; got {level}")
