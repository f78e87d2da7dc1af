"""Oracle: counting by hand, and a naive loop over all tasks and images."""

from __future__ import annotations

import random

import pytest

from lit_simignore.metrics.mme import mme_scores


def test_hand_counted_tasks() -> None:
    scored = [
        ("color", "a", 1.0), ("color", "a", 1.0),  # both right
        ("color", "b", 1.0), ("color", "b", 0.0),
        ("OCR", "a", 0.0), ("OCR", "a", 0.0),
    ]  # fmt: skip
    assert mme_scores(scored) == {"color": (3 / 4, 1 / 2), "OCR": (0.0, 0.0)}


def test_an_image_with_one_answer_counts_for_accuracy_only() -> None:
    scored = [("color", "a", 1.0), ("color", "b", 1.0), ("color", "b", 1.0), ("color", "c", None), ("color", "c", 1.0)]
    assert mme_scores(scored) == {"color": (1.0, 1.0)}
    assert mme_scores([("color", "a", 1.0)]) == {"color": (1.0, 0.0)}
    assert mme_scores([]) == {}


def test_a_naive_loop_agrees() -> None:
    generator = random.Random(0)
    scored = [
        (f"task{task}", f"image{image}", float(generator.random() < 0.7))
        for task in range(4)
        for image in range(20)
        for _ in range(2)
    ]
    generator.shuffle(scored)
    for task, scores in mme_scores(scored).items():
        mine = [row for row in scored if row[0] == task]
        pairs = [[row[2] for row in mine if row[1] == image] for image in {row[1] for row in mine}]
        assert scores.acc == pytest.approx(sum(row[2] for row in mine) / 40)
        assert scores.acc_plus == pytest.approx(sum(min(pair) for pair in pairs) / 20)
