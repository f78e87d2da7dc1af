"""Conversation files: what is read, and that every fault is named by file and record before anything is trained."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from lit_simignore.data.conversations import ASSISTANT, SYSTEM, USER
from lit_simignore.data.conversations_files import read_conversations
from lit_simignore.surgery.images import open_image
from lit_simignore.types import Role, UserError
from tests.tiny_models import tiny_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        tiny_image(len(name)).save(tmp_path / name)
    return tmp_path


def llava(question: str = "<image>\nWhat is this?", answer: str = "A cat.", **more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "x", "image": "a.png", "conversations": turns, **more}


def write(folder: Path, *rows: object, name: str = "train.json") -> str:
    text = "\n".join(map(json.dumps, rows)) if name.endswith("l") else json.dumps(list(rows))
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


@pytest.mark.parametrize("name", ["train.json", "train.jsonl"])
def test_llava_s_form(folder: Path, name: str) -> None:
    (found,) = read_conversations(write(folder, llava(), name=name))
    assert found.key == "x" and [turn.role for turn in found.turns] == [USER, ASSISTANT]
    assert found.turns[0].parts[0] is None and found.turns[0].text == "What is this?"
    assert found.turns[0].parts[1].role is Role.QUESTION and found.turns[1].parts[0].role is Role.ANSWER
    assert open_image(found.images[0]).size == (24, 24)


def test_sharegpt_s_form_with_two_images_a_system_turn_and_later_turns(folder: Path) -> None:
    said = [("system", "Be brief."), ("user", "<image> and <image> same?"), ("assistant", "No."), ("user", "Why?")]
    said.append(("assistant", "One is red."))
    row = {"messages": [{"role": r, "content": c} for r, c in said], "images": ["a.png", "b.png"]}
    (found,) = read_conversations(write(folder, row))
    assert found.key == "record 1" and [turn.role for turn in found.turns][:2] == [SYSTEM, USER]
    first = found.turns[1]
    assert [part and part.text for part in first.parts] == [None, "and", None, "same?"]
    # a later question may give an earlier answer away, so it never chooses visual tokens
    assert found.turns[3].parts[0].role is Role.TEMPLATE and found.turns[0].parts[0].role is Role.TEMPLATE


def test_content_in_typed_parts(folder: Path) -> None:
    content = [{"type": "text", "text": "Look:"}, {"type": "image"}, {"type": "text", "text": "What?"}]
    said = [{"role": "user", "content": content}, {"role": "assistant", "content": [{"type": "text", "text": "Cat."}]}]
    (found,) = read_conversations(write(folder, {"messages": said, "image": "a.png"}))
    assert [part and part.text for part in found.turns[0].parts] == ["Look:", None, "What?"]


def test_parquet_with_pictures_inside_and_a_folder_of_it(folder: Path) -> None:
    table, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    buffer = io.BytesIO()
    tiny_image(3).save(buffer, "PNG")
    row = {**llava(), "image": None, "images": [{"bytes": buffer.getvalue(), "path": None}]}
    parquet.write_table(table.Table.from_pylist([row, row]), folder / "part.parquet")
    assert len(read_conversations(str(folder))) == 2
    found = read_conversations(str(folder / "part.parquet"), limit=1)
    assert open_image(found[0].images[0]).tobytes() == tiny_image(3).tobytes() and len(found) == 1


def test_a_hub_dataset_goes_through_the_datasets_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{**llava(), "image": {"bytes": (folder / "a.png").read_bytes(), "path": None}}]
    made = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    asked: list[Any] = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or made)
    (found,) = read_conversations("someone/chats", split="half", revision="v1")
    assert asked == [(("someone/chats",), {"split": "half", "revision": "v1"})]
    assert open_image(found.images[0]).size == (24, 24)


GOOD = llava()
FAULTS = [
    (llava(conversations=[{"from": "alien", "value": "hi"}]), "unknown role 'alien'"),
    (llava(conversations=[{"from": "human", "value": "<image>hi"}]), "the last turn must be an answer"),
    (llava(conversations=[{"from": "gpt", "value": "hi"}]), "turn 1: expected the user's turn; got assistant"),
    (llava(conversations=[*GOOD["conversations"], {"from": "gpt", "value": "b"}]), "turn 3: expected the user's"),
    (llava(conversations=[]), "must be a list of turns"),
    (llava(conversations=[["human", "hi"]]), "turn 1: expected {'from'"),
    (llava(image="missing.png"), "image file not found"),
    (llava(image="../a.png"), "expected a path inside"),
    (llava(image="http://host/a.png"), "must be a local path"),
    (llava("What is this?"), "0 times <image> in the text, but 1 images"),
    (llava("<image><image>Same?"), "2 times <image> in the text, but 1 images"),
    (llava(image=None), "1 times <image> in the text, but 0 images"),
    (llava(images=["a.png"]), "both image and images"),
    (llava(answer="  "), "turn 2: the answer is empty"),
    (llava(answer="<image> cat"), "an answer holds <image>"),
    (llava(conversations=[*GOOD["conversations"], {"from": "human", "value": ""}]), "turn 3: the text is empty"),
    ({"id": "x", "text": "hi"}, "expected 'conversations' (from, value) or 'messages'"),
]


@pytest.mark.parametrize(("row", "message"), FAULTS)
def test_a_fault_is_named_by_file_and_record(folder: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_conversations(write(folder, GOOD, row))
    assert str(caught.value).startswith("train.json, record 2 (id 'x'): ") and message in str(caught.value)
    with pytest.raises(UserError, match=r"^train.jsonl, line 2 \(id 'x'\): "):
        read_conversations(write(folder, GOOD, row, name="train.jsonl"))


def test_a_picture_behind_the_first_answer_is_refused(folder: Path) -> None:
    turns = [*llava("What?")["conversations"], *GOOD["conversations"]]
    with pytest.raises(UserError, match="a picture comes after the first answer"):
        read_conversations(write(folder, llava(conversations=turns)))


@pytest.mark.parametrize("name", ["train.json", "train.jsonl"])
def test_bad_utf_8_is_named(folder: Path, name: str) -> None:
    path = Path(write(folder, GOOD, llava(answer="caf"), name=name))
    path.write_bytes(path.read_bytes().replace(b"caf", b"caf\xe9"))
    with pytest.raises(UserError, match=f"^{name}, (record|line) 2.*not UTF-8"):
        read_conversations(str(path))


def test_a_corrupt_picture_is_found_on_request_and_named_anyway_when_its_turn_comes(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"no picture")
    path = write(folder, GOOD)
    with pytest.raises(UserError, match=r"^train.json, record 1 \(id 'x'\): .*a.png"):
        read_conversations(path, check_images=True)
    assert len(read_conversations(path)) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "[{", "x.json is no JSON"),
        ("x.json", "{}", "expected a list of records"),
        ("x.json", "[3]", "record 1: expected a JSON object"),
        ("x.json", "[]", "holds no conversations"),
        ("x.jsonl", "{", "x.jsonl, line 1: expected one JSON object per line"),
        ("x.parquet", "no", "cannot be read as Parquet"),
        ("x.csv", "", "expected a file ending in .json, .jsonl, .parquet"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_conversations(str(tmp_path / name))


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is at"):
        read_conversations(str(tmp_path / "none.json"))
    with pytest.raises(UserError, match="holds no .parquet files"):
        read_conversations(str(tmp_path))
