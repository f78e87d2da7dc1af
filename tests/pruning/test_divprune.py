from __future__ import annotations

import pytest
import torch

from lit_simignore.pruning.base import Features
from lit_simignore.pruning.divprune import DivPrune, farthest_first, nearest_other_distance
from tests.pruning.released import released


def naive_farthest_first(rows: torch.Tensor, num_keep: int) -> list[int]:
    """Max-min diversity by plain loops, in float64."""
    unit = torch.nn.functional.normalize(rows.double(), dim=-1)
    count = len(rows)
    distance = [[1 - float(unit[i] @ unit[j]) for j in range(count)] for i in range(count)]
    nearest = [min(distance[i][j] for j in range(count) if j != i) for i in range(count)]
    chosen = [max(range(count), key=lambda i: nearest[i])]
    while len(chosen) < num_keep:
        left = [i for i in range(count) if i not in chosen]
        chosen.append(max(left, key=lambda i: min(distance[i][j] for j in chosen)))
    return chosen


@pytest.mark.parametrize("seed", [0, 1])
def test_the_released_tokens_are_chosen_in_the_released_order(seed: int) -> None:
    reference = released("divprune", seed)
    rows = reference["visual_tokens"]
    unit = torch.nn.functional.normalize(rows, dim=-1)
    assert torch.equal(farthest_first(unit, reference.count("num_kept")), reference["kept_in_order"])
    torch.testing.assert_close(nearest_other_distance(unit), reference["first_min_distance"], atol=1e-5, rtol=0)
    pruner = DivPrune.preset("released", keep_ratio=reference.number("subset_ratio"))
    assert torch.equal(pruner.select(rows, rows[:0]), reference["kept_sorted"])


@pytest.mark.parametrize("num_keep", [0, 1, 5, 12, 40])
def test_every_budget_gives_that_many_tokens_of_the_naive_greedy_set(num_keep: int) -> None:
    rows = torch.randn(12, 6, generator=torch.Generator().manual_seed(3))
    kept = DivPrune(num_keep=num_keep).choose(Features(visual=rows, text=rows[:0])).kept
    assert kept.dtype == torch.long
    assert kept.tolist() == sorted(naive_farthest_first(rows, min(num_keep, 12))) if num_keep else kept.tolist() == []


def test_equal_tokens_are_never_chosen_twice() -> None:
    rows = torch.eye(3)[[0, 0, 1, 1, 2, 2]]
    assert DivPrune(num_keep=5).select(rows, rows[:0]).unique().shape == (5,)


@pytest.mark.parametrize(
    ("total", "ratio", "expected"), [(144, 0.15625, 22), (576, 0.0988, 57), (5, 0.5, 2), (7, 0.5, 4)]
)
def test_ratios_round_half_to_even(total: int, ratio: float, expected: int) -> None:
    rows = torch.randn(total, 4, generator=torch.Generator().manual_seed(0))
    assert DivPrune(keep_ratio=ratio).select(rows, rows[:0]).shape == (expected,)


def test_chunks_of_the_distance_matrix_agree_with_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = torch.nn.functional.normalize(torch.randn(11, 4, generator=torch.Generator().manual_seed(5)), dim=-1)
    whole = nearest_other_distance(unit)
    monkeypatch.setattr("lit_simignore.pruning.divprune._CHUNK", 4)
    torch.testing.assert_close(nearest_other_distance(unit), whole)
