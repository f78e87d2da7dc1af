"""How numbers and foreign strings are written."""

from __future__ import annotations

import pytest

from lit_simignore.report import formats


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1.0), (0.5, 0.5), (True, None), ("1", None), (None, None), (float("nan"), None), (10**400, None)],
)
def test_only_finite_numbers_are_numbers(value: object, expected: float | None) -> None:
    assert formats.number(value) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12345.6, "12,346"), (0.32, "0.320"), (2.05, "2.05"), (-0.0123, "-0.0123"), (1e-12, "0.000000000")],
)
def test_significant_digits_never_turn_into_powers(value: float, text: str) -> None:
    assert formats.significant(value) == text


def test_signed_numbers_have_no_negative_zero() -> None:
    assert [formats.signed(value) for value in (0.04, -0.04, -0.06, 12, None)] == ["0.0", "0.0", "-0.1", "+12.0", "-"]


def test_p_values_are_never_written_as_zero() -> None:
    assert [formats.p_text(p) for p in (0.0, 0.0009, 0.0312, 1.0)] == ["<0.001", "<0.001", "0.031", "1.000"]
    assert formats.p_relation(1e-9) == "p < 0.001" and formats.p_relation(0.2) == "p = 0.200"


def test_whole_means_are_whole() -> None:
    assert [formats.tokens(value) for value in (144.0, 85.5, 36.02, 2880)] == ["144", "85.5", "36", "2,880"]


def test_clean_keeps_writing_and_replaces_what_terminals_and_xml_cannot_bear() -> None:
    assert formats.clean("a\r\nb\tc é 日本 👩‍👧") == "a\nb\tc é 日本 👩‍👧"
    assert formats.clean("\x00\x1b\x7f\x85\ud800\ufffe\U0001ffff") == "\ufffd" * 7
    assert formats.one_line("\u202ea \n\u2028 b") == "\ufffda b"


def test_cut_text_says_how_much_is_missing() -> None:
    assert formats.shorten("abcdef", 6) == "abcdef"
    assert formats.shorten("abcdefg", 3) == "abc … [4 more characters]"
