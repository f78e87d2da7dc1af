"""The places that ScienceQA comes from: LLaVA's conversation file, the authors' ``problems.json``, the hub's tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_simignore.benchmarks._hub import hub_rows, parquet_rows
from lit_simignore.benchmarks._letters import LETTERS, NO_CONTEXT
from lit_simignore.benchmarks._paths import inside
from lit_simignore.benchmarks._pictures import picture_folder
from lit_simignore.benchmarks._rows import read_json
from lit_simignore.metrics.records import read_json_lines
from lit_simignore.types import ImageSource, UserError

_ANSWER = re.compile(r"The answer is ([A-Z])\.")


@dataclass(frozen=True, slots=True)
class Problem:
    """One ScienceQA question, whatever file it came from.

    ``answer`` is a letter; an empty context, subject or grade means none or unknown.
    """

    problem_id: str
    question: str
    context: str
    choices: tuple[str, ...]
    answer: str | None
    image: ImageSource | None
    image_name: str = ""
    subject: str = ""
    grade: str = ""
    where: str = ""


def find_questions(path: Path, split: str) -> Path:
    """The file of questions: ``path`` itself, or the one that a folder in either local layout holds."""
    if path.is_file():
        return path
    for pattern in (f"llava_{split}_CQM-A*.json", "problems.json"):
        if found := sorted(path.glob(pattern)):
            return found[0]
    raise UserError(f"expected llava_{split}_CQM-A*.json or problems.json in {path}; found neither")


def local_problems(questions: Path, split: str, images: Path | None) -> Iterator[Problem]:
    """Read a local file of questions; pictures are named, not opened.

    Args:
        questions: LLaVA's list of conversations (``.json``, or one per line as ``.jsonl``), or ``problems.json``.
        split: which split of ``problems.json``.
        images: folder that picture names are relative to; by default the first of ``images/<split>``, ``images``,
            ``<split>`` and the folder of ``questions`` that holds the first picture.

    Raises:
        UserError: a question that cannot be understood; names file and question.
    """
    if questions.name == "problems.json":
        named = _authors_problems(questions, split)
    else:
        known = _known_problems(questions)
        named = (_with_school(_from_conversation(item, where), known) for where, item in _conversations(questions))
    for problem in named:
        if not problem.image_name:
            yield problem
            continue
        images = images or picture_folder(questions.parent, (f"images/{split}", "images", split), problem.image_name)
        yield replace(problem, image=inside(images, problem.image_name, problem.where))


def hub_problems(source: str, split: str, subset: str | None, revision: str | None) -> Iterator[Problem]:
    """Read one split from the hub. Rows there have no id: their number in the split is used."""
    for index, row in enumerate(hub_rows(source, split=split, subset=subset, revision=revision)):
        problem_id = str(row.get("id", row.get("pid", f"{split}-{index}")))
        yield _from_table(row, problem_id, f"{source}, row {index}: ")


def table_problems(files: Sequence[Path], split: str) -> Iterator[Problem]:
    """Read Parquet files of the hub's dataset."""
    for index, row in enumerate(parquet_rows(files)):
        yield _from_table(row, str(row.get("id", f"{split}-{index}")), f"{files[0].name}, row {index}: ")


def _from_table(row: Mapping[str, Any], problem_id: str, where: str) -> Problem:
    fields = {name: value for name, value in row.items() if name != "image"}
    return replace(_from_fields(fields, problem_id, where), image=row.get("image"))


def _known_problems(questions: Path) -> Mapping[str, Any]:
    """The authors' file, if it lies beside LLaVA's, which has neither subjects nor grades."""
    beside = questions.with_name("problems.json")
    known = read_json(beside) if beside.is_file() else {}
    return known if isinstance(known, dict) else {}


def _with_school(problem: Problem, known: Mapping[str, Any]) -> Problem:
    """With the subject and the grade of the authors' file."""
    row = known.get(problem.problem_id)
    if not isinstance(row, dict):
        return problem
    return replace(problem, subject=str(row.get("subject") or ""), grade=str(row.get("grade") or ""))


def _conversations(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """``(place for messages, item)`` of every conversation."""
    if path.suffix == ".jsonl":
        for number, row in read_json_lines(path).rows:
            yield f"{path.name}, line {number}: ", row
        return
    items = read_json(path)
    if not isinstance(items, list):
        raise UserError(f"{path.name}: expected a list of conversations; got a {type(items).__name__}")
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise UserError(f"{path.name}, item {index}: expected an object; got a {type(item).__name__}")
        yield f"{path.name}, item {index}: ", item


def _from_conversation(item: Mapping[str, Any], where: str) -> Problem:
    """Undo LLaVA's CQM-A rendering."""
    try:
        turns = [turn["value"] for turn in item["conversations"]]
        message = turns[0].replace("<image>", "").strip()
        reply = turns[1] if len(turns) > 1 else ""
        problem_id = str(item["id"])
        image_name = str(item.get("image") or "")
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{where}expected id, image and conversations as LLaVA has them; got {sorted(item)}") from error
    head, options_mark, options = message.rpartition("\nOptions: ")
    context, question_mark, question = head.removeprefix("Context: ").rpartition("\nQuestion: ")
    if not (message.startswith("Context: ") and question_mark and options_mark):
        raise UserError(f"{where}expected 'Context: ...', 'Question: ...', 'Options: ...'; got {message[:80]!r}")
    choices = _split_options(options)
    match = _ANSWER.search(reply) if isinstance(reply, str) else None
    answer = match.group(1) if match else None
    _check(choices, answer, where)
    hint = "" if context == NO_CONTEXT else context
    place = f"{where.removesuffix(': ')}, question {problem_id}: "
    return Problem(problem_id, question, hint, choices, answer, None, image_name, where=place)


def _split_options(options: str) -> tuple[str, ...]:
    """``(A) this (B) that`` -> texts. Letters are looked for in order, so that brackets inside a text do no harm."""
    choices: list[str] = []
    rest = options
    for letter, following in zip(LETTERS, LETTERS[1:] + "\n", strict=True):
        if not rest.startswith(f"({letter}) "):
            break
        text, mark, rest = rest[len("(X) ") :].partition(f" ({following}) ")
        choices.append(text)
        rest = f"({following}) {rest}" if mark else ""
    return tuple(choices)


def _authors_problems(path: Path, split: str) -> Iterator[Problem]:
    """The original release: all problems in one file, the splits' ids in ``pid_splits.json`` beside it."""
    problems, splits = read_json(path), read_json(path.with_name("pid_splits.json"))
    if split not in splits:
        raise UserError(f"pid_splits.json has no split {split!r}; valid: {', '.join(map(str, splits))}")
    for problem_id in splits[split]:
        where = f"{path.name}, question {problem_id}: "
        if problem_id not in problems:
            raise UserError(f"{where}listed in pid_splits.json but missing")
        yield _from_fields(problems[problem_id], str(problem_id), where)


def _from_fields(row: Mapping[str, Any], problem_id: str, where: str) -> Problem:
    """From the authors' fields. Doubled spaces become one, as in LLaVA's conversion."""
    try:
        question, hint = str(row["question"]), str(row.get("hint") or "").strip()
        choices = tuple(_single_spaced(str(choice)) for choice in row["choices"])
        answer = LETTERS[row["answer"]] if row.get("answer") is not None else None
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{where}expected question, choices and answer as in ScienceQA; got {sorted(row)}") from error
    _check(choices, answer, where)
    name = row.get("image")
    return Problem(
        problem_id,
        _single_spaced(question),
        _single_spaced(hint),
        choices,
        answer,
        image=None,
        image_name=f"{problem_id}/{name}" if isinstance(name, str) and name else "",
        subject=str(row.get("subject") or ""),
        grade=str(row.get("grade") or ""),
        where=where,
    )


def _single_spaced(text: str) -> str:
    return text.replace("  ", " ")


def _check(choices: tuple[str, ...], answer: str | None, where: str) -> None:
    if not 2 <= len(choices) <= len(LETTERS):
        raise UserError(f"{where}expected 2 to {len(LETTERS)} options; got {len(choices)}")
    if answer is not None and answer not in LETTERS[: len(choices)]:
        raise UserError(f"{where}the answer {answer} is not among the {len(choices)} options")
