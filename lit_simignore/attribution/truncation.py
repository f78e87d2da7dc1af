"""The cliff layer: from which decoder layer on all visual tokens can go without the metric falling.

A curve of accuracy over layers has been read off by eye; here the reading is a rule with an interval. Samples are
scored by whoever runs the model, once per layer (the pruner ``Truncation``) and once with every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_simignore.types import UserError

_DRAWS_AT_ONCE = 4_000_000
"""Upper bound of the resampled indices held at once (32 MB)."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What truncation before one layer costs.

    Args:
        layer_idx: 0-based decoder layer before which all visual tokens are dropped.
        value: the metric with truncation.
        difference: with truncation minus without, on the same samples.
        low: lower end of the difference's interval.
        high: upper end.
    """

    layer_idx: int
    value: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Cliff:
    """Where the curve stops falling.

    Args:
        layer_idx: first layer from which on every tested layer loses at most the tolerance; ``None``: there is none.
        low: lower end of the layer's interval over resampled data; ``None``: beyond the last tested layer.
        high: upper end, likewise.
        certain: first layer from which on even the lower ends of the differences lie within the tolerance: the layer
            to truncate at if the claim is to hold. ``None``: none, or too few samples to tell one.
        tolerance: loss that was allowed.
        curve: one point per tested layer, ascending.
    """

    layer_idx: int | None
    low: int | None
    high: int | None
    certain: int | None
    tolerance: float
    curve: tuple[CurvePoint, ...]


def cliff_layer(
    layers: Sequence[int],
    scores: Tensor,
    baseline: Tensor,
    group_ids: Sequence[str],
    *,
    tolerance: float = 0.01,
    level: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Cliff:
    """The cliff of a truncation sweep, by a paired bootstrap that draws whole groups for all layers at once.

    Args:
        layers: N tested layers, in any order.
        scores: ``(N, S)`` score of every sample when truncated before each layer.
        baseline: ``(S,)`` score of the same samples with all visual tokens.
        group_ids: samples that share an id (an image) are drawn together; an empty id is a group of its own.
        tolerance: largest loss of the mean score that still counts as keeping it, e.g. 0.01 for a point of accuracy.
        level: confidence of every interval, between 0 and 1 exclusive.
        num_resamples: resampled data sets.
        seed: the same seed and data give the same result, in whatever order samples come.

    Raises:
        UserError: sizes that do not fit, a layer twice, a single group, or a value out of its range.

    Source: the notion is that of "From Redundancy to Relevance", NAACL 2025, section 4 (read off a figure, the task's
    test set); rule and interval are this library's. Layers are chosen and judged on the same samples here too: quote
    the interval, or choose on other data.
    """
    _check(layers, scores, baseline, group_ids, tolerance, level, num_resamples)
    order = sorted(range(len(layers)), key=lambda index: layers[index])
    ordered = [int(layers[index]) for index in order]
    values = scores[order].double()
    totals, sizes = _group_totals(values - baseline.double(), group_ids)
    if len(sizes) < 2:
        raise UserError("an interval needs samples of at least two groups; got one: score more images")
    observed = totals.sum(dim=1) / sizes.sum()
    resampled = _resampled_means(totals, sizes, num_resamples, seed)
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(resampled, ends, dim=0).tolist()
    means = values.mean(dim=1).tolist()
    curve = tuple(map(CurvePoint, ordered, means, observed.tolist(), low, high))
    cliffs = _first_from_which(resampled >= -tolerance - 1e-12).double()
    early, late = torch.quantile(cliffs, ends, interpolation="nearest").long().tolist()
    lower_ends = torch.tensor(low)
    return Cliff(
        layer_idx=_name(ordered, int(_first_from_which((observed >= -tolerance - 1e-12)[None])[0])),
        low=_name(ordered, early),
        high=_name(ordered, late),
        certain=_name(ordered, int(_first_from_which((lower_ends >= -tolerance - 1e-12)[None])[0])),
        tolerance=tolerance,
        curve=curve,
    )


def _first_from_which(within: Tensor) -> Tensor:
    """``(R,)`` int64 first column of ``(R, N)`` bool from which on all are True; N where there is none."""
    outside_behind = (~within).long().flip(1).cumsum(dim=1).flip(1)
    return (outside_behind > 0).sum(dim=1)


def _name(layers: Sequence[int], index: int) -> int | None:
    return layers[index] if index < len(layers) else None


def _group_totals(differences: Tensor, group_ids: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Sums ``(N, G)`` and sizes ``(G,)`` of the groups, in an order that does not depend on the samples' order."""
    numbers: dict[object, int] = {}
    member = [numbers.setdefault(group or index, len(numbers)) for index, group in enumerate(group_ids)]
    place = torch.tensor(member)
    totals = differences.new_zeros(len(differences), len(numbers)).index_add(1, place, differences)
    sizes = differences.new_zeros(len(numbers)).index_add(0, place, torch.ones_like(differences[0]))
    table, counts = torch.unique(torch.cat([totals, sizes[None]]).T, dim=0, return_counts=True)
    table = table.repeat_interleave(counts, dim=0).T
    return table[:-1], table[-1]


def _resampled_means(totals: Tensor, sizes: Tensor, num_resamples: int, seed: int) -> Tensor:
    """``(R, N)`` mean differences of resampled groups; the same groups for every layer."""
    num_groups = len(sizes)
    generator = torch.Generator().manual_seed(seed)
    block = max(1, _DRAWS_AT_ONCE // num_groups)
    means = []
    for start in range(0, num_resamples, block):
        count = min(block, num_resamples - start)
        drawn = torch.randint(num_groups, (count, num_groups), generator=generator)
        weights = totals.new_zeros(count, num_groups).scatter_add(1, drawn, totals.new_ones(()).expand(drawn.shape))
        means.append((weights @ totals.T) / (weights @ sizes)[:, None])
    return torch.cat(means)


def _check(
    layers: Sequence[int],
    scores: Tensor,
    baseline: Tensor,
    group_ids: Sequence[str],
    tolerance: float,
    level: float,
    num_resamples: int,
) -> None:
    if scores.shape != (len(layers), len(group_ids)) or baseline.shape != (len(group_ids),) or not scores.numel():
        raise UserError(
            f"expected scores (layers, samples) and baseline (samples,) for {len(layers)} layers and {len(group_ids)} "
            f"group ids, at least one each; got {tuple(scores.shape)} and {tuple(baseline.shape)}"
        )
    if len(set(layers)) < len(layers):
        raise UserError(f"expected every tested layer once; got {list(layers)}")
    if not tolerance >= 0 or not 0 < level < 1 or num_resamples < 1:
        raise UserError(
            f"expected tolerance >= 0, level between 0 and 1 and at least one resample; got {tolerance}, {level}, "
            f"{num_resamples}"
        )
