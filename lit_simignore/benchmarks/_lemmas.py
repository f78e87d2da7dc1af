"""Words of an English text, nouns in the singular. The dictionary comes with the package ``lemminflect``: offline."""

from __future__ import annotations

import importlib
import re
from functools import cache, lru_cache
from typing import Any

from lit_simignore.types import UserError

_TOKEN = re.compile(r"\w+(?:[-']\w+)*|[^\w\s]")
_POSSESSIVE = re.compile(r"'s\b")


def tokens(text: str) -> list[str]:
    """Words and punctuation marks of ``text`` in small letters; "dog's" is "dog" and "'s"."""
    return [part for word in _TOKEN.findall(text.lower()) for part in _split(word)]


def words(text: str) -> list[str]:
    """:func:`tokens` without punctuation."""
    return [token for token in tokens(text) if token[0].isalnum()]


@lru_cache(maxsize=2**16)
def singular(word: str) -> str:
    """``word`` as a noun in the singular; what is no known plural stays as it is.

    Raises:
        UserError: the package is not installed.
    """
    if not word.isalpha() or not word.isascii():
        return word
    found = _lemminflect().getLemma(word, upos="NOUN")
    return str(found[0]) if found else word


def _split(word: str) -> list[str]:
    return [word[:-2], "'s"] if _POSSESSIVE.search(word) and word.endswith("'s") else [word]


@cache
def _lemminflect() -> Any:
    try:
        return importlib.import_module("lemminflect")
    except ImportError as error:
        raise UserError(
            "reading objects from captions needs the package lemminflect; install it (pip install "
            "'lit_simignore[benchmarks]')"
        ) from error
