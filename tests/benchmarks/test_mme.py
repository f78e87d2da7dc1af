from __future__ import annotations

from pathlib import Path

import pytest

from lit_simignore.benchmarks._yes_no import parse_mme, parse_mme_lmms_eval
from lit_simignore.benchmarks.mme import MME
from lit_simignore.types import Prediction, UserError
from tests.benchmarks.official_layouts import as_cell, mme, save, write_parquet


def test_both_layouts_of_the_release_are_read(tmp_path: Path) -> None:
    samples = MME(**mme(tmp_path)).load()
    assert {sample.kind for sample in samples} == {"existence", "OCR", "code_reasoning"}
    assert len(samples) == 12 and len({sample.group_id for sample in samples}) == 6
    ocr = next(sample for sample in samples if sample.kind == "OCR")
    assert ocr.images == (tmp_path / "OCR" / "images" / "0000.jpg",)
    assert ocr.sample_id == "OCR/0000.jpg#0"
    assert {sample.kind for sample in MME(**mme(tmp_path), tasks=("OCR",)).load()} == {"OCR"}


def test_the_instruction_takes_the_place_of_the_questions_own(tmp_path: Path) -> None:
    first = MME(**mme(tmp_path)).load()[0]
    assert first.prompt == "Is it OCR 0?\nAnswer the question using a single word or phrase."
    assert MME(**mme(tmp_path), protocol="mme").load()[0].prompt == "Is it OCR 0? Please answer yes or no."


def test_the_hubs_table_gives_pairs(tmp_path: Path) -> None:
    rows = [
        {"question_id": "existence/1.png", "image": as_cell(0), "question": "Is it?", "answer": answer,
         "category": "existence"}
        for answer in ("Yes", "No")
    ]  # fmt: skip
    write_parquet(tmp_path / "data" / "test-0.parquet", rows)
    samples = MME(path=str(tmp_path)).load()
    assert [(sample.sample_id, sample.answer) for sample in samples] == [
        ("existence/1.png#0", "yes"), ("existence/1.png#1", "no"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("output", "official", "lmms_eval"),
    [
        ("Yes", "yes", "yes"),
        ("No.", "no", "no"),
        ("Yes, no doubt", "yes", "yes"),
        ("No, yes", "no", "no"),
        ("Not sure", "no", "no"),
        ("None", "no", "no"),
        ("I know", None, None),
        ("y", None, "yes"),
        ("N.", None, "no"),
        ("..no", "no", "no"),
        ("....no", None, "no"),
        ("  no", "no", "no"),
        ("    no", None, "no"),
        ("", None, None),
    ],
)
def test_parsers_keep_their_quirks(output: str, official: str | None, lmms_eval: str | None) -> None:
    assert parse_mme(output) == official
    assert parse_mme_lmms_eval(output) == lmms_eval


def test_totals_are_on_the_papers_scale(tmp_path: Path) -> None:
    def record(task: str, image: str, score: float) -> Prediction:
        return Prediction("", "m", f"{task}/{image}", "", "yes", parsed="yes", score=score, kind=task)

    found = MME().aggregate(
        [record("color", "a", 1.0), record("color", "a", 1.0), record("OCR", "a", 1.0), record("OCR", "a", 0.0)]
        + [record("code_reasoning", "a", 1.0), record("code_reasoning", "a", 1.0)]
    )
    assert (found["color_score"], found["ocr_acc"], found["ocr_acc_plus"], found["ocr_score"]) == (200, 0.5, 0.0, 50)
    assert (found["perception_score"], found["cognition_score"]) == (250, 200)
    assert MME().aggregate([]) == {}


def test_a_bad_line_or_task_is_one_readable_error(tmp_path: Path) -> None:
    save(tmp_path / "color" / "1.png", 0)
    (tmp_path / "color" / "1.txt").write_text("Is it red?\tYes\nIs it blue? No\n")
    with pytest.raises(UserError, match=r"color/1.txt, line 2: expected a question, a tab"):
        MME(path=str(tmp_path)).load()
    (tmp_path / "color" / "1.txt").write_text("Is it red?\tperhaps\n")
    with pytest.raises(UserError, match=r"color/1.txt, line 1: expected yes or no as answer"):
        MME(path=str(tmp_path)).load()
    with pytest.raises(UserError, match="'smell' is none of"):
        MME(tasks=("smell",))
