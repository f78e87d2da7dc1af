"""ScienceQA-shaped data made up here: the real text may not be copied."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from lit_simignore.benchmarks.scienceqa import ScienceQA
from lit_simignore.types import Prediction, Role, UserError

INSTRUCTION = "Answer with the option's letter from the given choices directly."
PROBLEMS: dict[str, dict[str, Any]] = {
    "7": {
        "question": "Which is red?",
        "choices": ["the ball", "the (B) box"],
        "answer": 1,
        "hint": "",
        "image": "image.png",
    },
    "9": {
        "question": "How many?",
        "choices": ["one", "two", "six"],
        "answer": 0,
        "hint": "Look.\nCount.",
        "image": None,
    },
    "12": {
        "question": "Who  runs?",
        "choices": ["Ann", "Bob"],
        "answer": 0,
        "hint": " A  race. ",
        "image": "image.png",
    },
}
CONVERSATIONS = [
    {
        "id": "7",
        "image": "7/image.png",
        "conversations": [
            {"value": "Context: N/A\nQuestion: Which is red?\nOptions: (A) the ball (B) the (B) box\n<image>"},
            {"value": "The answer is B."},
        ],
    },
    {
        "id": "9",
        "conversations": [
            {"value": "Context: Look.\nCount.\nQuestion: How many?\nOptions: (A) one (B) two (C) six"},
            {"value": "The answer is A."},
        ],
    },
    {
        "id": "12",
        "image": "12/image.png",
        "conversations": [
            {"value": "Context: A race.\nQuestion: Who runs?\nOptions: (A) Ann (B) Bob\n<image>"},
            {"value": "The answer is A."},
        ],
    },
]


def _conversations(folder: Path, items: Any = CONVERSATIONS) -> Path:
    path = folder / "llava_test_CQM-A.json"
    path.write_text(json.dumps(items))
    return path


def _authors_files(folder: Path) -> Path:
    (folder / "problems.json").write_text(json.dumps(PROBLEMS))
    (folder / "pid_splits.json").write_text(json.dumps({"test": list(PROBLEMS), "val": []}))
    return folder


def test_the_prompt_is_llavas_character_for_character_and_its_spans_have_roles(tmp_path: Path) -> None:
    first, second, _ = ScienceQA(path=str(_conversations(tmp_path)), images_only=False).load()
    assert (
        first.prompt == f"Context: N/A\nQuestion: Which is red?\nOptions: (A) the ball (B) the (B) box\n{INSTRUCTION}"
    )
    assert second.prompt.startswith("Context: Look.\nCount.\nQuestion: How many?\nOptions: (A) one (B) two (C) six\n")
    assert [segment.role for segment in second.segments] == [Role.CONTEXT, Role.QUESTION, Role.OPTIONS, Role.TEMPLATE]
    assert (first.choices, first.answer, first.kind) == (("the ball", "the (B) box"), "B", "2 options")


def test_a_context_may_contain_the_word_that_opens_the_question(tmp_path: Path) -> None:
    value = "Context: A talk.\nQuestion: hm?\nQuestion: Who?\nOptions: (A) me (B) you\n<image>"
    path = _conversations(tmp_path, [{"id": "1", "image": "1.png", "conversations": [{"value": value}]}])
    (sample,) = ScienceQA(path=str(path)).load()
    assert sample.segments[0].text == "Context: A talk.\nQuestion: hm?\n"
    assert sample.answer is None


def test_all_layouts_give_the_same_samples(tmp_path: Path) -> None:
    as_json = _conversations(tmp_path)
    as_lines = tmp_path / "questions.jsonl"
    as_lines.write_text("\n".join(json.dumps(item) for item in CONVERSATIONS))
    authors = tmp_path / "authors"
    authors.mkdir()
    _authors_files(authors)
    images = str(tmp_path / "pictures")
    loaded = [
        ScienceQA(path=str(path), images=images, images_only=False).load()
        for path in (as_json, tmp_path, as_lines, authors)
    ]
    assert loaded[0] == loaded[1] == loaded[2] == loaded[3]
    assert [sample.sample_id for sample in loaded[0]] == ["7", "9", "12"]


def test_questions_without_a_picture_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    path = str(_conversations(tmp_path))
    assert [sample.sample_id for sample in ScienceQA(path=path).load()] == ["7", "12"]
    assert [sample.sample_id for sample in ScienceQA(path=path, limit=1).load()] == ["7"]
    _conversations(tmp_path, CONVERSATIONS[1:2])
    with pytest.raises(UserError, match="images_only=false"):
        ScienceQA(path=path).load()


@pytest.mark.parametrize("folder", ["images/test", "images", "test", "."])
def test_pictures_are_found_beside_the_questions_and_stay_unopened(tmp_path: Path, folder: str) -> None:
    picture = tmp_path / folder / "7" / "image.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"no picture at all")
    first, third = ScienceQA(path=str(_conversations(tmp_path))).load()
    assert first.images == (picture,)
    assert third.images == (tmp_path / folder / "12" / "image.png",)


def test_a_picture_outside_the_folder_is_refused(tmp_path: Path) -> None:
    for name in ("../secret.png", "/etc/passwd", "a/../../b.png"):
        path = _conversations(tmp_path, [CONVERSATIONS[0] | {"image": name}])
        with pytest.raises(UserError, match="question 7: expected a path inside"):
            ScienceQA(path=str(path)).load()


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({}, "list of conversations"),
        ([1], "item 0"),
        ([{"id": "1"}], "item 0.*conversations"),
        ([{"id": "1", "conversations": [{"value": "Question: x"}]}], "item 0.*Options"),
        ([CONVERSATIONS[0], CONVERSATIONS[0]], "'7' occurs more than once"),
        ([{"id": "1", "conversations": [{"value": "Context: N/A\nQuestion: x\nOptions: (A) y"}]}], "got 1"),
        (
            [
                {
                    "id": "1",
                    "conversations": [
                        {"value": "Context: N/A\nQuestion: x\nOptions: (A) y (B) z"},
                        {"value": "The answer is C."},
                    ],
                }
            ],
            "C is not among the 2",
        ),
    ],
)
def test_a_malformed_file_is_one_readable_error(tmp_path: Path, items: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ScienceQA(path=str(_conversations(tmp_path, items)), images_only=False).load()
    assert "\n" not in str(caught.value)


def test_a_missing_place_or_split_is_one_readable_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is at"):
        ScienceQA(path=str(tmp_path / "absent.json")).load()
    with pytest.raises(UserError, match="found neither"):
        ScienceQA(path=str(tmp_path)).load()
    with pytest.raises(UserError, match="no split 'dev'; valid: test, val"):
        ScienceQA(path=str(_authors_files(tmp_path)), split="dev").load()
    (tmp_path / "broken.json").write_text("[")
    with pytest.raises(UserError, match="not valid JSON"):
        ScienceQA(path=str(tmp_path / "broken.json")).load()


def test_a_letter_beyond_the_options_is_parsed_and_wrong(tmp_path: Path) -> None:
    benchmark = ScienceQA(path=str(_conversations(tmp_path)))
    sample = benchmark.load()[0]
    assert benchmark.parse("C", sample) == "C"
    assert benchmark.score("C", sample) == 0.0
    assert benchmark.parse("(", sample) is None
    assert benchmark.score(None, sample) == 0.0


def test_img_accuracy_is_over_questions_with_a_picture() -> None:
    scores = [(1.0, 576), (0.0, 576), (1.0, 0), (None, 576)]
    predictions = [Prediction("", "m", "", "", "A", score=s, num_visual_tokens=v) for s, v in scores]
    assert ScienceQA(images_only=False).aggregate(predictions)["img_accuracy"] == 0.5
    assert ScienceQA().aggregate(predictions)["img_accuracy"] == pytest.approx(2 / 3)
    assert ScienceQA().aggregate([]) == {}


def test_identity_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    before = ScienceQA(path=str(_conversations(tmp_path))).identity()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    assert ScienceQA(path=str(_conversations(moved))).identity() == before
    assert ScienceQA(path=str(_conversations(moved, CONVERSATIONS[:1]))).identity() != before
    hub = ScienceQA(path="owner/name", revision="abc").identity()
    assert hub["path"] == "owner/name" and hub["revision"] == "abc"


def _hub_dataset() -> Any:
    """The same questions as a dataset on the hub has them."""
    datasets = pytest.importorskip("datasets")
    rows = [
        {**row, "image": Image.new("RGB", (index + 1, 1)) if row["image"] else None}
        for index, row in enumerate(PROBLEMS.values())
    ]
    return datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())


def test_the_hub_gives_the_same_questions_with_pictures_drawn_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        asked.append((args, kwargs))
        return dataset

    dataset = _hub_dataset()
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    samples = ScienceQA(path="owner/scienceqa", subset="IMG", revision="abc").load()
    assert asked == [(("owner/scienceqa", "IMG"), {"split": "test", "revision": "abc"})]
    assert [sample.sample_id for sample in samples] == ["test-0", "test-2"]
    local = ScienceQA(path=str(_conversations(tmp_path))).load()
    assert [(s.segments, s.choices, s.answer) for s in samples] == [(s.segments, s.choices, s.answer) for s in local]
    draw = samples[1].images[0]
    assert callable(draw) and draw().size == (3, 1)


def test_without_the_package_or_the_network_the_hub_is_one_readable_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="needs the package datasets"):
        ScienceQA(path="owner/name").load()

    def load_dataset(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(UserError, match="no route; benchmark.path=FOLDER takes data that lie on this machine$"):
        ScienceQA(path="owner/name").load()
