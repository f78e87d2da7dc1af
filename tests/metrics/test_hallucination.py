"""Oracles: torchmetrics' own confusion scores, and hand-counted captions."""

from __future__ import annotations

import random

import pytest
import torch
from torchmetrics.functional.classification import binary_accuracy, binary_f1_score, binary_precision, binary_recall

from lit_simignore.metrics.hallucination import (
    CaptionObjects,
    chair_scores,
    count_chair,
    count_yes_no,
    yes_no_scores,
)
from lit_simignore.types import UserError


def test_yes_no_scores_agree_with_torchmetrics() -> None:
    generator = random.Random(0)
    for _ in range(20):
        gold = [generator.random() < 0.5 for _ in range(50)]
        said = [generator.random() < 0.6 for _ in range(50)]
        names = {True: "yes", False: "no"}
        scores = yes_no_scores(count_yes_no((names[s], names[g]) for s, g in zip(said, gold, strict=True)))
        pair = (torch.tensor(said).int(), torch.tensor(gold).int())
        expected = [float(f(*pair)) for f in (binary_accuracy, binary_precision, binary_recall, binary_f1_score)]
        assert scores[:4] == pytest.approx(expected, abs=1e-6)
        assert scores.yes_ratio == pytest.approx(sum(said) / 50)


def test_an_unparsed_answer_is_wrong_but_not_a_yes() -> None:
    scores = yes_no_scores(count_yes_no([(None, "yes"), (None, "no"), ("yes", "yes"), ("no", "no")]))
    assert (scores.accuracy, scores.precision, scores.recall, scores.yes_ratio) == (0.5, 1.0, 0.5, 0.25)


def test_never_saying_yes_gives_zeros_instead_of_a_division_by_zero() -> None:
    assert yes_no_scores(count_yes_no([("no", "yes"), ("no", "no")])) == (0.5, 0.0, 0.0, 0.0, 0.0)
    assert yes_no_scores(count_yes_no([])) == (0.0, 0.0, 0.0, 0.0, 0.0)


def test_other_words_are_refused() -> None:
    with pytest.raises(UserError, match="'maybe'"):
        count_yes_no([("maybe", "yes")])


def test_chair_of_hand_counted_captions() -> None:
    captions = [
        CaptionObjects(["dog", "dog", "ball"], {"dog", "tree"}, num_words=9),  # 1 of 3 invented, 1 of 2 found
        CaptionObjects(["car"], {"car"}, num_words=3),  # nothing invented, 1 of 1 found
        CaptionObjects([], {"cup"}, num_words=0),  # silent, 0 of 1 found
        CaptionObjects(["cat", "cat"], set(), num_words=4),  # all invented
    ]
    scores = chair_scores(count_chair(captions))
    assert scores == pytest.approx((3 / 6, 2 / 4, 2 / 4, 16 / 4))


def test_chair_of_silence_is_zero_not_an_error() -> None:
    assert chair_scores(count_chair([])) == (0.0, 0.0, 0.0, 0.0)


def test_chair_counts_add_up_over_shards() -> None:
    captions = [CaptionObjects(["a", "b"], {"a"}, 2), CaptionObjects(["c"], {"c", "d"}, 5)]
    parts = [count_chair([caption]) for caption in captions]
    assert count_chair(captions) == tuple(map(sum, zip(*parts, strict=True)))
