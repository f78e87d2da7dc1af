"""Which of COCO's objects a caption mentions: CHAIR's rules, with the slips of the release as a switch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lit_simignore.benchmarks._coco_synonyms import NEVER_RELEASED, ONLY_RELEASED, SYNONYMS
from lit_simignore.benchmarks._lemmas import singular, tokens
from lit_simignore.types import UserError

_YOUNG_OR_OLD = ("baby", "adult")
_ANIMALS = (
    "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub",
)  # fmt: skip
_MEANT = {
    **{(age, animal): animal for age in _YOUNG_OR_OLD for animal in _ANIMALS},
    ("passenger", "jet"): "jet",
    ("passenger", "train"): "train",
    ("bow", "tie"): "tie",
    ("toilet", "seat"): "toilet",
}
"""Two words of which only one is an object."""


class ObjectReader:
    """Reads objects out of captions.

    A caption becomes words in the singular; from the left, words that make up a name of several words are put
    together, the longest first ("hot dog" is no dog); "baby elephant" is an elephant and no person, "bow tie" a tie,
    "toilet seat" a toilet; where a toilet is mentioned, seats are not chairs; what the table of synonyms knows is kept.

    Args:
        table: names of every category, its own first.
        released: repeat slips of the release: names of three words are never found.

    Every word is taken for a noun; the release asks a part-of-speech tagger, so that "potted" may become "pot" there.
    A colour ("orange") counts as the fruit here and there.
    """

    def __init__(self, table: Iterable[Sequence[str]], released: bool = False) -> None:
        self._category: dict[str, str] = {}
        for names in table:
            for name in names:
                self._category.setdefault(_singular_name(name), names[0])
        longest = 2 if released else max(len(name.split()) for name in self._category)
        self._sizes = tuple(range(longest, 1, -1))

    def category(self, name: str) -> str | None:
        """The category that ``name`` is another word for."""
        return self._category.get(_singular_name(name))

    def read(self, caption: str) -> list[str]:
        """Categories that the caption mentions, in order, with repeats."""
        words = self._merged([singular(token) for token in tokens(caption)])
        if "toilet" in words:
            words = [word for word in words if word != "seat"]
        return [self._category[word] for word in words if word in self._category]

    def _merged(self, words: Sequence[str]) -> list[str]:
        found, place = [], 0
        while place < len(words):
            name, size = self._name_at(words, place)
            found.append(name)
            place += size
        return found

    def _name_at(self, words: Sequence[str], place: int) -> tuple[str, int]:
        """The longest name that starts at ``place``, and its number of words."""
        for size in self._sizes:
            part = tuple(words[place : place + size])
            if part in _MEANT:
                return _MEANT[part], size
            if len(part) == size and (name := " ".join(part)) in self._category:
                return name, size
        return words[place], 1


def bundled_table(released: bool) -> list[tuple[str, ...]]:
    """Every category with its names, its own first.

    Args:
        released: as far as the slips of the release are known: words it counts that mostly mean something else, and
            none of those that cannot match there.
    """
    table = []
    for name, others in SYNONYMS.items():
        names = (name, *others, *(ONLY_RELEASED.get(name, ()) if released else ()))
        table.append(tuple(word for word in names if not (released and word in NEVER_RELEASED)))
    return table


def read_table(path: Path, released: bool) -> list[tuple[str, ...]]:
    """A table in the form of the release's ``synonyms.txt``: one category per line, names separated by commas.

    Args:
        path: the file.
        released: split at a comma and ONE blank, so that names with another blank in front never match, as there.

    Raises:
        UserError: the file cannot be read or is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read benchmark.synonyms: {error}") from error
    rows = [line.strip().split(", ") if released else [name.strip() for name in line.split(",")] for line in lines]
    # A blank in front of a name keeps it from ever being equal to a word.
    table = [tuple(name for name in row if name and name == name.strip()) for row in rows]
    table = [row for row in table if row]
    if not table:
        raise UserError(f"benchmark.synonyms: expected one category per line with its names; {path} has none")
    return table


def check_categories(reader: ObjectReader, categories: Mapping[int, str]) -> dict[int, str]:
    """COCO's categories as the table calls them.

    Raises:
        UserError: the table lacks one.
    """
    found = {number: reader.category(name) for number, name in categories.items()}
    missing = list(itertools.islice((categories[number] for number, name in found.items() if name is None), 3))
    if missing:
        raise UserError(f"the table of synonyms has no row for {', '.join(missing)}")
    return {number: str(name) for number, name in found.items()}


def _singular_name(name: str) -> str:
    return " ".join(singular(token) for token in tokens(name))
