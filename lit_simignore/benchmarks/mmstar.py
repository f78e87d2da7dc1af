"""MMStar: multiple choice that cannot be answered without the image, 250 questions for each of six abilities.

Data: Chen et al., NeurIPS 2024 (arXiv:2403.20330); 1500 questions. ``mmstar.parquet`` or ``MMStar.tsv`` (pictures as
base64), fetched by the user, or the hub's ``Lin-Chen/MMStar``. The question's text holds the options; tables that have
them in columns are read as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from lit_simignore.benchmarks._choice import ChoiceBenchmark, Question, as_asked, as_asked_directly, lines
from lit_simignore.benchmarks._letters import LETTERS
from lit_simignore.benchmarks._option_answers import parse_mmstar, parse_option
from lit_simignore.benchmarks._protocols import Protocol, reads
from lit_simignore.benchmarks._rows import Row
from lit_simignore.types import UserError

_OPTIONS = re.compile(r"\s*\n?\s*Options:\s*A\s*:", re.IGNORECASE)


@dataclass(kw_only=True)
class MMStar(ChoiceBenchmark):
    """Multiple choice that needs the image.

    Args:
        protocol: ``mmstar`` (the question as released, MMStar's parser), ``lmms-eval`` (the same with the instruction
            to answer with a letter) or ``llava`` (options line by line, LLaVA's instruction, the lenient parser).
    """

    path: str = "Lin-Chen/MMStar"
    split: str = "val"
    protocol: str = "lmms-eval"

    protocols: ClassVar[Mapping[str, Protocol]] = {
        "mmstar/1": Protocol(as_asked, reads(parse_mmstar)),
        "lmms-eval/1": Protocol(as_asked_directly, reads(parse_mmstar)),
        "llava/1": Protocol(lines, parse_option),
    }
    patterns: ClassVar[tuple[str, ...]] = ("MMStar*.tsv", "**/{split}-*.parquet", "*.parquet", "*.tsv")
    max_new_tokens: ClassVar[int] = 64

    def questions(self) -> Iterator[Question]:
        for row in self.rows():
            text, choices = _split(row)
            yield Question(
                question_id=row.need_text("index"),
                text=text,
                choices=choices,
                answer=row.get("answer"),
                image=self.picture(row.need("image"), row.where),
                group=row.need_text("index"),
                kind=row.text("category"),
                where=row.where,
            )


def _split(row: Row) -> tuple[str, tuple[str, ...]]:
    """The question without its options, and these. Letters are looked for in order, so commas inside do no harm."""
    text = row.need_text("question")
    if row.get("A") is not None:
        columns = tuple(row.text(letter) for letter in "ABCDEFGH" if row.get(letter) is not None)
        return _OPTIONS.split(text)[0].strip(), columns
    mark = _OPTIONS.search(text)
    if mark is None:
        raise UserError(f"{row.where}expected columns A, B, ... or 'Options: A: ..., B: ...'; got {text[:80]!r}")
    choices, rest = [], text[mark.end() :]
    for letter in LETTERS[1:]:
        parts = re.split(rf",?\s+{letter}\s*:", rest, maxsplit=1)
        choices.append(parts[0].strip())
        if len(parts) == 1:
            break
        rest = parts[1]
    return text[: mark.start()].strip(), tuple(choices)
