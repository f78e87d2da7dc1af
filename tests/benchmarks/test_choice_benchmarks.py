"""MMBench, MMStar, SEED-Bench and ScienceQA's other protocols: prompts, layouts, options in every order."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from lit_simignore.benchmarks.mmbench import MMBench
from lit_simignore.benchmarks.mmstar import MMStar
from lit_simignore.benchmarks.scienceqa import ScienceQA
from lit_simignore.benchmarks.seedbench import SEEDBench
from lit_simignore.surgery.images import open_image
from lit_simignore.types import Prediction, Role, UserError
from tests.benchmarks.official_layouts import (
    as_cell,
    encoded,
    mmbench,
    mmstar,
    scienceqa,
    seedbench,
    write_json,
    write_parquet,
    write_tsv,
)

DIRECTLY = "Answer with the option's letter from the given choices directly."
MMBENCH_ROW = {
    "index": "3", "question": "Which?", "hint": "", "A": "red", "B": "blue", "C": "", "D": "nan", "answer": "B",
    "category": "colour", "image": base64.b64encode(encoded(0)).decode(),
}  # fmt: skip


def test_every_multiple_choice_prompt_is_the_harnesss_own(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("mmbench", "mmstar", "seedbench", "scienceqa")}
    for folder in folders.values():
        folder.mkdir()
    made = mmbench(folders["mmbench"])
    hinted = "Look at the middle."
    options = "A. red\nB. green\nC. blue\nD. grey"
    assert MMBench(**made).load()[0].prompt == f"{hinted}\nWhich colour is number 7?\n{options}\n{DIRECTLY}"
    assert MMBench(**made, protocol="lmms-eval").load()[0].prompt == (
        f"{hinted} Which colour is number 7? There are several options:\n{options}\n\n{DIRECTLY}"
    )
    made = mmstar(folders["mmstar"])
    question, listed = "How many, number 0?", "A: one, or none, B: two, C: six, D: nine"
    assert MMStar(**made, protocol="mmstar").load()[0].prompt == f"{question}\nOptions: {listed}"
    assert MMStar(**made).load()[0].prompt == f"{question}\nOptions: {listed}\n{DIRECTLY[:-1]}"
    assert SEEDBench(**seedbench(folders["seedbench"])).load()[0].prompt == (
        f"What is at place 0?\nA. a tree\nB. a house\nC. a river\nD. nothing\n{DIRECTLY}"
    )
    made = scienceqa(folders["scienceqa"])
    asked = ScienceQA(**made, protocol="lmms-eval").load()[0].prompt
    assert asked == f"Which one?\nA. this\nB. that\nC. both\n{DIRECTLY}"


def test_a_table_with_all_orders_shares_pictures_and_gives_the_circular_accuracy(tmp_path: Path) -> None:
    benchmark = MMBench(**mmbench(tmp_path))
    samples = benchmark.load()
    assert [sample.sample_id for sample in samples[:5]] == ["7~0", "7~1", "7~2", "7~3", "8~0"]
    assert samples[3].choices == ("grey", "red", "green", "blue")
    right = {sample.choices["ABCD".index(str(sample.answer))] for sample in samples[:4]}
    assert right == {"grey"}
    assert open_image(samples[3].images[0]).size == open_image(samples[0].images[0]).size == (55, 40)
    assert {sample.group_id for sample in samples[:4]} == {"7"}

    def record(index: int, score: float) -> Prediction:
        sample = samples[index]
        return Prediction(sample.sample_id, "m", "7", "", sample.answer, parsed="A", score=score, kind=sample.kind)

    found = benchmark.aggregate([record(0, 1.0), record(1, 1.0), record(4, 1.0), record(5, 0.0)])
    assert found["circular_accuracy"] == 0.5
    assert found["area_1_accuracy"] == 1.0
    with pytest.raises(UserError, match="row 0: these data have every order .* circular=false"):
        MMBench(**mmbench(tmp_path), circular=True).load()


def test_circular_asks_every_order_and_moves_the_answer_along(tmp_path: Path) -> None:
    fields = scienceqa(tmp_path)
    plain = {sample.sample_id: sample for sample in ScienceQA(**fields).load()}
    samples = ScienceQA(**fields, circular=True).load()
    assert (
        len(samples) == 3 * len(plain)
        and ScienceQA(**fields).identity() != ScienceQA(**fields, circular=True).identity()
    )
    for sample in samples:
        question, places = sample.sample_id.split("~")
        source = plain[question]
        moved = int(places)
        assert sample.choices == source.choices[moved:] + source.choices[:moved]
        assert sample.group_id == source.group_id
        if source.answer is not None:
            text = source.choices["ABC".index(source.answer)]
            assert sample.choices["ABC".index(str(sample.answer))] == text
    assert [sample.prompt for sample in samples if sample.sample_id.endswith("~0")] == [
        s.prompt for s in plain.values()
    ]


def test_always_the_same_letter_shows_in_the_control(tmp_path: Path) -> None:
    benchmark = ScienceQA(**scienceqa(tmp_path), circular=True)
    records = [
        Prediction(s.sample_id, "m", "", "", s.answer, parsed="A", score=benchmark.score("A", s), num_visual_tokens=1)
        for s in benchmark.load()
        if s.answer is not None
    ]
    found = benchmark.aggregate(records)
    assert found["img_accuracy"] == pytest.approx(1 / 3)
    assert found["circular_accuracy"] == 0.0
    assert found["letter_shift"] == pytest.approx(2 / 3)


def test_scienceqa_is_broken_down_as_its_authors_do(tmp_path: Path) -> None:
    benchmark = ScienceQA(**scienceqa(tmp_path))
    samples = [sample for sample in benchmark.load() if sample.answer is not None]
    records = [
        Prediction(s.sample_id, "m", "", "", s.answer, parsed=s.answer, score=float(s.sample_id in "03"), kind=s.kind)
        for s in samples
    ]
    found = benchmark.aggregate(records)
    assert (found["subject_natural_science"], found["subject_social_science"]) == (1.0, 0.0)
    assert (found["grades_1_6"], found["grades_7_12"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert found["context_image"] == pytest.approx(1 / 3)
    assert "context_text" not in found


def test_an_options_table_ends_at_the_first_missing_option(tmp_path: Path) -> None:
    write_tsv(tmp_path / "MMBench_DEV_EN.tsv", [MMBENCH_ROW])
    (sample,) = MMBench(path=str(tmp_path)).load()
    assert sample.choices == ("red", "blue")
    assert (sample.sample_id, sample.kind, sample.answer) == ("3", "colour", "B")
    assert len(MMBench(path=str(tmp_path), circular=True).load()) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"index": "x"}, "row 1: expected a number as index; got 'x'"),
        ({"answer": "C"}, "row 1: the answer C is not among the 2 options"),
        ({"B": ""}, "row 1: expected 2 to 26 options; got 1"),
        ({"question": ""}, "row 1: expected question; found index, question"),
        ({"image": ""}, "row 1: expected image"),
        ({"image": "99"}, "row 1: expected the index of a row with a picture as image; got 99"),
        ({"image": "../up.png"}, "row 1: expected a path inside"),
    ],
)
def test_a_bad_row_of_a_table_is_named(tmp_path: Path, row: dict[str, str], message: str) -> None:
    write_tsv(tmp_path / "mmbench_dev.tsv", [MMBENCH_ROW, {**MMBENCH_ROW, "index": "4", **row}])
    with pytest.raises(UserError, match=f"mmbench_dev.tsv, {message}"):
        MMBench(path=str(tmp_path)).load()


def test_a_broken_picture_is_its_own_samples_error(tmp_path: Path) -> None:
    for text in ("no base64!" * 40, base64.b64encode(b"no picture" * 40).decode()):
        write_tsv(tmp_path / "mmbench_dev.tsv", [{**MMBENCH_ROW, "image": text}])
        (sample,) = MMBench(path=str(tmp_path)).load()
        with pytest.raises((UserError, OSError)):
            open_image(sample.images[0])


@pytest.mark.parametrize(
    ("question", "text", "choices"),
    [
        ("Which?\nOptions: A: x, y, B: z", "Which?", ("x, y", "z")),
        ("Which?\nOptions: A: 1:2 B: 3", "Which?", ("1:2", "3")),
        ("Is A: right?\nOptions: A: Yes, B: No, C: C: or D, D: none", "Is A: right?", ("Yes", "No", "C: or D", "none")),
    ],
)
def test_mmstars_options_are_taken_out_of_the_question(
    tmp_path: Path, question: str, text: str, choices: tuple[str, ...]
) -> None:
    row = {"index": 0, "question": question, "answer": "A", "category": "math", "image": as_cell(0)}
    write_parquet(tmp_path / "data" / "val-0.parquet", [row])
    (sample,) = MMStar(path=str(tmp_path)).load()
    assert sample.choices == choices
    assert sample.segments[0].text == text and sample.segments[0].role is Role.QUESTION


def test_mmstars_table_with_columns_asks_the_same(tmp_path: Path) -> None:
    row = {**MMBENCH_ROW, "question": "Which?\nOptions: A: red, B: blue", "C": "", "D": ""}
    write_tsv(tmp_path / "MMStar.tsv", [row])
    (sample,) = MMStar(path=str(tmp_path)).load()
    assert (sample.segments[0].text, sample.choices) == ("Which?", ("red", "blue"))
    write_tsv(tmp_path / "MMStar.tsv", [{key: value for key, value in MMBENCH_ROW.items() if key not in "ABCD"}])
    with pytest.raises(UserError, match="MMStar.tsv, row 0: expected columns A, B, ... or 'Options"):
        MMStar(path=str(tmp_path)).load()


def test_seed_benchs_videos_are_left_out_and_dimensions_have_names(tmp_path: Path) -> None:
    samples = SEEDBench(**seedbench(tmp_path)).load()
    assert len(samples) == 5
    assert {sample.kind for sample in samples} == {"Scene Understanding", "Instance Identity"}
    assert open_image(samples[4].images[0]).size == (52, 40)
    row = {"question_id": "1", "question": "?", "answer": "A", "data_id": "5", "data_type": "image",
           **{f"choice_{x}": x for x in "abcd"}, "question_type_id": 3, "image": [as_cell(2)]}  # fmt: skip
    write_parquet(tmp_path / "hub" / "test-0.parquet", [row])
    (sample,) = SEEDBench(path=str(tmp_path / "hub")).load()
    assert sample.kind == "type 3"
    assert open_image(sample.images[0]).size == (50, 40)
    write_json(tmp_path / "SEED-Bench.json", {"rows": []})
    with pytest.raises(UserError, match="SEED-Bench.json: expected an object with questions; found rows"):
        SEEDBench(path=str(tmp_path)).load()
