from __future__ import annotations

import pytest

from lit_simignore.benchmarks._letter_answers import parse_letter


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("B", "B"),  # rule 1
        (" B\n", "B"),
        ("E", "E"),
        ("F", None),
        ("b", None),
        ("B. because", "B"),  # rule 2
        ("B.", None),
        ("B.because", None),
        ("(B) and (C)", "B"),  # rule 3
        ("B) and (C)", "B"),  # rule 4
        ("The correct answer is (B, not (A) or (C)", "B"),  # rule 5
        ("I think. The answer is B.", "B"),  # rule 6
        ("The answer is B!", "B"),  # its dot is a wildcard
        ("The answer is B", None),  # and needs a character
        ("The answer is Z.", "Z"),  # any letter, right or not
        ("The answer is A. No: The answer is B.", None),
        ("The answer is A. No: The answer is B. (C)", "C"),  # falls through to rule 7
        ("it must be (D), surely", "D"),  # rule 7
        ("either (A) or (B)", None),
        ("Not (A). The correct answer is (B).", "B"),  # rule 8
        ("(", None),  # the release's one-token answers
        ("Yes", None),
        ("No", None),
        ("FAILED", None),
        ("", None),
    ],
)
def test_rules_are_tried_in_the_order_of_the_release(output: str, letter: str | None) -> None:
    assert parse_letter(output) == letter


def test_more_letters_can_be_options() -> None:
    assert parse_letter("(G)") is None
    assert parse_letter("(G)", num_letters=7) == "G"
    assert parse_letter("H", num_letters=7) is None
