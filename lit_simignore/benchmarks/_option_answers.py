"""Which option an output names: the strict rules of several harnesses, and a lenient one that needs no judge."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lit_simignore.benchmarks._letters import LETTERS
from lit_simignore.types import Sample

_ALONE = re.compile(r"[(\[]?([A-Z])[)\].:,]*")
_OPENING = re.compile(r"(?:[(\[]([A-Z])[)\]]|([A-Z])[.:)])")
_ANNOUNCED = re.compile(
    r"\b(?i:answer|option|choice)\b(?:\s+is)?\s*:?\s*(?:[(\[]([A-Za-z])[)\]]|([B-Z])\b|(A)\b(?!\s+[a-z]))"
)
_BRACKETED = re.compile(r"[(\[]([A-Z])[)\]]")
_STARS = re.compile(r"[*_`]+")


def parse_exact_letter(output: str) -> str | None:
    """The whole output is one capital letter, as LLaVA's SEED-Bench script compares it."""
    return output if len(output) == 1 and output in LETTERS else None


def parse_first_character(output: str) -> str | None:
    """The first character, as lmms-eval reads SEED-Bench: "Dogs" is a D."""
    first = output.strip()[:1]
    return first if first and first in LETTERS else None


def parse_mmstar(output: str) -> str | None:
    """MMStar's own rule: ``b``, ``(b``, ``option b`` or ``the answer is b`` at the start, case ignored.

    It only looks at the one character, so "Because" is a B; and an opening bracket is looked through.

    Source: MMStar's released evaluation (arXiv:2403.20330), also in lmms-eval.
    """
    text = output.lower().strip().replace("\n", " ")
    for opening in ("option ", "the answer is "):
        if text.startswith(opening):
            found = text[len(opening) : len(opening) + 1]
            return found.upper() if found.isascii() and found.isalpha() else None
    found = text[1:2] if text.startswith("(") else text[:1]
    return found.upper() if found.isascii() and found.isalpha() else None


def parse_letter_or_dotted(output: str) -> str | None:
    """A capital letter alone, or one followed by a full stop at the start, as lmms-eval reads ScienceQA."""
    if parse_exact_letter(output):
        return output
    return output[0] if len(output) >= 2 and output[0] in LETTERS and output[1] == "." else None


def parse_option(output: str, sample: Sample) -> str | None:
    """The letter of the option that an output names, by letter or by text; ``None`` if it names none or several.

    In order: the letter alone, with any punctuation around it; ``(B)``, ``B.``, ``B:`` or ``B)`` at the start; ``answer
    is B``, ``option B`` once; ``(B)`` once anywhere; the text of one option, alone; the text of exactly one option as
    words anywhere. "A" as an article is no letter. A letter beyond the sample's options counts as none.

    MMBench's own evaluation asks a language model where such rules fail (arXiv:2307.06281, section 4.2); this does not.
    """
    text = _STARS.sub("", output).strip()
    letter = _by_letter(text) or _by_text(text, sample.choices)
    return letter if letter is not None and letter in LETTERS[: len(sample.choices)] else None


def _by_letter(text: str) -> str | None:
    if match := _ALONE.fullmatch(text):
        return match.group(1)
    if match := _OPENING.match(text):
        return match.group(1) or match.group(2)
    for pattern in (_ANNOUNCED, _BRACKETED):
        found = {next(filter(None, match.groups())).upper() for match in pattern.finditer(text)}
        if len(found) == 1:
            return found.pop()
    return None


def _by_text(text: str, choices: Sequence[str]) -> str | None:
    said = _plain(text)
    same = [letter for letter, choice in zip(LETTERS, choices, strict=False) if said and _plain(choice) == said]
    if len(same) == 1:
        return same[0]
    inside = [
        letter
        for letter, choice in zip(LETTERS, choices, strict=False)
        if _plain(choice) and f" {_plain(choice)} " in f" {said} "
    ]
    return inside[0] if len(inside) == 1 else None


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))
