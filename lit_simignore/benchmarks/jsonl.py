"""The user's own questions, one JSON object per line.

    {"id": "1", "image": "cat.png", "question": "What is this?", "choices": ["a cat", "a dog"], "answer": "A"}
    {"id": "2", "image": ["a.png", "b.png"], "question": "Which colour is the ball?", "answer": "red"}

With ``choices`` the question is asked and read like ScienceQA's; the answer is a letter, a 0-based number or the text
of a choice. Without, the answer is free text and compared after normalisation. A row without an answer is generated
but not scored.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lit_simignore.benchmarks._letter_answers import parse_letter
from lit_simignore.benchmarks._letters import LETTERS, letter_segments
from lit_simignore.benchmarks._paths import inside
from lit_simignore.benchmarks._scoring import Scoring, option_candidates
from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.metrics.records import read_json_lines
from lit_simignore.types import Candidates, Role, Sample, Segment, UserError

_KEYS = ("id", "image", "question", "context", "choices", "answer", "group", "kind")
_ARTICLES = ("a", "an", "the")
_EDGES = re.compile(r"(?<!\w)(?!-\d)[^\w\s]|[^\w\s](?!\w)")


@dataclass(kw_only=True)
class JsonLinesBenchmark(Benchmark):
    """Questions of one's own, from a ``.jsonl`` file.

    Args:
        path: the file. Row keys: ``id`` (unique), ``image`` (a path or a list; an empty list for none), ``question``,
            and optionally ``context``, ``choices`` (2 to 26), ``answer``, ``group`` (rows that are not independent;
            by default the first image) and ``kind`` (for break-downs). Any other key is an error.
        allow_parent_paths: accept relative image paths that lead out of the file's folder with ``..``. Relative
            paths belong to the file's folder; absolute ones are taken as they are.
        instruction: ends every question without choices; empty for none.
        scoring: of questions with choices: ``generate`` an answer and parse it, or take the option of the most likely
            letter (``likelihood``) or text (``likelihood-text``, per token ``likelihood-text-mean``).

    A missing picture is that sample's error when its turn comes; every other fault is found before anything runs.
    """

    path: str = ""
    allow_parent_paths: bool = False
    instruction: str = "Answer the question using a single word or phrase."
    scoring: Scoring = Scoring.GENERATE

    protocol: ClassVar[str] = "jsonl/1"
    max_new_tokens: ClassVar[int] = 64

    def load(self) -> Sequence[Sample]:
        """All samples, in the order of the file.

        Raises:
            UserError: the file is missing or empty, or a row is malformed; names file and line.
        """
        path = self._file()
        samples: list[Sample] = []
        lines: dict[str, int] = {}
        for number, row in read_json_lines(path).rows:
            where = f"{path.name}, line {number}: "
            sample = self._sample(row, path.parent, where)
            if sample.sample_id in lines:
                raise UserError(f"{where}id {sample.sample_id!r} was used before, in line {lines[sample.sample_id]}")
            lines[sample.sample_id] = number
            samples.append(sample)
        if not samples:
            raise UserError(f"{path.name} has no rows; expected one JSON object per line")
        return samples[: self.limit]

    def parse(self, output: str, sample: Sample) -> str | None:
        """A letter for a question with choices, else the normalised text; ``None`` for neither."""
        if sample.choices:
            return parse_letter(output, num_letters=max(5, len(sample.choices)))
        return normalise(output) or None

    def score(self, parsed: str | None, sample: Sample) -> float | None:
        """1 for the right answer, ``None`` where none is known."""
        return None if sample.answer is None else float(parsed == sample.answer)

    def candidates(self, sample: Sample) -> Candidates | None:
        """The choices, where there are some and they are not to be written."""
        return option_candidates(self.scoring, sample.choices)

    def identity(self) -> Mapping[str, object]:
        """The file's content, so that a moved file is the same data."""
        digest = hashlib.sha256(self._file().read_bytes()).hexdigest()
        asked = {"instruction": self.instruction, "scoring": self.scoring.value}
        return {"protocol": self.protocol, **asked, "sha256": digest}

    def _file(self) -> Path:
        path = Path(self.path)
        if not self.path or not path.is_file():
            raise UserError(f"expected benchmark.path=<file>.jsonl with one question per line; got {self.path!r}")
        return path

    def _sample(self, row: Mapping[str, Any], folder: Path, where: str) -> Sample:
        unknown = sorted(set(row) - set(_KEYS))
        if unknown:
            raise UserError(f"{where}unknown key {unknown[0]!r}; valid: {', '.join(_KEYS)}")
        names = _image_names(row, where)
        question, context = _text(row, "question", where, required=True), _text(row, "context", where)
        choices = _choices(row, where)
        if choices:
            segments = letter_segments(question, choices, context)
            answer = _letter(row.get("answer"), choices, where)
        else:
            segments = _free_segments(question, context, self.instruction)
            answer = _free_answer(row.get("answer"), where)
        return Sample(
            sample_id=_identifier(row, where),
            segments=segments,
            images=tuple(self._image(folder, name, where) for name in names),
            group_id=_text(row, "group", where) or (names[0] if names else ""),
            choices=choices,
            answer=answer,
            kind=_text(row, "kind", where),
        )

    def _image(self, folder: Path, name: str, where: str) -> Path:
        if Path(name).is_absolute() or self.allow_parent_paths:
            return folder / name
        try:
            return inside(folder, name, where)
        except UserError as error:
            raise UserError(f"{error}; write an absolute path or set allow_parent_paths=true") from error


def normalise(text: str) -> str:
    """Compare answers, not spelling: Unicode NFKC, no case, no articles, no punctuation around words, single spaces.

    Punctuation inside a word or number and the sign of a number stay ("3.5" is not "35", nor "-2" "2"). A text of
    nothing but articles and punctuation is kept as it is, so that such an answer can still be right.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\N{MINUS SIGN}", "-")
    words = [word for word in _EDGES.sub(" ", folded).split() if word not in _ARTICLES]
    return " ".join(words or folded.split())


def _free_segments(question: str, context: str, instruction: str) -> tuple[Segment, ...]:
    parts = [
        Segment(f"Context: {context}\n", Role.CONTEXT) if context else None,
        Segment(question, Role.QUESTION),
        Segment(f"\n{instruction}", Role.TEMPLATE) if instruction else None,
    ]
    return tuple(part for part in parts if part is not None)


def _identifier(row: Mapping[str, Any], where: str) -> str:
    value = row.get("id")
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise UserError(f"{where}id must be a non-empty string or a whole number; got {value!r}")
    return str(value)


def _text(row: Mapping[str, Any], key: str, where: str, required: bool = False) -> str:
    value = row.get(key)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value.strip()):
        raise UserError(f"{where}{key} must be a {'non-empty ' if required else ''}string; got {value!r}")
    return value


def _image_names(row: Mapping[str, Any], where: str) -> list[str]:
    value = row.get("image")
    names: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name and "\0" not in name and "://" not in name for name in names):
        raise UserError(f"{where}image must be a local path or a list of them ([] for none); got {value!r}")
    return names


def _choices(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    value = row.get("choices")
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(choice, str) and choice.strip() for choice in value):
        raise UserError(f"{where}choices must be a list of non-empty strings; got {value!r}")
    if not 2 <= len(value) <= len(LETTERS) or len(set(value)) < len(value):
        raise UserError(f"{where}choices must be 2 to {len(LETTERS)} different strings; got {value!r}")
    return tuple(value)


def _letter(answer: object, choices: tuple[str, ...], where: str) -> str | None:
    """The letter of a letter, a number or a text. What can be read in two ways is refused, not guessed."""
    if answer is None:
        return None
    readings: set[int] = set()
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        readings.add(answer)
    elif isinstance(answer, str) and len(answer) == 1 and answer in LETTERS[: len(choices)]:
        readings.add(LETTERS.index(answer))
    readings.update(index for index, choice in enumerate(choices) if choice == answer)
    if len(readings) != 1:
        problem = "fits two choices" if readings else "is none of them"
        raise UserError(
            f"{where}answer must be the letter, the number (from 0) or the text of one of {list(choices)}; "
            f"{answer!r} {problem}"
        )
    return LETTERS[readings.pop()]


def _free_answer(answer: object, where: str) -> str | None:
    if answer is None:
        return None
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)) or not normalise(str(answer)):
        raise UserError(f"{where}answer must be a non-empty string or a number; got {answer!r}")
    return normalise(str(answer))
