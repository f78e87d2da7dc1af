"""Counting tokens without decoding pictures: equal to what the collator makes, and long ones are named or left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lit_simignore.data.conversations import ASSISTANT, USER, Conversation, Turn, conversation_of
from lit_simignore.data.conversations_batch import ConversationCollator
from lit_simignore.data.conversations_files import EncodedImage
from lit_simignore.data.conversations_length import Lengths, keep_fitting
from lit_simignore.surgery.load import load
from lit_simignore.types import Role, Segment, UserError
from tests.tiny_checkpoints import PROCESSORS, save_tiny_checkpoint
from tests.tiny_models import QUESTIONS, tiny_processor, tiny_sample

FAMILIES = [name for name in PROCESSORS if name != "instructblip"]
SIZES = [(32, 32), (64, 24), (40, 90)]


def talks() -> list[Conversation]:
    """One to two pictures of several sizes, no picture, and two answers."""
    found = [conversation_of(tiny_sample(f"t{i}", text)) for i, text in enumerate(QUESTIONS[:3])]
    found = [
        replace(talk, images=(Image.new("RGB", size, "red"),)) for talk, size in zip(found, SIZES, strict=True)
    ]
    bare = tuple(part for part in found[0].turns[0].parts if part is not None)
    found.append(replace(found[0], images=(), turns=(Turn(USER, bare), found[0].turns[1])))
    return found


def lengths(processor: Any, conversations: list[Conversation]) -> list[int]:
    """Of the real batches."""
    collate = ConversationCollator(processor)
    return [int(collate([talk]).inputs["attention_mask"].sum()) for talk in conversations]


@pytest.mark.parametrize("name", FAMILIES)
def test_counts_are_those_of_the_batches_of_every_family(name: str, tmp_path: Path) -> None:
    _, processor = load(save_tiny_checkpoint(name, tmp_path))
    conversations, counted = talks(), Lengths(processor)
    expected = lengths(processor, conversations)
    assert [counted.count(talk) for talk in conversations] == expected
    assert all(counted.bound(talk) >= length for talk, length in zip(conversations, expected, strict=True))
    assert 0 < counted.visual(conversations[0]) <= expected[0] - expected[3] and counted.visual(conversations[3]) == 0


def test_two_pictures_and_two_answers_are_counted() -> None:
    processor = tiny_processor()
    talk = conversation_of(tiny_sample("two", QUESTIONS[0], num_images=2))
    more = (Turn(USER, (Segment("what is it", Role.TEMPLATE),)), Turn(ASSISTANT, (Segment("a dog", Role.ANSWER),)))
    assert Lengths(processor).count(talk) == lengths(processor, [talk])[0]
    longer = replace(talk, turns=(*talk.turns, *more))
    assert Lengths(processor).count(longer) == lengths(processor, [longer])[0]


def test_pictures_are_not_decoded_and_sizes_are_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor, path = tiny_processor(), tmp_path / "a.jpg"
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (64, 24)).save(path, exif=turned)
    talk = conversation_of(tiny_sample("a", QUESTIONS[0]))
    same = [replace(talk, images=(source,)) for source in (path, EncodedImage(path.read_bytes()), path)]
    asked = []
    real = type(processor).__call__
    monkeypatch.setattr(type(processor), "__call__", lambda *a, **k: asked.append(k["images"][0].size) or real(*a, **k))

    def refuse(*args: Any) -> None:
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    counted = Lengths(processor)
    assert len({counted.count(each) for each in same}) == 1
    assert asked == [(24, 64)]


def test_the_first_long_conversation_is_named_with_its_tokens_and_the_limit() -> None:
    processor, conversations = tiny_processor(), talks()
    own = lengths(processor, conversations)
    assert keep_fitting(conversations, processor, max(own)) == (conversations, 0, "")
    limit = own[3]
    conversations[1] = replace(conversations[1], where="chats.json, record 2 (id 'x'): ")
    conversations = conversations[1:]
    message = (
        rf"^chats.json, record 2 \(id 'x'\): makes {own[1]} tokens, 16 of them for its images; the limit is {limit} "
        r"\(2 of 3 conversations are too long\): shorten it, or raise data.max_tokens, or leave such out with "
        "data.too_long=drop$"
    )
    with pytest.raises(UserError, match=message):
        keep_fitting(conversations, processor, limit)
    kept, dropped, first = keep_fitting(conversations, processor, limit, "drop")
    assert kept == [conversations[2]] and dropped == 2 and first.startswith("chats.json, record 2")


def test_nothing_left_and_broken_pictures_are_said(tmp_path: Path) -> None:
    processor, conversations = tiny_processor(), talks()
    with pytest.raises(UserError, match=r"4 of 4 conversations are too long\): shorten it, or raise data.max_tokens$"):
        keep_fitting(conversations, processor, 3, "drop")
    (tmp_path / "b.png").write_bytes(b"no picture")
    broken = replace(conversations[0], images=(tmp_path / "b.png",), where="chats.json, record 1: ")
    with pytest.raises(UserError, match="^chats.json, record 1: not an image"):
        keep_fitting([broken], processor, 100)
    with pytest.raises(UserError, match="too_long must be one of raise, drop"):
        keep_fitting(conversations, processor, 100, "cut")
