"""How numbers and foreign strings are written, in the terminal and in the report alike."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

MISSING = "-"
"""Stands where a number is not known."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_KEPT_CONTROLS = "\n\t"
_NO_TURNS = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], _REPLACEMENT)


@dataclass(frozen=True, slots=True)
class FlopsUnit:
    """A unit for prefill cost, and how many of it one TFLOP is."""

    name: str
    per_tflop: float


_FLOPS_UNITS = (FlopsUnit("TFLOPs", 1.0), FlopsUnit("GFLOPs", 1e3), FlopsUnit("MFLOPs", 1e6))


def flops_unit(prefill_tflops: Iterable[float | None]) -> FlopsUnit:
    """The largest unit in which the largest value is at least 0.1, so that one column keeps one unit."""
    largest = max((value for value in prefill_tflops if value is not None), default=0.0)
    for unit in _FLOPS_UNITS:
        if largest * unit.per_tflop >= 0.1:
            return unit
    return _FLOPS_UNITS[-1]


def number(value: object) -> float | None:
    """``value`` if it is a finite number, else ``None``: a summary comes from a file and may hold anything."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        converted = float(value)
    except OverflowError:
        return None
    return converted if math.isfinite(converted) else None


def clean(text: object) -> str:
    r"""``text`` as a string that a terminal, XML and UTF-8 can bear.

    Control characters (terminal escapes among them) and lone surrogates become U+FFFD; line breaks are all ``\n``.
    """
    string = str(text).replace("\r\n", "\n").replace("\r", "\n")
    if string.isascii() and string.isprintable():
        return string
    return "".join(_REPLACEMENT if _is_unsafe(character) else character for character in string)


def _is_unsafe(character: str) -> bool:
    if character in _KEPT_CONTROLS:
        return False
    return unicodedata.category(character) in ("Cc", "Cs") or ord(character) & 0xFFFE == 0xFFFE


def one_line(text: object) -> str:
    """:func:`clean` with every run of white space as one blank, and without characters that turn the writing round."""
    return " ".join(clean(text).translate(_NO_TURNS).split())


def shorten(text: str, limit: int) -> str:
    """``text`` cut to ``limit`` characters, saying how many are missing."""
    if len(text) <= limit:
        return text
    return f"{text[:limit].rstrip()} … [{len(text) - limit:,} more characters]"


def percent(fraction: float | None, digits: int = 1) -> str:
    """``0.7123`` -> ``71.2``."""
    return MISSING if fraction is None else f"{100 * fraction:.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """``1.24`` -> ``+1.2``; never ``-0.0``."""
    if value is None:
        return MISSING
    text = f"{value:+.{digits}f}"
    return text if text.strip("+-0.") else f"{0:.{digits}f}"


def p_text(p: float | None) -> str:
    """``0.0312`` -> ``0.031``; ``0.00002`` -> ``<0.001``."""
    if p is None:
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def p_relation(p: float) -> str:
    """The same with its sign of relation: ``p = 0.031``, ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def count(value: float | None) -> str:
    """``12345`` -> ``12,345``."""
    return MISSING if value is None else f"{value:,.0f}"


def tokens(value: float | None) -> str:
    """A (mean) number of tokens: whole if it is whole, else one decimal."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value - round(value)) < 0.05 else f"{value:,.1f}"


def significant(value: float | None, digits: int = 3) -> str:
    """``value`` with that many significant digits, never in scientific notation."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 9)}f}"


def times(value: float | None) -> str:
    """A ratio: ``1.6`` -> ``1.60x``."""
    return MISSING if value is None else f"{value:.2f}x"


def plural(number_of: int, noun: str) -> str:
    """``1 sample``, ``2 samples``."""
    return f"{number_of:,} {noun}" if number_of == 1 else f"{number_of:,} {noun}s"
