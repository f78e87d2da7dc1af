"""Oracles: numpy, and loops that follow the definitions word for word."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lit_simignore.metrics.options import circular_accuracy, letter_bias


def test_a_question_counts_when_every_order_is_right() -> None:
    scored = [("1", 1.0), ("2", 1.0), ("1", 1.0), ("2", 0.0), ("3", 1.0), ("3", None)]
    assert circular_accuracy(scored) == 1 / 2
    assert circular_accuracy([("1", None)]) is None
    assert circular_accuracy([]) is None


def test_a_loop_over_questions_agrees() -> None:
    generator = random.Random(0)
    scored = [(str(generator.randrange(30)), float(generator.random() < 0.8)) for _ in range(120)]
    names = {name for name, _ in scored}
    right = [name for name in names if min(score for other, score in scored if other == name) == 1]
    assert circular_accuracy(scored) == pytest.approx(len(right) / len(names))


def test_always_the_same_letter_is_a_bias_and_always_right_is_none() -> None:
    gold = ["A", "B", "C", "D"] * 5
    always = letter_bias([("A", right) for right in gold])
    assert always is not None
    assert always == pytest.approx((0.75, np.std([1.0, 0.0, 0.0, 0.0])))
    assert letter_bias([(right, right) for right in gold]) == (0.0, 0.0)
    assert letter_bias([(None, right) for right in gold]) == (0.0, 0.0)
    assert letter_bias([]) is None


def test_numpy_agrees() -> None:
    generator = random.Random(1)
    pairs = [(generator.choice(["A", "B", "C", None]), generator.choice("ABD")) for _ in range(300)]
    bias = letter_bias(pairs)
    assert bias is not None
    said = np.array([np.mean([letter == x for letter, _ in pairs if letter is not None]) for x in "ABCD"])
    right = np.array([np.mean([gold == x for _, gold in pairs]) for x in "ABCD"])
    recalls = [np.mean([letter == x for letter, gold in pairs if gold == x]) for x in "ABD"]
    assert bias.shift == pytest.approx(np.abs(said - right).sum() / 2)
    assert bias.recall_std == pytest.approx(np.std(recalls))
