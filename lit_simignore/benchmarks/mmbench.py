"""MMBench: multiple choice over 20 abilities, every question asked with its options in every order.

Data: Liu et al., ECCV 2024 (arXiv:2307.06281), Apache-2.0; English dev 1164 questions (4329 rows with all orders).
OpenCompass' tables ``mmbench_dev_*.tsv`` or ``MMBench_DEV_EN.tsv`` (pictures as base64), fetched by the user, or the
hub's ``lmms-lab/MMBench``. Test answers are secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from lit_simignore.benchmarks._choice import ChoiceBenchmark, Question, announced_lines, lines
from lit_simignore.benchmarks._option_answers import parse_option
from lit_simignore.benchmarks._protocols import Protocol
from lit_simignore.benchmarks._rows import Row
from lit_simignore.types import UserError

_STEP = 1_000_000
"""In tables with all orders, the index of an order is the question's plus so many times the places moved."""


@dataclass(kw_only=True)
class MMBench(ChoiceBenchmark):
    """Multiple choice about abilities.

    Args:
        subset: the hub's ``en``, ``cn`` or ``cc``.
        protocol: ``llava`` (hint, question, ``A. ...`` line by line, "Answer with the option's letter ...") or
            ``lmms-eval`` (hint and question on one line, "There are several options:"). Both read answers with the
            same deterministic rule: MMBench's own evaluation asks a language model where rules fail, so that its
            numbers can be a little higher for models that do not answer with a letter.

    A table with all orders is recognised by its indices; of another, ``circular=true`` makes them.
    ``circular_accuracy`` is MMBench's headline then, the accuracy that of "VanillaEval" over all orders.
    """

    path: str = "lmms-lab/MMBench"
    split: str = "dev"
    subset: str | None = "en"

    protocols: ClassVar[Mapping[str, Protocol]] = {
        "llava/1": Protocol(lines, parse_option),
        "lmms-eval/1": Protocol(announced_lines, parse_option),
    }
    patterns: ClassVar[tuple[str, ...]] = ("*.tsv", "{split}-*.parquet", "**/{split}-*.parquet")
    max_new_tokens: ClassVar[int] = 64

    def questions(self) -> Iterator[Question]:
        rows = list(self.rows())
        indices = [_index(row) for row in rows]
        all_orders = any(index >= _STEP for index in indices)
        by_index = dict(zip(indices, rows, strict=True))
        for index, row in zip(indices, rows, strict=True):
            image = _with_picture(row, by_index)
            yield Question(
                question_id=str(index % _STEP),
                text=row.need_text("question"),
                choices=_options(row),
                answer=row.get("answer"),
                image=self.picture(image.need("image"), row.where),
                group=str(index % _STEP),
                hint=row.text("hint"),
                kind=row.text("l2-category", "L2-category", "l2_category", "category"),
                moved=index // _STEP if all_orders else None,
                where=row.where,
            )


def _index(row: Row) -> int:
    text = row.need_text("index")
    try:
        return int(float(text))
    except (ValueError, OverflowError) as error:
        raise UserError(f"{row.where}expected a number as index; got {text[:80]!r}") from error


def _options(row: Row) -> tuple[str, ...]:
    """The options up to the first that is missing."""
    found = []
    for letter in "ABCDE":
        if row.get(letter) is None:
            break
        found.append(row.text(letter))
    return tuple(found)


def _with_picture(row: Row, by_index: Mapping[int, Row]) -> Row:
    """The row that holds the picture: other orders of a question name it by its index."""
    value = row.need("image")
    if not (isinstance(value, str) and value.isdigit()):
        return row
    target = by_index.get(int(value))
    if target is None or str(target.get("image")).isdigit():
        raise UserError(f"{row.where}expected the index of a row with a picture as image; got {value}")
    return target
