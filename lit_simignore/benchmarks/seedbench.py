"""SEED-Bench, image part: multiple choice with four options over nine dimensions of understanding.

Data: Li et al., CVPR 2024 (arXiv:2307.16125), CC BY-NC 4.0; 14 233 questions about images (those about videos are left
out). ``SEED-Bench.json`` with ``SEED-Bench-image/<data_id>``, fetched by the user, or the hub's
``lmms-lab/SEED-Bench``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lit_simignore.benchmarks._choice import ChoiceBenchmark, Question, lines
from lit_simignore.benchmarks._option_answers import parse_exact_letter, parse_first_character, parse_option
from lit_simignore.benchmarks._protocols import Protocol, reads
from lit_simignore.benchmarks._rows import Row, member, objects, read_json

_LETTERS = "abcd"


@dataclass(kw_only=True)
class SEEDBench(ChoiceBenchmark):
    """Multiple choice about images.

    Args:
        protocol: ``llava`` (the output must be the letter), ``lmms-eval`` (its first character counts) or ``lenient``
            (an option named by letter or text). The prompt is the same.
    """

    path: str = "lmms-lab/SEED-Bench"

    protocols: ClassVar[Mapping[str, Protocol]] = {
        "llava/1": Protocol(lines, reads(parse_exact_letter)),
        "lmms-eval/1": Protocol(lines, reads(parse_first_character)),
        "lenient/1": Protocol(lines, parse_option),
    }
    patterns: ClassVar[tuple[str, ...]] = ("SEED-Bench.json", "**/{split}-*.parquet")
    image_folders: ClassVar[tuple[str, ...]] = ("SEED-Bench-image", "images")
    max_new_tokens: ClassVar[int] = 16

    def rows(self) -> Iterator[Row]:
        if self.local is None or self.files()[0].suffix != ".json":
            yield from super().rows()
            return
        for file in self.files():
            document = read_json(file)
            names = document.get("question_type") if isinstance(document, dict) else None
            by_id = {value: name for name, value in names.items()} if isinstance(names, dict) else {}
            for row in objects(member(document, "questions", file.name), file.name):
                yield Row(row.where, {**row.values, **_type_name(row, by_id)})

    def questions(self) -> Iterator[Question]:
        for row in self.rows():
            if row.text("data_type") not in ("", "image"):
                continue
            image = row.need_text("data_id")
            yield Question(
                question_id=row.need_text("question_id"),
                text=row.need_text("question"),
                choices=tuple(row.need_text(f"choice_{letter}") for letter in _LETTERS),
                answer=row.get("answer"),
                image=self.picture(row.get("image") or image, row.where),
                group=image,
                kind=row.text("question_type") or f"type {row.text('question_type_id')}",
                where=row.where,
            )


def _type_name(row: Row, by_id: Mapping[Any, str]) -> dict[str, str]:
    """The name of the row's dimension, where the file has names."""
    name = by_id.get(row.get("question_type_id"))
    return {} if name is None else {"question_type": name}
