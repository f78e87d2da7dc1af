"""The cliff against a curve whose cliff is known, and against a bootstrap written as loops."""

from __future__ import annotations

import random

import pytest
import torch

from lit_simignore.attribution.truncation import cliff_layer
from lit_simignore.types import UserError

LAYERS = [2, 4, 8, 12, 16]


def curve(rates: list[float], samples: int = 400, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Right answers: the baseline's, of which each layer loses a share."""
    generator = torch.Generator().manual_seed(seed)
    baseline = (torch.rand(samples, generator=generator) < 0.8).double()
    scores = torch.stack([baseline * (torch.rand(samples, generator=generator) >= rate) for rate in rates])
    return scores, baseline


def no_groups(samples: int = 400) -> list[str]:
    return [""] * samples


def test_the_cliff_is_where_the_loss_stays_within_the_tolerance() -> None:
    scores, baseline = curve([0.6, 0.4, 0.2, 0.0, 0.0])
    cliff = cliff_layer(LAYERS, scores, baseline, no_groups(), num_resamples=500)
    assert (cliff.layer_idx, cliff.low, cliff.high, cliff.certain) == (12, 12, 12, 12)
    for point, row in zip(cliff.curve, scores, strict=True):
        assert point.value == pytest.approx(float(row.mean()))
        assert point.difference == pytest.approx(float((row - baseline).mean()))
        assert point.low <= point.difference <= point.high


def test_a_layer_counts_only_if_all_later_ones_hold_too() -> None:
    scores, baseline = curve([0.0, 0.5, 0.0, 0.0, 0.0])
    assert cliff_layer(LAYERS, scores, baseline, no_groups(), num_resamples=200).layer_idx == 8
    scores, baseline = curve([0.0, 0.0, 0.0, 0.0, 0.5])
    cliff = cliff_layer(LAYERS, scores, baseline, no_groups(), num_resamples=200)
    assert (cliff.layer_idx, cliff.low, cliff.high, cliff.certain) == (None, None, None, None)


def test_a_loss_near_the_tolerance_makes_the_cliff_uncertain() -> None:
    scores, baseline = curve([0.6, 0.012, 0.011, 0.0, 0.0], samples=300, seed=3)
    cliff = cliff_layer(LAYERS, scores, baseline, no_groups(300), tolerance=0.01, num_resamples=2000)
    assert cliff.low is not None and cliff.high is not None and cliff.certain is not None
    assert cliff.low < cliff.high and cliff.certain >= cliff.high


def naive_interval(differences: list[float], groups: list[str], draws: int) -> tuple[float, float]:
    members: dict[str, list[float]] = {}
    for index, (value, group) in enumerate(zip(differences, groups, strict=True)):
        members.setdefault(group or f"alone{index}", []).append(value)
    pool, chance, means = list(members.values()), random.Random(0), []
    for _ in range(draws):
        drawn = [value for group in chance.choices(pool, k=len(pool)) for value in group]
        means.append(sum(drawn) / len(drawn))
    means.sort()
    return means[int(0.025 * draws)], means[int(0.975 * draws)]


@pytest.mark.parametrize("size", [1, 5])
def test_the_interval_draws_whole_groups(size: int) -> None:
    scores, baseline = curve([0.3], samples=200, seed=2)
    groups = [f"image{index // size}" if size > 1 else "" for index in range(200)]
    if size > 1:  # samples of one image share their fate, which independent draws would overlook
        scores = scores[:, ::size].repeat_interleave(size, dim=1)
        baseline = baseline[::size].repeat_interleave(size)
    (point,) = cliff_layer([3], scores, baseline, groups, num_resamples=4000).curve
    low, high = naive_interval((scores[0] - baseline).tolist(), groups, 4000)
    assert point.low == pytest.approx(low, abs=0.012) and point.high == pytest.approx(high, abs=0.012)
    assert (point.high - point.low > 0.15) == (size > 1)


def test_neither_the_order_of_samples_nor_that_of_layers_matters() -> None:
    scores, baseline = curve([0.5, 0.02, 0.01, 0.0, 0.0], samples=100)
    groups = [f"g{index % 30}" for index in range(100)]
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    first = cliff_layer(LAYERS, scores, baseline, groups, num_resamples=500)
    shuffled = cliff_layer(
        LAYERS[::-1], scores.flip(0)[:, order], baseline[order], [groups[index] for index in order.tolist()],
        num_resamples=500,
    )  # fmt: skip
    assert first == shuffled


def test_a_gain_is_no_loss() -> None:
    scores, baseline = curve([0.0], samples=50)
    cliff = cliff_layer([1], torch.ones_like(scores), baseline, no_groups(50), tolerance=0, num_resamples=100)
    assert cliff.layer_idx == cliff.certain == 1


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    scores, baseline = curve([0.1, 0.0], samples=20)
    cases = [
        ([1], scores, baseline, no_groups(20), {}),
        ([1, 1], scores, baseline, no_groups(20), {}),
        ([1, 2], scores, baseline[:5], no_groups(20), {}),
        ([1, 2], scores, baseline, no_groups(3), {}),
        ([1, 2], scores, baseline, ["one"] * 20, {}),
        ([1, 2], scores, baseline, no_groups(20), {"tolerance": -0.1}),
        ([1, 2], scores, baseline, no_groups(20), {"level": 1.0}),
        ([1, 2], scores, baseline, no_groups(20), {"num_resamples": 0}),
    ]
    for layers, table, base, groups, options in cases:
        with pytest.raises(UserError) as caught:
            cliff_layer(layers, table, base, groups, **options)
        assert "\n" not in str(caught.value)
