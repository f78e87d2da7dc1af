r"""What fine-tuning learns from: conversations about images in the two shapes that people publish, checked at once.

    {"id": "1", "image": "cat.png", "conversations": [{"from": "human", "value": "<image>\nWhat is this?"},
                                                      {"from": "gpt", "value": "A cat."}]}
    {"images": ["a.png", "b.png"], "messages": [{"role": "user", "content": "<image><image>\nSame?"},
                                                {"role": "assistant", "content": "No."}]}

The first is LLaVA's (``image`` may be a list), the second ShareGPT's as current trainers write it; their keys may be
mixed. A conversation is one training sequence: nothing is packed, because packed rows share one prefill, in which
pruning could not tell whose question counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_simignore.types import ImageSource, Role, Sample, Segment, UserError

MARK = "<image>"
"""Where a picture goes, in the texts of a file."""

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
_ROLES = {"system": SYSTEM, "human": USER, "user": USER, "gpt": ASSISTANT, "assistant": ASSISTANT, "model": ASSISTANT}
_SHAPES = (("conversations", "from", "value"), ("messages", "role", "content"))
"""Key of the turns, of a turn's speaker, of its text."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says at a time.

    Args:
        role: ``system``, ``user`` or ``assistant``.
        parts: pieces of text in order, ``None`` where a picture stands.
    """

    role: str
    parts: tuple[Segment | None, ...]

    @property
    def num_images(self) -> int:
        """Pictures in this turn."""
        return self.parts.count(None)

    @property
    def text(self) -> str:
        """The text alone."""
        return "".join(part.text for part in self.parts if part is not None)


@dataclass(frozen=True, slots=True)
class Conversation:
    """One training example.

    Args:
        key: identity, for messages and for rules that are seeded per sample.
        turns: an optional system turn, then user and assistant by turns, an assistant's last.
        images: the pictures of the first user turns, in order.
        where: prefix of messages about it where it comes from a file, e.g. ``"train.json, record 3: "``.
    """

    key: str
    turns: tuple[Turn, ...]
    images: tuple[ImageSource, ...] = ()
    where: str = ""

    @property
    def place(self) -> str:
        """Prefix of messages about it."""
        return self.where or f"conversation {self.key!r}: "


def conversation_of(sample: Sample) -> Conversation:
    """A benchmark's sample with its right answer as a conversation of one turn each, images first as in evaluation.

    Raises:
        UserError: the sample has no answer.
    """
    if not sample.answer:
        raise UserError(f"sample {sample.sample_id!r} has no answer to learn; use a split with answers")
    asked = Turn(USER, (*[None] * len(sample.images), *sample.segments))
    said = Turn(ASSISTANT, (Segment(sample.answer, Role.ANSWER),))
    return Conversation(sample.sample_id, (asked, said), sample.images)


def parse_conversation(
    row: Mapping[str, Any], key: str, where: str, image: Callable[[object], ImageSource]
) -> Conversation:
    """Check one record and make a :class:`Conversation` of it.

    Text of the user counts as the question up to the first answer and as template afterwards: a later question may
    tell what an earlier answer was, and no answer may choose the visual tokens that it is learned from.

    Args:
        row: the decoded record.
        key: its identity where it has none itself.
        where: prefix of messages, e.g. ``"train.json, record 3: "``.
        image: turns an entry of ``image`` or ``images`` into a picture's source, or refuses it.

    Raises:
        UserError: names file, record and fault.
    """
    shape = next((shape for shape in _SHAPES if shape[0] in row), None)
    if shape is None:
        raise UserError(f"{where}expected 'conversations' (from, value) or 'messages' (role, content); got {list(row)}")
    said = row[shape[0]]
    if not isinstance(said, Sequence) or isinstance(said, str) or not len(said):
        raise UserError(f"{where}{shape[0]} must be a list of turns; got {_shown(said)}")
    turns: list[Turn] = []
    for number, turn in enumerate(said, start=1):
        answered = any(earlier.role == ASSISTANT for earlier in turns)
        turns.append(_turn(turn, shape, f"{where}turn {number}: ", answered))
    _check_order(turns, where)
    sources = _entries(row, where)
    _check_images(turns, len(sources), where)
    return Conversation(str(row.get("id") or key), tuple(turns), tuple(image(entry) for entry in sources), where)


def _turn(turn: object, shape: tuple[str, str, str], where: str, answered: bool) -> Turn:
    _, speaker, content = shape
    if not isinstance(turn, Mapping) or speaker not in turn or content not in turn:
        raise UserError(f"{where}expected {{{speaker!r}: ..., {content!r}: ...}}; got {_shown(turn)}")
    role = _ROLES.get(turn[speaker]) if isinstance(turn[speaker], str) else None
    if role is None:
        raise UserError(f"{where}unknown role {turn[speaker]!r}; expected one of {', '.join(sorted(_ROLES))}")
    label = Role.ANSWER if role == ASSISTANT else Role.TEMPLATE if answered or role == SYSTEM else Role.QUESTION
    found = Turn(role, tuple(_parts(turn[content], label, where)))
    if role == ASSISTANT and found.num_images:
        raise UserError(f"{where}an answer holds {MARK}; only the user shows pictures")
    if not found.text.strip() and (role == ASSISTANT or not found.num_images):
        raise UserError(f"{where}the {'answer' if role == ASSISTANT else 'text'} is empty")
    return found


def _parts(content: object, label: Role, where: str) -> list[Segment | None]:
    if isinstance(content, str):
        pieces = content.split(MARK)
        parts: list[Segment | None] = []
        for number, piece in enumerate(pieces):
            # Blanks around a mark belong to the template, which puts its own.
            text = piece if len(pieces) == 1 else piece.strip()
            parts += [None] if number else []
            parts += [Segment(text, label)] if text else []
        return parts
    if isinstance(content, Sequence):
        return [part for entry in content for part in _part(entry, label, where)]
    raise UserError(f"{where}expected text, or a list of parts with a type; got {_shown(content)}")


def _part(entry: object, label: Role, where: str) -> list[Segment | None]:
    kind = entry.get("type") if isinstance(entry, Mapping) else None
    if kind == "image":
        return [None]
    if kind == "text" and isinstance(entry, Mapping) and isinstance(entry.get("text"), str):
        if MARK in entry["text"]:
            raise UserError(f"{where}a part of type text holds {MARK}; write a part of type image")
        return [Segment(entry["text"], label)] if entry["text"] else []
    raise UserError(f"{where}expected a part of type text or image; got {_shown(entry)}")


def _check_order(turns: Sequence[Turn], where: str) -> None:
    spoken = [turn.role for turn in turns]
    talk = spoken[1:] if spoken[0] == SYSTEM else spoken
    for number, role in enumerate(talk):
        expected = ASSISTANT if number % 2 else USER
        if role != expected:
            place = number + 1 + (spoken[0] == SYSTEM)
            raise UserError(
                f"{where}turn {place}: expected the {expected}'s turn; got {role} (user and assistant alternate)"
            )
    if len(talk) % 2 or not talk:
        raise UserError(f"{where}the last turn must be an answer to learn; got {spoken[-1]}")


def _check_images(turns: Sequence[Turn], num_images: int, where: str) -> None:
    shown = [turn.num_images for turn in turns]
    if sum(shown) != num_images:
        raise UserError(f"{where}{sum(shown)} times {MARK} in the text, but {num_images} images; they must agree")
    first_answer = next(number for number, turn in enumerate(turns) if turn.role == ASSISTANT)
    if sum(shown[first_answer:]):
        raise UserError(
            f"{where}a picture comes after the first answer; pruning decides once for a whole conversation, so show "
            "all pictures in the first question, or split the conversation"
        )


def _entries(row: Mapping[str, Any], where: str) -> list[object]:
    given = [name for name in ("image", "images") if row.get(name) is not None]
    if len(given) == 2:
        raise UserError(f"{where}has both image and images; give one of them")
    if not given:
        return []
    value = row[given[0]]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return list(value)
    return [value]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
