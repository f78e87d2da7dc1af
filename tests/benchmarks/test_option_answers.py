from __future__ import annotations

import pytest

from lit_simignore.benchmarks._option_answers import (
    parse_exact_letter,
    parse_first_character,
    parse_letter_or_dotted,
    parse_mmstar,
    parse_option,
)
from lit_simignore.types import Sample

SAMPLE = Sample("1", (), choices=("a red car", "a dog", "hot dog", "none"))


@pytest.mark.parametrize(
    ("output", "exact", "first", "dotted", "mmstar"),
    [
        ("B", "B", "B", "B", "B"),
        (" B", None, "B", None, "B"),
        ("B.", None, "B", "B", "B"),
        ("B because", None, "B", None, "B"),
        ("b", None, None, None, "B"),
        ("(b) it is", None, None, None, "B"),
        ("Because", None, "B", None, "B"),
        ("Option C", None, "O", None, "C"),
        ("The answer is D.", None, "T", None, "D"),
        ("the answer is", None, None, None, "T"),
        ("", None, None, None, None),
        ("(", None, None, None, None),
        ("1", None, None, None, None),
        ("\u00c4", None, None, None, None),
    ],
)
def test_every_harness_keeps_its_rule(
    output: str, exact: str | None, first: str | None, dotted: str | None, mmstar: str | None
) -> None:
    assert parse_exact_letter(output) == exact
    assert parse_first_character(output) == first
    assert parse_letter_or_dotted(output) == dotted
    assert parse_mmstar(output) == mmstar


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("B", "B"),
        ("**B.**", "B"),
        ("(C)", "C"),
        ("B. a dog", "B"),
        ("B: it barks", "B"),
        ("B) it barks", "B"),
        ("The answer is B because A is wrong", "B"),
        ("answer: (d)", "D"),
        ("Option C", "C"),
        ("My answer: a dog", "B"),
        ("The answer is A dog", "B"),
        ("The answer is A.", "A"),
        ("It must be (D), surely", "D"),
        ("either (A) or (B)", None),
        ("A dog", "B"),  # an article is no letter
        ("A dog runs", "B"),  # its text stands in it as words
        ("I see a red car.", "A"),
        ("hot dog", "C"),
        ("A red car and a dog", None),
        ("F", None),  # beyond the options
        ("nothing", None),
        ("", None),
    ],
)
def test_the_lenient_rule_reads_letters_first_and_texts_then(output: str, letter: str | None) -> None:
    assert parse_option(output, SAMPLE) == letter


def test_options_without_words_are_never_found_by_text() -> None:
    assert parse_option("??", Sample("1", (), choices=("!", "?"))) is None
