"""Oracle of the soft accuracy: the definition itself, over every choice of nine of the ten people."""

from __future__ import annotations

import itertools
import random

import pytest

from lit_simignore.metrics.vqa import normalise_answer, vqa_accuracy


def _by_definition(answer: str, references: list[str]) -> float:
    subsets = list(itertools.combinations(references, len(references) - 1))
    return sum(min(1.0, subset.count(answer) / 3) for subset in subsets) / len(subsets)


def test_soft_accuracy_is_that_of_the_definition() -> None:
    generator = random.Random(0)
    for _ in range(200):
        references = [generator.choice("abcd") for _ in range(generator.choice([2, 3, 10]))]
        answer = generator.choice("abcde")
        assert vqa_accuracy(answer, references) == pytest.approx(_by_definition(answer, references))


@pytest.mark.parametrize(("same", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_ten_people_of_whom_some_agree(same: int, expected: float) -> None:
    references = ["red"] * same + [f"other {index}" for index in range(10 - same)]
    assert vqa_accuracy("red", references) == pytest.approx(expected)


def test_a_single_reference_is_compared_exactly() -> None:
    assert vqa_accuracy("red", ["red"]) == 1.0
    assert vqa_accuracy("blue", ["red"]) == 0.0
    assert vqa_accuracy("", []) == 0.0


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("A Red  Car.", "red car"),
        ("the two dogs", "2 dogs"),
        ("None", "0"),
        ("eleven", "eleven"),
        ("dont know", "don't know"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("theyre", "they're"),
        ("well", "well"),
        ("shed", "shed"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("3.", "3"),
        ("red/blue", "red blue"),
        ("red / blue", "red blue"),
        ("t-shirt", "t shirt"),
        ("t-shirt - red", "tshirt red"),  # the rule looks at the whole answer
        ("dog's", "dog 's"),
        ("yes\nit is\t", "yes it is"),
        ("what?", "what"),
        ("a", ""),
        ("", ""),
        ("12:30", "12:30"),
        ("Z\u00fcrich", "z\u00fcrich"),
    ],
)
def test_answers_are_brought_into_the_form_of_the_official_code(text: str, normal: str) -> None:
    assert normalise_answer(text) == normal
