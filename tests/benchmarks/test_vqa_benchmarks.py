"""TextVQA, VQAv2 and GQA: layouts, prompts, soft and exact scores."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_simignore.benchmarks.gqa import GQA
from lit_simignore.benchmarks.textvqa import TextVQA
from lit_simignore.benchmarks.vqav2 import VQAv2
from lit_simignore.types import Prediction, Role, UserError
from tests.benchmarks.official_layouts import as_cell, gqa, textvqa, vqav2, write_json, write_parquet

BRIEFLY = "Answer the question using a single word or phrase."


def test_textvqa_shows_ocr_tokens_where_llava_does(tmp_path: Path) -> None:
    with_tokens = TextVQA(**textvqa(tmp_path)).load()[1]
    assert with_tokens.prompt == f"What is written here?\nReference OCR token: WORD, 1\n{BRIEFLY}"
    assert [segment.role for segment in with_tokens.segments] == [Role.QUESTION, Role.CONTEXT, Role.TEMPLATE]
    without = TextVQA(**textvqa(tmp_path), protocol="lmms-eval").load()[1]
    assert without.prompt == f"What is written here?\n{BRIEFLY}"
    assert without.images == (tmp_path / "train_images" / "00aa1.jpg",)
    (tmp_path / "TextVQA_Rosetta_OCR_v0.2_val.json").unlink()
    with pytest.raises(UserError, match="item 0: protocol llava/1 needs OCR tokens.*protocol=lmms-eval"):
        TextVQA(path=str(tmp_path)).load()


def test_textvqa_scores_softly_and_not_at_all_where_answers_are_secret(tmp_path: Path) -> None:
    benchmark = TextVQA(**textvqa(tmp_path))
    samples = benchmark.load()
    first, secret = samples[0], samples[-1]
    assert first.answer == "word 0" and len(first.references) == 10
    scores = {text: benchmark.score(benchmark.parse(text, first), first) for text in ("The WORD 0.", "Other", "x", " ")}
    assert scores == {"The WORD 0.": 1.0, "Other": pytest.approx(0.3), "x": 0.0, " ": 0.0}
    assert secret.answer is None
    assert benchmark.score(benchmark.parse("word", secret), secret) is None


def test_textvqas_hub_table(tmp_path: Path) -> None:
    row = {"image_id": "a", "question_id": 7, "question": "what?", "answers": ["x"] * 10, "ocr_tokens": ["T", "U"],
           "image": as_cell(3)}  # fmt: skip
    write_parquet(tmp_path / "data" / "validation-0.parquet", [row])
    (sample,) = TextVQA(path=str(tmp_path)).load()
    assert "Reference OCR token: T, U\n" in sample.prompt
    assert (sample.sample_id, sample.group_id, sample.answer) == ("7", "a", "x")


def test_vqav2_joins_questions_and_annotations(tmp_path: Path) -> None:
    benchmark = VQAv2(**vqav2(tmp_path))
    samples = benchmark.load()
    assert [sample.kind for sample in samples[:3]] == ["yes/no", "number", "other"]
    assert [sample.answer for sample in samples[:3]] == ["yes", "2", "red car"]
    assert samples[0].images == (tmp_path / "val2014" / "COCO_val2014_000000000040.jpg",)
    assert samples[0].prompt == f"What about 0?\n{BRIEFLY}"
    assert benchmark.score(benchmark.parse("A red car.", samples[2]), samples[2]) == 1.0
    records = [
        Prediction(s.sample_id, "m", "", "", s.answer, score=float(s.kind == "number"), kind=s.kind) for s in samples
    ]
    assert benchmark.aggregate(records) == {"number_accuracy": 1.0, "other_accuracy": 0.0, "yes_no_accuracy": 0.0}


def test_vqav2_without_annotations_is_answered_but_not_scored(tmp_path: Path) -> None:
    questions = {"questions": [{"question_id": 1, "image_id": 262144, "question": "What?"}]}
    write_json(tmp_path / "v2_OpenEnded_mscoco_test-dev2015_questions.json", questions)
    benchmark = VQAv2(path=str(tmp_path), split="testdev")
    (sample,) = benchmark.load()
    assert str(sample.images[0]).endswith("test2015/COCO_test2015_000000262144.jpg")
    assert benchmark.score("anything", sample) is None


def test_vqav2s_hub_table_has_answers_as_objects(tmp_path: Path) -> None:
    answers = [{"answer": "Yes", "answer_confidence": "yes", "answer_id": n} for n in range(10)]
    row = {"question_id": 1, "image_id": 9, "question": "Is it?", "answer_type": "yes/no", "answers": answers,
           "image": as_cell(1)}  # fmt: skip
    write_parquet(tmp_path / "data" / "validation-0.parquet", [row])
    (sample,) = VQAv2(path=str(tmp_path)).load()
    assert (sample.answer, sample.references) == ("yes", ("yes",) * 10)


@pytest.mark.parametrize(
    ("answers", "references"),
    [
        ([{"answer": "A dog"}], ("dog",)),
        ({"answer": ["A dog", "2"], "answer_id": [1, 2]}, ("dog", "2")),
        (["", ""], ()),
        ([], ()),
        (None, ()),
    ],
)
def test_answers_come_in_several_forms_or_are_secret(
    tmp_path: Path, answers: object, references: tuple[str, ...]
) -> None:
    data = [{"question_id": 1, "question": "?", "image_id": "a", "answers": answers}]
    write_json(tmp_path / "TextVQA_0.5.1_val.json", {"data": data})
    (sample,) = TextVQA(path=str(tmp_path), protocol="lmms-eval").load()
    assert sample.references == references
    assert (sample.answer is None) is (not references)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ("red", "item 0: expected answers as a list"),
        ([1, 2], "item 0: expected answers as a list"),
        ([{"text": "red"}], "item 0: expected answers as a list"),
    ],
)
def test_answers_of_another_form_are_named(tmp_path: Path, answers: object, message: str) -> None:
    data = [{"question_id": 1, "question": "?", "image_id": "a", "answers": answers}]
    write_json(tmp_path / "TextVQA_0.5.1_val.json", {"data": data})
    with pytest.raises(UserError, match=f"TextVQA_0.5.1_val.json, {message}"):
        TextVQA(path=str(tmp_path), protocol="lmms-eval").load()


def test_gqa_compares_exactly_under_both_protocols(tmp_path: Path) -> None:
    llava, lmms = GQA(**gqa(tmp_path)), GQA(**gqa(tmp_path), protocol="lmms-eval")
    sample = llava.load()[1]
    assert (sample.sample_id, sample.answer, sample.kind) == ("20191", "refrigerator", "query")
    assert sample.prompt == f"Which one is number 1?\n{BRIEFLY}"
    for output, by_llava, by_lmms in (
        ("Refrigerator.", 1.0, 1.0), ("the refrigerator", 0.0, 0.0), ("refrigerator!", 0.0, 1.0), ("", 0.0, 0.0),
    ):  # fmt: skip
        assert llava.score(llava.parse(output, sample), sample) == by_llava
        assert lmms.score(lmms.parse(output, sample), sample) == by_lmms


def test_gqa_tells_open_from_binary_questions() -> None:
    kinds = {"verify": 1.0, "choose": 0.0, "logical": 1.0, "query": 0.0, "compare": 1.0}
    records = [Prediction("", "m", "", "", "", score=score, kind=kind) for kind, score in kinds.items()]
    found = GQA().aggregate(records)
    assert (found["binary_accuracy"], found["open_accuracy"]) == (pytest.approx(2 / 3), 0.5)
    assert found["verify_accuracy"] == 1.0


def test_gqas_pictures_are_a_table_of_their_own(tmp_path: Path) -> None:
    rows = [{"id": "1", "imageId": image, "question": "What?", "answer": "Dog", "types": {"structural": "query"}}
            for image in ("n1",)]  # fmt: skip
    write_parquet(tmp_path / "testdev_balanced_instructions" / "testdev-0.parquet", rows)
    pictures = [{"id": "n0", "image": as_cell(0)}, {"id": "n1", "image": as_cell(1)}]
    write_parquet(tmp_path / "testdev_balanced_images" / "testdev-0.parquet", pictures)
    (sample,) = GQA(path=str(tmp_path)).load()
    draw = sample.images[0]
    assert callable(draw) and draw().size == (49, 40)
    assert (sample.answer, sample.kind, sample.group_id) == ("dog", "query", "n1")
    write_parquet(tmp_path / "testdev_balanced_images" / "testdev-0.parquet", pictures[:1])
    with pytest.raises(UserError, match="row 0: picture 'n1' is not among the 1 pictures"):
        GQA(path=str(tmp_path)).load()


def test_a_gqa_file_of_another_form_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "testdev_balanced_questions.json", [])
    with pytest.raises(UserError, match="expected questions by id; got a list"):
        GQA(path=str(tmp_path)).load()
    write_json(tmp_path / "testdev_balanced_questions.json", {"5": {"question": "?"}})
    with pytest.raises(UserError, match="question 5: expected imageId; found question, question_id"):
        GQA(path=str(tmp_path)).load()
