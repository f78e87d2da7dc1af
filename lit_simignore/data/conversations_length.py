"""How many tokens conversations make, before any of them is trained on: long ones are named or left out at once.

Pictures are not decoded: how many tokens one becomes depends on its size alone, so the processor is asked once per
size, with a blank one. Texts are tokenized only where their bytes, of which a token takes at least one, do not already
say that they fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from PIL import Image

from lit_simignore.data.conversations import Conversation
from lit_simignore.data.conversations_text import write_conversation
from lit_simignore.surgery.images import open_image
from lit_simignore.types import ImageSource, UserError

TOO_LONG = ("raise", "drop")
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""Exif's tag of how a picture is turned, and its values that exchange width and height."""
_SLACK = 2
"""Tokens per text for what tokenizers put in front of it."""


class Fitting(NamedTuple):
    """Conversations that are short enough.

    Args:
        conversations: in their order.
        dropped: how many were too long.
        first: what is said of the first of these.
    """

    conversations: Sequence[Conversation]
    dropped: int = 0
    first: str = ""


def keep_fitting(conversations: Sequence[Conversation], processor: Any, limit: int, too_long: str = "raise") -> Fitting:
    """The conversations of at most ``limit`` tokens, those of their images included.

    Args:
        conversations: all that there are.
        processor: of the model.
        limit: tokens at most, before pruning.
        too_long: ``raise`` or ``drop``.

    Raises:
        UserError: names the first one that is too long, and how many more there are; or none is short enough, or a
            picture cannot be opened.
    """
    if too_long not in TOO_LONG:
        raise UserError(f"too_long must be one of {', '.join(TOO_LONG)}; got {too_long!r}")
    lengths, kept, first = Lengths(processor), [], ""
    for conversation in conversations:
        if lengths.bound(conversation) <= limit or (tokens := lengths.count(conversation)) <= limit:
            kept.append(conversation)
        elif not first:
            visual = lengths.visual(conversation)
            first = f"{conversation.place}makes {tokens} tokens, {visual} of them for its images; the limit is {limit}"
    dropped = len(conversations) - len(kept)
    if dropped and (too_long == "raise" or not kept):
        more = f" ({dropped} of {len(conversations)} conversations are too long)" if dropped > 1 else ""
        remedy = "" if too_long == "drop" else ", or leave such out with data.too_long=drop"
        raise UserError(f"{first}{more}: shorten it, or raise data.max_tokens{remedy}")
    return Fitting(kept, dropped, first)


class Lengths:
    """Counts tokens as :class:`~lit_simignore.data.conversations_batch.ConversationCollator` will make them.

    Args:
        processor: of the model.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self._of_sizes: dict[tuple[tuple[int, int], ...], int] = {}
        self._around: dict[object, int] = {}

    def count(self, conversation: Conversation) -> int:
        """Tokens of the whole conversation, answers and images included."""
        return self._tokens(write_conversation(self.processor, conversation).text) + self._more(conversation)

    def visual(self, conversation: Conversation) -> int:
        """Tokens that stand for images and for what the processor writes around them."""
        return self._more(conversation) + len(conversation.images)

    def bound(self, conversation: Conversation) -> int:
        """No fewer than :meth:`count`, without tokenizing: bytes of the texts and of the template around them.

        The template's are taken from the first conversation that has the same turns.
        """
        texts = [turn.text for turn in conversation.turns]
        size = sum(len(text.encode("utf-8")) for text in texts)
        shape = tuple((turn.role, *(part is None for part in turn.parts)) for turn in conversation.turns)
        if shape not in self._around:
            written = write_conversation(self.processor, conversation).text
            inside = sum(len(text.strip().encode("utf-8")) for text in texts)
            self._around[shape] = len(written.encode("utf-8")) - inside
        return size + self._around[shape] + _SLACK * (len(texts) + 1) + self._more(conversation)

    def _tokens(self, text: str) -> int:
        return len(self.processor.tokenizer(text, **self._options(text))["input_ids"])

    def _options(self, text: str) -> dict[str, bool]:
        bos = self.processor.tokenizer.bos_token
        return {"add_special_tokens": False} if bos is not None and text.startswith(bos) else {}

    def _more(self, conversation: Conversation) -> int:
        """Tokens that images become beyond the one placeholder of each in the text."""
        if not conversation.images:
            return 0
        sizes = tuple(_size(source, conversation) for source in conversation.images)
        if sizes not in self._of_sizes:
            text = write_conversation(self.processor, conversation).text  # some processors look at more than the mark
            blank = [Image.new("RGB", size) for size in sizes]
            found = self.processor(text=[text], images=blank, return_tensors="pt", **self._options(text))
            self._of_sizes[sizes] = int(found["input_ids"].shape[1]) - self._tokens(text)
        return self._of_sizes[sizes]


def _size(source: ImageSource, conversation: Conversation) -> tuple[int, int]:
    """Width and height as the model will see them, from a file's header where that says it."""
    try:
        opened = source if isinstance(source, Image.Image) else source() if callable(source) else Image.open(source)
        sideways = opened.getexif().get(_ORIENTATION) in _SIDEWAYS
        size = opened.size
        if not isinstance(source, Image.Image):
            opened.close()
    # A header may be broken in any way: opening the picture whole says how, or finds that it is not.
    except Exception:
        try:
            return open_image(source).size
        except UserError as error:
            raise UserError(f"{conversation.place}{error}") from error
    return (size[1], size[0]) if sideways else size
