from __future__ import annotations

from pathlib import Path

import pytest

from lit_simignore.benchmarks.amber import AMBER
from lit_simignore.types import Prediction, UserError
from tests.benchmarks.official_layouts import amber, write_json


def test_descriptions_are_read_as_nouns_that_amber_knows(tmp_path: Path) -> None:
    benchmark = AMBER(**amber(tmp_path), tasks=["generative"])
    first, second = benchmark.load()
    assert first.prompt == "Describe this image."
    assert first.images == (tmp_path / "image" / "AMBER_1.jpg",)
    assert first.answer == "tree, dog"
    assert benchmark.parse("Two puppies under an oak, a table, and the Man's trees.", first) == "puppy, oak, man, tree"
    assert benchmark.score("puppy, oak", first) == 1.0
    assert benchmark.score("puppy, man", first) == 0.0
    assert benchmark.score("wave", first) == 1.0  # a safe word
    assert benchmark.score(benchmark.parse("", first), first) == 1.0
    assert second.answer == "sea"


def test_questions_have_a_kind_and_no_is_what_has_to_be_noticed(tmp_path: Path) -> None:
    benchmark = AMBER(**amber(tmp_path), tasks=["discriminative"])
    samples = benchmark.load()
    assert [sample.kind for sample in samples[:5]] == ["existence", "state", "number", "action", "relation"]

    def record(index: int, said: str | None) -> Prediction:
        s = samples[index]
        return Prediction(s.sample_id, "m", "", "", s.answer, parsed=said, score=benchmark.score(said, s), kind=s.kind)

    # gold: yes for 0-4, no for 5-9; said no: 1, 5, 6, 7; said yes: 0, 2, 3, 4, 8; neither: 9
    said = ["yes", "no", "yes", "yes", "yes", "no", "no", "no", "yes", None]
    found = benchmark.aggregate([record(index, word) for index, word in enumerate(said)])
    assert found["discriminative_accuracy"] == pytest.approx(7 / 10)
    assert found["discriminative_precision"] == pytest.approx(3 / 4)
    assert found["discriminative_recall"] == pytest.approx(3 / 5)
    assert found["discriminative_f1"] == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert (found["existence_accuracy"], found["existence_f1"]) == (1.0, 1.0)
    assert found["attribute_accuracy"] == pytest.approx(4 / 6)
    assert "generative_chair" not in found


def test_the_scores_of_descriptions_reach_the_summary(tmp_path: Path) -> None:
    benchmark = AMBER(**amber(tmp_path))
    samples = benchmark.load()
    texts = {"1": "An oak and a man.", "2": "The sea."}
    records = [
        Prediction(s.sample_id, "m", "", "", s.answer, texts[s.sample_id], benchmark.parse(texts[s.sample_id], s),
                   kind=s.kind)
        for s in samples[:2]
    ]  # fmt: skip
    records += [Prediction(s.sample_id, "m", "", "", s.answer, parsed=s.answer, kind=s.kind) for s in samples[2:]]
    found = benchmark.aggregate(records)
    assert found["generative_chair"] == pytest.approx(1 / 3)
    assert found["generative_cover"] == pytest.approx(2 / 3)
    assert found["generative_hal"] == pytest.approx(1 / 2)
    assert found["generative_cog"] == pytest.approx(1 / 3)
    assert found["amber_score"] == pytest.approx((1 - 1 / 3 + 1) / 2)


def test_the_official_protocol_wants_the_exact_word(tmp_path: Path) -> None:
    benchmark = AMBER(**amber(tmp_path), protocol="amber", tasks=["discriminative"])
    sample = benchmark.load()[0]
    assert sample.prompt == "Is number 0 there?"
    assert [benchmark.parse(text, sample) for text in ("Yes", "No", "Yes.", "no")] == ["yes", "no", None, None]
    assert AMBER(**amber(tmp_path), tasks=["discriminative"]).parse("Yes, it is.", sample) == "yes"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="benchmark.path=<AMBER's folder>"):
        AMBER(path="a/b").load()
    with pytest.raises(UserError, match="must be some of generative, discriminative"):
        AMBER(tasks=["relation"])
    amber(tmp_path)
    (tmp_path / "data" / "safe_words.txt").unlink()
    with pytest.raises(UserError, match="expected safe_words.txt"):
        AMBER(path=str(tmp_path)).load()
    amber(tmp_path)
    write_json(tmp_path / "data" / "annotations.json", [{"id": 1, "type": "generative", "truth": "tree", "hallu": []}])
    with pytest.raises(UserError, match="annotations.json, item 0: expected a list as truth; got 'tree'"):
        AMBER(path=str(tmp_path)).load()
    write_json(tmp_path / "data" / "annotations.json", [{"id": 99, "type": "generative", "truth": [], "hallu": []}])
    with pytest.raises(UserError, match="query_all.json, item 0: id 1 is not in annotations.json"):
        AMBER(path=str(tmp_path)).load()
    write_json(tmp_path / "data" / "relation.json", {"tree": "oak"})
    with pytest.raises(UserError, match="relation.json: expected a list of associated words"):
        AMBER(path=str(tmp_path)).load()
