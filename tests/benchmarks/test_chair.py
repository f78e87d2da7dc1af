from __future__ import annotations

import json
from pathlib import Path

import pytest

from lit_simignore.benchmarks.chair import CHAIR
from lit_simignore.types import Prediction, UserError
from tests.benchmarks.official_layouts import chair, write_json_lines


def test_what_an_image_holds_comes_from_boxes_and_captions(tmp_path: Path) -> None:
    samples = {sample.sample_id: sample for sample in CHAIR(**chair(tmp_path)).load()}
    assert {name: sample.answer for name, sample in samples.items()} == {
        "42": "dining table, person",
        "73": "hot dog, laptop",
        "74": "dog",
    }
    assert samples["42"].images == (tmp_path / "val2014" / "COCO_val2014_000000000042.jpg",)
    assert samples["42"].prompt == "Please describe this image in detail."


def test_captions_are_scored_as_counted_by_hand(tmp_path: Path) -> None:
    benchmark = CHAIR(**chair(tmp_path))
    samples = {sample.sample_id: sample for sample in benchmark.load()}
    captions = {
        "42": "Two men sit at a table; a dog lies under the table.",  # person, table, dog!, table
        "73": "Hot dogs beside a laptop.",  # hot dog, laptop
        "74": "",
    }
    records = []
    for name, text in captions.items():
        parsed = benchmark.parse(text, samples[name])
        score = benchmark.score(parsed, samples[name])
        records.append(Prediction(name, "m", name, "", samples[name].answer, text, parsed, score))
    assert [record.score for record in records] == [0.0, 1.0, 1.0]
    found = benchmark.aggregate(records)
    assert found["chair_i"] == pytest.approx(1 / 6)
    assert found["chair_s"] == pytest.approx(1 / 3)
    assert found["recall"] == pytest.approx(4 / 5)
    assert found["mean_length"] == pytest.approx((12 + 5 + 0) / 3)
    released = CHAIR(**chair(tmp_path), protocol="released").aggregate(records)
    assert released["mean_length"] == pytest.approx((14 + 6 + 0) / 3)


def test_images_are_those_of_a_log_or_drawn_with_a_seed(tmp_path: Path) -> None:
    fields = chair(tmp_path)
    write_json_lines(tmp_path / "log.jsonl", [{"image_id": 74, "caption": "x"}, {"image_id": 42, "caption": "y"}])
    listed = CHAIR(**fields, ids=str(tmp_path / "log.jsonl"))
    assert [sample.sample_id for sample in listed.load()] == ["74", "42"]
    (tmp_path / "ids.txt").write_text("73\n\n42\n")
    assert [s.sample_id for s in CHAIR(**fields, ids=str(tmp_path / "ids.txt")).load()] == ["73", "42"]
    drawn = [[s.sample_id for s in CHAIR(**fields, num_images=2, seed=seed).load()] for seed in (1, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1] and len({tuple(ids) for ids in drawn}) > 1
    assert listed.identity() != CHAIR(**fields).identity()


def test_somebodys_own_table_of_synonyms_is_used_and_its_slips_are_a_switch(tmp_path: Path) -> None:
    fields = chair(tmp_path)
    table = tmp_path / "synonyms.txt"
    table.write_text("person, man, woman\ndog,  puppy\nhot dog\ndining table, table\n\nlaptop\n")
    corrected = CHAIR(**fields, synonyms=str(table))
    released = CHAIR(**fields, synonyms=str(table), protocol="released")
    sample = corrected.load()[0]
    assert corrected.parse("A puppy and a chair", sample) == "dog"
    assert released.parse("A puppy and a dog", sample) == "dog"  # a second blank stands before "puppy"
    assert corrected.identity() != CHAIR(**fields).identity()
    table.write_text("person\ndog\n")
    with pytest.raises(UserError, match="no row for hot dog, dining table"):
        CHAIR(**fields, synonyms=str(table)).load()
    table.write_text("\n")
    with pytest.raises(UserError, match="expected one category per line"):
        CHAIR(**fields, synonyms=str(table)).load()


def test_a_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be fetched by you"):
        CHAIR().identity()
    fields = chair(tmp_path)
    path = tmp_path / "annotations" / "instances_val2014.json"
    document = json.loads(path.read_text())
    document["annotations"][1]["category_id"] = 99
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match="instances_val2014.json, item 1: category 99"):
        CHAIR(**fields).load()
    chair(tmp_path)
    (tmp_path / "ids.txt").write_text("42\nseven\n")
    with pytest.raises(UserError, match="ids.txt, line 2: expected the number of an image; got 'seven'"):
        CHAIR(**fields, ids=str(tmp_path / "ids.txt")).load()
    (tmp_path / "ids.txt").write_text("41\n")
    with pytest.raises(UserError, match="image 41 is not among the 3"):
        CHAIR(**fields, ids=str(tmp_path / "ids.txt")).load()
    captions = tmp_path / "annotations" / "captions_val2014.json"
    captions.write_text(json.dumps({"annotations": []}))
    with pytest.raises(UserError, match="has no reference caption"):
        CHAIR(**fields).load()
    assert len(CHAIR(**fields, protocol="released").load()) == 3
    captions.write_text("{")
    with pytest.raises(UserError, match="captions_val2014.json is not valid JSON"):
        CHAIR(**fields).load()
    with pytest.raises(UserError, match="num_images must be at least 1"):
        CHAIR(num_images=0)
