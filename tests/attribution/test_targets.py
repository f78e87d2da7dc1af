from __future__ import annotations

import math

import pytest
import torch

from lit_simignore.attribution.targets import answer_rows, answer_score, released_score
from lit_simignore.types import UserError

LOGITS = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
ANSWER = torch.tensor([3, 1, 6])


def test_a_token_is_predicted_in_the_row_before_it() -> None:
    assert answer_rows(12, 3).tolist() == [11, 12, 13]


def test_the_score_sums_the_answers_logits_where_they_are_predicted() -> None:
    expected = sum(float(LOGITS[row, token]) for row, token in ((11, 3), (12, 1), (13, 6)))
    assert math.isclose(float(answer_score(LOGITS, ANSWER, 12)), expected, rel_tol=1e-5)


def test_log_probabilities_do_not_feel_a_shift_of_all_logits() -> None:
    score = answer_score(LOGITS, ANSWER, 12, kind="log_prob")
    expected = sum(float(LOGITS[row].softmax(0)[token].log()) for row, token in ((11, 3), (12, 1), (13, 6)))
    assert math.isclose(float(score), expected, rel_tol=1e-5)
    assert torch.allclose(score, answer_score(LOGITS + 5, ANSWER, 12, kind="log_prob"), atol=1e-4)


def test_the_released_target_counts_an_image_as_one_token_and_does_not_shift() -> None:
    assert math.isclose(
        float(released_score(LOGITS, ANSWER, 4)), float(LOGITS[4, 3] + LOGITS[5, 1] + LOGITS[6, 6]), rel_tol=1e-5
    )
    assert math.isclose(float(released_score(LOGITS, ANSWER, 18)), float(LOGITS[18, 3] + LOGITS[19, 1]), rel_tol=1e-5)


def test_an_answer_that_does_not_fit_is_refused() -> None:
    for first, answer in ((0, ANSWER), (19, ANSWER), (3, ANSWER[:0])):
        with pytest.raises(UserError, match="answer"):
            answer_score(LOGITS, answer, first)
    with pytest.raises(UserError, match="kind"):
        answer_score(LOGITS, ANSWER, 3, kind="loss")
    assert float(answer_score(LOGITS, ANSWER, 18)) != 0  # the last token that fits
