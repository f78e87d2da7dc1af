from __future__ import annotations

from pathlib import Path

import pytest

from lit_simignore.benchmarks.pope import POPE
from lit_simignore.types import Prediction, UserError
from tests.benchmarks.official_layouts import as_cell, pope, write_json_lines, write_parquet

ROW = {"question_id": 1, "image": "COCO_val2014_000000000001.jpg", "text": "Is there a dog?", "label": "no"}


def test_splits_come_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    samples = POPE(**pope(tmp_path), splits=["adversarial", "random"]).load()
    assert [sample.kind for sample in samples] == ["adversarial"] * 4 + ["random"] * 4
    assert samples[0].sample_id == "adversarial-1"
    assert samples[0].images == (tmp_path / "val2014" / "COCO_val2014_000000000000.jpg",)
    assert {sample.group_id for sample in samples} == {f"COCO_val2014_{n:012d}" for n in (0, 1)}


def test_a_single_file_is_its_own_split_and_words_are_kept_as_they_are(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "gqa_pope_popular.json", [ROW | {"text": "Is there an owl in the imange?"}])
    (sample,) = POPE(path=str(tmp_path / "gqa_pope_popular.json"), protocol="opera").load()
    assert (sample.kind, sample.prompt, sample.answer) == ("popular", "Is there an owl in the imange?", "no")
    (sample,) = POPE(path=str(tmp_path), source="gqa", splits=["popular"]).load()
    assert sample.prompt.endswith("imange?\nAnswer the question using a single word or phrase.")


def test_the_hubs_table_gives_the_same_questions(tmp_path: Path) -> None:
    rows = [
        {"id": str(n), "question_id": str(n), "question": ROW["text"], "answer": "no", "image_source": "COCO_1",
         "image": as_cell(n), "category": category}
        for n, category in enumerate(["random", "popular", "adversarial"])
    ]  # fmt: skip
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", rows)
    samples = POPE(path=str(tmp_path), splits=["popular", "random"]).load()
    assert [(sample.sample_id, sample.kind) for sample in samples] == [("random-0", "random"), ("popular-1", "popular")]
    draw = samples[1].images[0]
    assert callable(draw) and draw().size == (49, 40)


@pytest.mark.parametrize(
    ("protocol", "prompt_is_bare", "readings"),
    [
        ("llava", False, {"Nope.": "yes", "Yes. No.": "yes", "isn't": "yes", "maybe": "yes"}),
        ("pope", True, {"Nope.": "yes", "Yes. No.": "yes", "isn't": "yes", "maybe": "yes"}),
        ("opera", True, {"Nope.": "yes", "Yes. No.": "no", "isn't": "no", "maybe": "yes"}),
        ("lmms-eval", False, {"Nope.": None, "Yes. No.": None, " YES\n": "yes", "Yes.": None}),
        ("strict", False, {"Nope.": None, "Yes. No.": "yes", "NO!": "no", "maybe": None}),
    ],
)
def test_a_protocol_is_prompt_and_parser(
    tmp_path: Path, protocol: str, prompt_is_bare: bool, readings: dict[str, str | None]
) -> None:
    benchmark = POPE(**pope(tmp_path), protocol=protocol)
    assert benchmark.protocol == f"{protocol}/1" == POPE(protocol=f"{protocol}/1").protocol
    sample = benchmark.load()[0]
    assert (sample.prompt == "Is there a dog in the image?") is prompt_is_bare
    assert {output: benchmark.parse(output, sample) for output in readings} == readings


def test_scores_are_given_by_split_and_their_means_are_over_splits() -> None:
    def record(split: str, said: str, gold: str) -> Prediction:
        return Prediction("", "m", "", "", gold, parsed=said, kind=split)

    found = POPE().aggregate(
        [record("random", "yes", "yes"), record("random", "yes", "no"), record("popular", "no", "yes")]
    )
    assert found["random_accuracy"] == 0.5
    assert found["random_f1"] == pytest.approx(2 / 3)
    assert (found["popular_f1"], found["popular_yes_ratio"]) == (0.0, 0.0)
    assert found["mean_f1"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": "maybe"}, "coco_pope_random.json, line 2: expected yes or no as label; got 'maybe'"),
        ({"text": ""}, "line 2: expected text or question; found question_id, image, text, label"),
        ({"image": "../x.jpg"}, "line 2: expected a path inside"),
        ({"image": None}, "line 2: expected image"),
        ({"question_id": None}, "line 2: expected question_id or id"),
        ({}, "question id 'random-1' occurs more than once"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, row: dict[str, object], message: str) -> None:
    write_json_lines(tmp_path / "coco_pope_random.json", [ROW, {**ROW, **row}])
    with pytest.raises(UserError, match=message) as caught:
        POPE(path=str(tmp_path), splits=["random"]).load()
    assert "\n" not in str(caught.value)


def test_impossible_settings_and_places_are_one_readable_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="splits must be some of"):
        POPE(splits=["hard"])
    with pytest.raises(UserError, match="unknown benchmark.protocol 'lava'.*'llava/1'"):
        POPE(protocol="lava")
    with pytest.raises(UserError, match=r"expected .*coco_pope_\*.json"):
        POPE(path=str(tmp_path)).load()
    write_json_lines(tmp_path / "coco_pope_random.json", [ROW])
    with pytest.raises(UserError, match="coco_pope_popular.json.*not there"):
        POPE(path=str(tmp_path)).load()
    with pytest.raises(UserError, match="nothing is at 'absent'"):
        POPE(path="absent").load()


def test_identity_follows_the_content_the_splits_and_the_protocol(tmp_path: Path) -> None:
    fields = pope(tmp_path)
    before = POPE(**fields).identity()
    assert POPE(**fields, protocol="opera").identity() != before
    assert POPE(**fields, splits=["random"]).identity() != before
    moved = tmp_path / "moved"
    moved.mkdir()
    assert POPE(**pope(moved)).identity() == before
    write_json_lines(moved / "coco_pope_random.json", [ROW])
    assert POPE(path=str(moved)).identity() != before
