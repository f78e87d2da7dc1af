from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lit_simignore.benchmarks.jsonl import JsonLinesBenchmark, normalise
from lit_simignore.types import Role, UserError

CHOICE = {"id": "1", "image": "cat.png", "question": "What is it?", "choices": ["a cat", "a dog"], "answer": "A"}
FREE = {"id": 2, "image": ["a.png", "sub/b.png"], "question": "Which colour?", "answer": "Red", "kind": "colour"}


def _benchmark(folder: Path, *rows: Any, **fields: Any) -> JsonLinesBenchmark:
    path = folder / "questions.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return JsonLinesBenchmark(path=str(path), **fields)


def test_rows_become_samples_in_the_order_of_the_file(tmp_path: Path) -> None:
    choice, free = _benchmark(tmp_path, CHOICE, FREE).load()
    assert choice.images == (tmp_path / "cat.png",)
    assert (choice.choices, choice.answer, choice.group_id) == (("a cat", "a dog"), "A", "cat.png")
    assert free.images == (tmp_path / "a.png", tmp_path / "sub" / "b.png")
    assert (free.sample_id, free.answer, free.kind) == ("2", "red", "colour")
    assert _benchmark(tmp_path, CHOICE, FREE, limit=1).load() == [choice]


def test_a_free_question_has_roles_and_an_instruction_of_choice(tmp_path: Path) -> None:
    row = FREE | {"context": "A ball."}
    (sample,) = _benchmark(tmp_path, row).load()
    assert sample.prompt == "Context: A ball.\nWhich colour?\nAnswer the question using a single word or phrase."
    assert [segment.role for segment in sample.segments] == [Role.CONTEXT, Role.QUESTION, Role.TEMPLATE]
    (bare,) = _benchmark(tmp_path, FREE, instruction="").load()
    assert bare.prompt == "Which colour?"


def test_a_choice_question_is_asked_as_scienceqa_asks(tmp_path: Path) -> None:
    (sample,) = _benchmark(tmp_path, CHOICE).load()
    assert sample.prompt.startswith("Context: N/A\nQuestion: What is it?\nOptions: (A) a cat (B) a dog\nAnswer with")


@pytest.mark.parametrize(
    ("choices", "answer", "letter"),
    [
        (["x", "y"], "B", "B"),
        (["x", "y"], 1, "B"),
        (["x", "y"], 0, "A"),
        (["x", "y"], "y", "B"),
        (["1", "2", "3"], "2", "B"),
        (["A", "B"], "B", "B"),
        (["x", "y"], None, None),
    ],
)
def test_an_answer_is_a_letter_a_number_or_a_text(
    tmp_path: Path, choices: Any, answer: Any, letter: str | None
) -> None:
    (sample,) = _benchmark(tmp_path, CHOICE | {"choices": choices, "answer": answer}).load()
    assert sample.answer == letter


def test_questions_with_many_choices_are_read_by_all_their_letters(tmp_path: Path) -> None:
    benchmark = _benchmark(tmp_path, CHOICE | {"choices": list("abcdefgh"), "answer": "h"})
    (sample,) = benchmark.load()
    assert benchmark.score(benchmark.parse("(H) h", sample), sample) == 1.0


@pytest.mark.parametrize(
    ("answer", "output", "right"),
    [
        ("Red", " The RED. ", True),
        ("red", "reddish", False),
        (3.5, "3.5", True),
        (3.5, "35", False),
        (-2, "2", False),
        (-2, "(\u22122)", True),
        ("caf\u00e9", "cafe\u0301!", True),
        ("A", "a", True),
        ("New York", "new   york,", True),
        ("rock'n'roll", "Rock'n'Roll", True),
    ],
)
def test_free_answers_are_compared_after_normalisation(tmp_path: Path, answer: Any, output: str, right: bool) -> None:
    benchmark = _benchmark(tmp_path, FREE | {"answer": answer})
    (sample,) = benchmark.load()
    assert benchmark.score(benchmark.parse(output, sample), sample) == float(right)


@pytest.mark.parametrize("text", ["cat-a the", "A. the", "...", "the an", "-", "a-b", "--5", "\u0130stanbul"])
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_without_an_answer_there_is_no_score(tmp_path: Path) -> None:
    benchmark = _benchmark(tmp_path, {"id": "1", "image": [], "question": "Describe."})
    (sample,) = benchmark.load()
    assert sample.images == ()
    assert benchmark.score(benchmark.parse("anything", sample), sample) is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("not json", "line 2"),
        ("[]", "line 2"),
        (CHOICE | {"anwser": "A"}, "line 2: unknown key 'anwser'"),
        ({"image": "x.png", "question": "?"}, "line 2: id"),
        (CHOICE | {"id": True}, "line 2: id"),
        (CHOICE | {"id": "first"}, "line 2: id 'first' was used before, in line 1"),
        (CHOICE | {"id": "3", "question": " "}, "line 2: question"),
        (CHOICE | {"question": None}, "line 2: question"),
        (CHOICE | {"context": 3}, "line 2: context"),
        ({"id": "1", "question": "?"}, "line 2: image"),
        (CHOICE | {"image": "http://host/x.png"}, "line 2: image"),
        (CHOICE | {"image": ["x.png", 3]}, "line 2: image"),
        (CHOICE | {"image": "../x.png"}, "line 2: .*allow_parent_paths=true"),
        (CHOICE | {"image": "a\0b"}, "line 2: image"),
        (CHOICE | {"choices": ["x"]}, "line 2: choices"),
        (CHOICE | {"choices": ["x", "x"]}, "line 2: choices"),
        (CHOICE | {"choices": "xy"}, "line 2: choices"),
        (CHOICE | {"answer": "C"}, "line 2: answer.*is none of them"),
        (CHOICE | {"answer": 2}, "line 2: answer.*is none of them"),
        (CHOICE | {"answer": -1}, "line 2: answer.*is none of them"),
        (CHOICE | {"answer": True}, "line 2: answer.*is none of them"),
        (CHOICE | {"choices": ["B", "A"], "answer": "A"}, "line 2: answer.*fits two"),
        (FREE | {"answer": ["red", "blue"]}, "line 2: answer"),
        (FREE | {"answer": ""}, "line 2: answer"),
        (FREE | {"answer": False}, "line 2: answer"),
    ],
)
def test_every_malformed_row_is_refused_with_file_and_line(tmp_path: Path, row: Any, message: str) -> None:
    benchmark = _benchmark(tmp_path, FREE | {"id": "first"}, row)
    with pytest.raises(UserError, match=rf"^questions\.jsonl, {message}") as caught:
        benchmark.load()
    assert "\n" not in str(caught.value)


def test_absolute_and_explicitly_allowed_paths_may_lead_out_of_the_folder(tmp_path: Path) -> None:
    elsewhere = str(tmp_path.parent / "x.png")
    (sample,) = _benchmark(tmp_path, CHOICE | {"image": elsewhere}).load()
    assert sample.images == (Path(elsewhere),)
    (sample,) = _benchmark(tmp_path, CHOICE | {"image": "../x.png"}, allow_parent_paths=True).load()
    assert sample.images == (tmp_path / "../x.png",)


def test_a_missing_picture_does_not_stop_the_others(tmp_path: Path) -> None:
    (sample,) = _benchmark(tmp_path, CHOICE).load()
    assert isinstance(sample.images[0], Path) and not sample.images[0].exists()


@pytest.mark.parametrize("path", ["", "absent.jsonl", "."])
def test_a_missing_file_is_refused(path: str) -> None:
    with pytest.raises(UserError, match="benchmark.path="):
        JsonLinesBenchmark(path=path).load()


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no rows"):
        _benchmark(tmp_path).load()


def test_identity_follows_the_content_and_the_instruction(tmp_path: Path) -> None:
    before = _benchmark(tmp_path, CHOICE).identity()
    assert _benchmark(tmp_path, CHOICE).identity() == before
    assert _benchmark(tmp_path, FREE).identity() != before
    assert _benchmark(tmp_path, CHOICE, instruction="").identity() != before
