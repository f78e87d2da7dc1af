"""Conversations to model inputs: tokens, labels on answers only, and the role of every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_simignore.data.conversations import Conversation
from lit_simignore.data.conversations_text import Written, write_conversation
from lit_simignore.surgery.images import open_image
from lit_simignore.surgery.prompt import IGNORED_LABEL
from lit_simignore.surgery.spans import NO_ROLE, ROLE_CODES, Spans
from lit_simignore.types import Role, UserError

SIDES = ("left", "right")


class TrainBatch:
    """What one training step is given. A plain class, so that Lightning moves it whole.

    Args:
        inputs: keyword arguments of the model's forward; the attention mask is always there and two-dimensional.
        labels: ``(B, L)`` int64, the token itself on answers, -100 elsewhere.
        spans: roles of all tokens, answers included.
    """

    __slots__ = ("inputs", "labels", "spans")

    def __init__(self, inputs: dict[str, Any], labels: Tensor, spans: Spans) -> None:
        self.inputs, self.labels, self.spans = inputs, labels, spans

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def to(self, device: torch.device | str, **options: Any) -> TrainBatch:
        """The same batch on another device."""
        moved = {
            name: value.to(device, **options) if isinstance(value, Tensor) else value
            for name, value in self.inputs.items()
        }
        return TrainBatch(moved, self.labels.to(device, **options), self.spans.to(device))


@dataclass(frozen=True, slots=True)
class ConversationCollator:
    """Makes a :class:`TrainBatch` of conversations.

    Args:
        processor: a Hugging Face processor with a fast tokenizer.
        padding_side: ``left``, as in evaluation, or ``right``.
        max_tokens: a longer conversation is refused; ``None`` takes the tokenizer's limit.
    """

    processor: Any
    padding_side: str = "left"
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.padding_side not in SIDES:
            raise UserError(f"padding_side must be one of {', '.join(SIDES)}; got {self.padding_side!r}")

    def __call__(self, conversations: Sequence[Conversation]) -> TrainBatch:
        """Render, open the pictures, tokenize and label.

        Raises:
            UserError: names the conversation: a picture that cannot be opened, a template that does not fit, too many
                tokens, or a model whose vision side reads the answer.
        """
        written = [write_conversation(self.processor, conversation) for conversation in conversations]
        encoded = self._encode(written, conversations)
        offsets = encoded.pop("offset_mapping")
        replaced = encoded.pop("text_replacement_offsets", [[] for _ in conversations])
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        self._check(encoded, conversations)
        roles = torch.full(ids.shape, NO_ROLE, dtype=torch.int8)
        for row, text in enumerate(written):
            roles[row] = _roles(text, offsets[row], replaced[row])
        roles[(mask == 0) | (ids == self.processor.image_token_id)] = NO_ROLE
        answers = roles == ROLE_CODES[Role.ANSWER]
        labels = ids.masked_fill(~answers, IGNORED_LABEL)
        if "token_type_ids" in encoded and "PaliGemma" in type(self.processor).__name__:
            encoded["token_type_ids"] = answers.long()  # everything else is prefix, which sees itself both ways
        keys = tuple(conversation.key for conversation in conversations)
        return TrainBatch(dict(encoded), labels, Spans(ids, roles, keys))

    def _encode(self, written: Sequence[Written], conversations: Sequence[Conversation]) -> dict[str, Any]:
        pictures = [_opened(conversation) for conversation in conversations]
        flat = [picture for group in pictures for picture in group]
        bos = self.processor.tokenizer.bos_token
        has_bos = bos is not None and written[0].text.startswith(bos)
        encoded = self.processor(
            text=[text.text for text in written],
            images=flat or None,
            padding=True,
            padding_side=self.padding_side,
            return_tensors="pt",
            return_offsets_mapping=True,
            return_text_replacement_offsets=True,
            **({"add_special_tokens": False} if has_bos else {}),
        )
        return dict(encoded)

    def _check(self, encoded: dict[str, Any], conversations: Sequence[Conversation]) -> None:
        if "qformer_input_ids" in encoded:
            raise UserError(
                "InstructBLIP's Q-Former is given the whole text, so its visual tokens would know the answer; "
                "fine-tune another family"
            )
        limit = self.max_tokens or self.processor.tokenizer.model_max_length
        for conversation, length in zip(conversations, encoded["attention_mask"].sum(dim=1).tolist(), strict=True):
            if length > limit:
                raise UserError(
                    f"{conversation.place}makes {length} tokens; the limit is {limit}: shorten it, take it out, "
                    "or raise data.max_tokens"
                )


def _opened(conversation: Conversation) -> list[Any]:
    try:
        return [open_image(source) for source in conversation.images]
    # A picture may be drawn by any function, so anything may be wrong with it.
    except Exception as error:
        raise UserError(f"{conversation.place}{' '.join(str(error).split())}") from error


def _roles(written: Written, offsets: Tensor, replaced: Sequence[dict[str, Any]]) -> Tensor:
    """``(L,)`` int8 role of every token, by the span that its last character falls into; template between spans."""
    starts, codes = [], [ROLE_CODES[Role.TEMPLATE]]
    for start, end, role in written.spans:
        starts += [start + _grown(replaced, start), end + _grown(replaced, end)]
        codes += [ROLE_CODES[role], ROLE_CODES[Role.TEMPLATE]]
    # a token may begin with the space before its word, so its last character says where it belongs
    place = torch.bucketize(offsets[:, 1] - 1, torch.tensor(starts), right=True)
    return torch.tensor(codes)[place].to(torch.int8)


def _grown(replaced: Sequence[dict[str, Any]], place: int) -> int:
    """Characters that the image placeholders before ``place`` gained when they were written out."""
    spans = [(item["span"], item["new_span"]) for item in replaced if item["span"][0] < place]
    return sum(int((new[1] - new[0]) - (old[1] - old[0])) for old, new in spans)
