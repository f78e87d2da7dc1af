"""OPERA's scores as loops over an answer's attention."""

from __future__ import annotations

import math

import pytest
import torch

from lit_simignore.interventions._opera import column_scores, over_trust, step_back, summary_tokens
from lit_simignore.types import UserError


def attention(beams: int, candidates: int, window: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(beams, candidates, window, window, generator=generator)
    return logits.masked_fill(torch.ones(window, window).triu(1).bool(), -torch.inf).softmax(-1)


def test_a_column_is_the_product_of_what_it_is_paid_from_the_diagonal_on() -> None:
    maps = attention(2, 3, 12)
    scores = column_scores(maps)
    for beam in range(2):
        for candidate in range(3):
            for column in range(12):
                product = 1e-7
                for row in range(column, 12):
                    product *= 50 * float(maps[beam, candidate, row, column])
                assert math.isclose(float(scores[beam, candidate, column]), min(product, 65504), rel_tol=1e-3)


def test_long_answers_neither_overflow_nor_vanish_into_nan() -> None:
    bright = torch.full((1, 1, 60, 60), 0.9).tril()
    assert float(column_scores(bright).max()) == 65504
    assert column_scores(torch.zeros(1, 1, 4, 4)).tolist() == [[[0.0] * 4]]


def test_early_tokens_are_judged_by_the_image_and_later_ones_by_the_brightest_column() -> None:
    on_image = torch.tensor([[0.3, 0.1]])
    assert torch.equal(over_trust(attention(1, 2, 10), on_image), -on_image)
    late = attention(1, 2, 11)
    assert torch.equal(over_trust(late, on_image), column_scores(late).amax(-1))


def test_candidates_vote_for_the_summary_token_of_their_beam() -> None:
    maps = torch.full((1, 3, 12, 12), 0.02).tril()
    for candidate, column in enumerate((4, 7, 7)):
        maps[0, candidate, :, column] = 0.5
    assert summary_tokens(maps.tril()).tolist() == [7]


def test_the_search_steps_back_once_every_beam_named_one_token_often_enough() -> None:
    steady = [torch.tensor([12, 12])] * 16
    assert step_back(steady) == 13
    assert step_back(steady[:15]) is None, "more than 15 times, not 15"
    assert step_back([*steady[:-1], torch.tensor([12, 11])]) is None
    assert step_back([torch.tensor([9, 9])] * 40) is None, "too early in the answer"
    assert step_back([torch.tensor([3, 4])] * 5 + steady) == 13
    assert step_back([torch.tensor([12, 12])] * 3, threshold=2) == 13


def test_nothing_to_look_at_is_refused() -> None:
    with pytest.raises(UserError, match="at least one step"):
        step_back([])
