"""Soft accuracy of short answers that ten people gave, after the answer has been brought into a common form."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")

_NEGATED = (
    "ai", "are", "ca", "could", "did", "does", "do", "had", "has", "have", "is", "might", "must", "need", "ought",
    "sha", "should", "was", "were", "wo", "would",
)  # fmt: skip
_PEOPLE_AND_THINGS = ("he", "it", "somebody", "someone", "something", "there", "they", "who", "you")
_SHORTENED = {
    "d": (*_PEOPLE_AND_THINGS, "how", "where"),
    "ll": ("how", "it", "somebody", "someone", "something", "they", "what", "who", "why", "you"),
    "s": ("he", "how", "somebody", "someone", "that", "there", "what", "when", "where", "who", "why"),
    "ve": ("could", "might", "must", "not", "should", "they", "we", "what", "where", "who", "would", "you"),
    "re": ("there", "they", "what", "why", "you"),
}
"""Which words lose their apostrophe in front of which ending: not ``we'll`` or ``she'd``, for "well" and "shed" are
words; nor ``I'm``, since everything is in small letters by then."""

_TWICE_SHORTENED = (
    *(f"{word}n't" for word in ("could", "had", "might", "should", "would")),
    *(f"{word}'d" for word in (*_PEOPLE_AND_THINGS, "she", "we")),
)


def _contractions() -> dict[str, str]:
    """Spellings without an apostrophe, and the usual ones."""
    found = {f"{word}nt": f"{word}n't" for word in _NEGATED}
    found |= {f"{word}{end}": f"{word}'{end}" for end, words in _SHORTENED.items() for word in words}
    for word in _TWICE_SHORTENED:
        full = f"{word}'ve"
        found |= {full.replace("'", "", 1): full, f"{word}ve": full}
    return found | {"maam": "ma'am", "oclock": "o'clock", "twas": "'twas", "yall": "y'all"}


_CONTRACTIONS = _contractions()


def normalise_answer(text: str) -> str:
    """An answer in the form in which VQA compares it.

    Small letters, one line; commas and question marks deleted; other punctuation deleted where it stands beside a blank
    anywhere in the answer, else replaced by a blank; full stops deleted unless a digit follows; number words up to ten
    as digits ("none" is 0); articles deleted; contractions with their apostrophe.

    Quirks of the released code are kept because numbers depend on them: its look-behind for a digit before a full stop
    does nothing, so "3." loses its stop as "end." does; the punctuation rule looks at the whole answer; "dog's" becomes
    "dog 's". Its list of contractions is rebuilt from the rules of English here: "somebody'd", which it maps to
    "somebodyd", is left alone, and so are the dialect forms ``'ow's'at`` and ``y'all'd've``.

    Source: the evaluation code of VQA (Antol et al., ICCV 2015), as in Pythia/M4C, LLaVA and lmms-eval.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    words = [_NUMBERS.get(word, word) for word in _without_punctuation(text).split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _without_punctuation(text: str) -> str:
    cleaned = text
    for mark in _PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_blank else " ")
    return _PERIOD.sub("", cleaned)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Mean, over the people left out in turn, of ``min(1, others who said the same / 3)``; 0 to 1.

    Args:
        answer: in the form of ``references``; see :func:`normalise_answer`.
        references: what people said, ten of them in VQA and TextVQA. A single one is compared exactly.

    Source: Antol et al., ICCV 2015 (arXiv:1505.00468), in the form of the official evaluation code.
    """
    if len(references) < 2:
        return float(bool(references) and answer == references[0])
    same = sum(reference == answer for reference in references)
    return sum(min(1.0, (same - (reference == answer)) / 3) for reference in references) / len(references)
