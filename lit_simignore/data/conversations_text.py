"""One conversation as the text that a tokenizer sees, and which of its characters are whose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lit_simignore.data.conversations import ASSISTANT, SYSTEM, Conversation, Turn
from lit_simignore.types import Role, Segment, UserError

_PLACEHOLDER = 0xE000
"""First of the private-use characters that stand for texts, to learn what a template puts around them."""


@dataclass(slots=True)
class Written:
    """A conversation in the chat template.

    Args:
        text: with one image token per picture.
        spans: ``(start, end, role)`` in characters, ascending; answers include what ends them, for models must learn
            to stop; what is in none belongs to the template.
    """

    text: str = ""
    spans: list[tuple[int, int, Role]] = field(default_factory=list)


def write_conversation(processor: Any, conversation: Conversation) -> Written:
    """Put a conversation into the processor's chat template, exactly as evaluation would ask its first question.

    Up to the first answer the text is that of ``prepare``: the template with a generation prompt. Where a template
    writes nothing behind an answer that ends generation (LLaVA-1.5's), the tokenizer's end token is added.

    Raises:
        UserError: names the conversation: its text holds the image token; the template changes the text, makes
            another number of pictures, or knows one turn only.
    """
    return _Writer(processor, conversation).write()


class _Writer:
    """One conversation on its way into the template, answer by answer."""

    def __init__(self, processor: Any, conversation: Conversation) -> None:
        self.processor, self.turns, self.images = processor, conversation.turns, conversation.images
        self.name = f"conversation {conversation.key!r}"
        self.written = Written()
        self.consumed = ""  # what the template has written so far, which lacks the end tokens that are added

    def write(self) -> Written:
        self._check_text()
        start = 0
        for number, turn in enumerate(self.turns):
            if turn.role == ASSISTANT:
                self._add_question(start, number)
                self._add_answer(number)
                start = number + 1
        token = self.processor.image_token
        if self.written.text.count(token) != len(self.images):
            raise UserError(
                f"{self.name} has {len(self.images)} images; the chat template made room for "
                f"{self.written.text.count(token)}: use another template"
            )
        return self.written

    def _check_text(self) -> None:
        text = "".join(turn.text for turn in self.turns)
        if self.processor.image_token in text:
            raise UserError(
                f"{self.name}: its text contains {self.processor.image_token!r}, which stands for an image; remove it"
            )
        if any(_PLACEHOLDER <= ord(letter) < _PLACEHOLDER + 0x400 for letter in text):
            raise UserError(f"{self.name}: its text holds private-use characters; remove them")

    def _add_question(self, start: int, end: int) -> None:
        """Write turns ``start..end-1`` and the generation prompt; find their texts by a template without them."""
        groups = [group for turn in self.turns[start:end] for group in _texts(turn)]
        marks = [chr(_PLACEHOLDER + number) for number in range(len(groups))]
        left = iter(marks)
        blank = [Turn(turn.role, tuple(_blanked(turn, left))) for turn in self.turns[start:end]]
        piece = self._new(self._template(self.turns[:end], prompt=True))
        frame = self._new(self._template([*self.turns[:start], *blank], prompt=True))
        whole = ["".join(segment.text for segment in group) for group in groups]
        shown, starts = self._located(frame, marks, whole, piece)
        for group, text, full, place in zip(groups, shown, whole, starts, strict=True):
            self._label(group, text, full, len(self.written.text) + place)
        self.written.text += piece
        self.consumed += piece

    def _located(self, frame: str, marks: Sequence[str], whole: list[str], piece: str) -> tuple[list[str], list[int]]:
        """The texts as the template shows them, which may be stripped, and where each begins in ``piece``."""
        for shown in (whole, [text.strip() for text in whole]):
            rebuilt, starts = _fill(frame, marks, shown)
            if rebuilt == piece:
                return shown, starts
        raise UserError(f"{self.name}: the chat template changes the text, so its parts cannot be found; use another")

    def _label(self, group: Sequence[Segment], shown: str, whole: str, begin: int) -> None:
        """Write down whose the characters are; a stripped text begins where its blanks would have begun."""
        place = begin - (len(whole) - len(whole.lstrip()) if shown != whole else 0)
        for segment in group:
            end = place + len(segment.text)
            self.written.spans.append((max(place, begin), min(end, begin + len(shown)), segment.role))
            place = end

    def _add_answer(self, number: int) -> None:
        text = self.turns[number].text
        full = self._template(self.turns[: number + 1], prompt=False)
        if full.startswith(self.consumed) and text.strip() in full[len(self.consumed) :]:
            piece = full[len(self.consumed) :]
            self.consumed = full
        elif number == len(self.turns) - 1 and all(turn.role != ASSISTANT for turn in self.turns[:number]):
            piece = f" {text}"  # the template knows questions only; what follows them is the answer
        else:
            raise UserError(f"{self.name}: the chat template cannot write several answers; use another, or one turn")
        behind = piece.find(text.strip()) + len(text.strip())
        end = self._closed(piece, behind)
        if end is None:
            piece = piece[:behind] + str(self.processor.tokenizer.eos_token or "")
            end = len(piece)
        start = len(self.written.text)
        self.written.spans.append((start, start + end, Role.ANSWER))
        self.written.text += piece

    def _closed(self, piece: str, behind: int) -> int | None:
        """Where the first special token behind the answer ends, if the template writes one."""
        marks = [mark.content for mark in self.processor.tokenizer.added_tokens_decoder.values() if mark.special]
        found = [(place, mark) for mark in marks if (place := piece.find(mark, behind)) >= 0]
        if not found:
            return None
        place, mark = min(found)
        return place + len(mark)

    def _new(self, text: str) -> str:
        if not text.startswith(self.consumed):
            raise UserError(f"{self.name}: the chat template rewrites earlier turns; use another, or single turns")
        return text[len(self.consumed) :]

    def _template(self, turns: Sequence[Turn], prompt: bool) -> str:
        if getattr(self.processor, "chat_template", None) is None:
            return _plain(self.processor.image_token, turns, prompt)
        try:
            messages = [{"role": turn.role, "content": list(_content(turn))} for turn in turns]
            return str(self.processor.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False))
        # A template may refuse a conversation in its own words, e.g. one that takes a single message.
        except Exception as error:
            if any(turn.role == ASSISTANT for turn in turns) and not prompt:
                return ""
            reason = " ".join(str(error).split())
            raise UserError(f"{self.name}: the chat template does not take it ({reason})") from error


def _fill(frame: str, marks: Sequence[str], texts: Sequence[str]) -> tuple[str, list[int]]:
    rebuilt, starts, rest = "", [], frame
    for mark, text in zip(marks, texts, strict=True):
        lead, _, rest = rest.partition(mark)
        starts.append(len(rebuilt) + len(lead))
        rebuilt += lead + text
    return rebuilt + rest, starts


def _texts(turn: Turn) -> Iterator[list[Segment]]:
    """Runs of text between pictures: each goes into the template as one piece."""
    group: list[Segment] = []
    for part in (*turn.parts, None):
        if part is not None:
            group.append(part)
        elif group:
            yield group
            group = []


def _blanked(turn: Turn, marks: Iterator[str]) -> Iterator[Segment | None]:
    before: Segment | None = None
    for part in turn.parts:
        if part is None:
            yield None
        elif before is None:
            yield Segment(next(marks), part.role)
        before = part


def _content(turn: Turn) -> Iterator[dict[str, str]]:
    groups = _texts(turn)
    before: Segment | None = None
    for part in turn.parts:
        if part is None:
            yield {"type": "image"}
        elif before is None:
            yield {"type": "text", "text": "".join(segment.text for segment in next(groups))}
        before = part


def _plain(image: str, turns: Sequence[Turn], prompt: bool) -> str:
    """For processors without a template, as ``prepare`` writes it."""
    names = {SYSTEM: "", ASSISTANT: "ASSISTANT: "}
    parts = [f"{names.get(turn.role, 'USER: ')}{f'{image}{chr(10)}' * turn.num_images}{turn.text}" for turn in turns]
    return " ".join([*parts, *(["ASSISTANT:"] if prompt else [])])
