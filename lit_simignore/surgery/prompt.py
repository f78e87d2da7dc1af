"""What the columns of one prefill are: visual tokens, text, padding, answers. Read from a call's own arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lit_simignore.surgery.calls import cache_in
from lit_simignore.surgery.columns import Columns
from lit_simignore.surgery.rows import ColumnMap
from lit_simignore.surgery.spans import ROLE_CODES, Spans
from lit_simignore.types import Role, UserError

IGNORED_LABEL = -100

AFTER_IMAGE = "after_image"
"""The text scope that needs no spans: whatever stands behind the last visual token, template included."""


@dataclass(frozen=True, slots=True, eq=False)
class Slots:
    """What the slots of a sequence are, from the whole prompt down to what is left of it after every stage.

    Args:
        visual: ``(B, n)`` bool, visual tokens.
        alive: ``(B, n)`` bool, False for padding.
        text: ``(B, n)`` bool per text scope, the rows that pruners of that scope compare with.
        original: ``(B, n)`` int64, index among the row's visual tokens of the prompt, where ``visual``.
        place: ``(B, n)`` int64, place in the row's own unpadded, unpruned prompt.
        query: ``(B,)`` int64, slot of the last token of the prompt (in training: the last one before the answer).
        needed: ``(B, n)`` bool, slots without which a training label could not be predicted; ``None`` without labels.
    """

    visual: Tensor
    alive: Tensor
    text: dict[str, Tensor]
    original: Tensor
    place: Tensor
    query: Tensor
    needed: Tensor | None = None

    def to(self, device: torch.device) -> Slots:
        """The same slots on another device, for decoders that are spread over several."""
        if self.alive.device == device:
            return self
        return Slots(
            visual=self.visual.to(device),
            alive=self.alive.to(device),
            text={scope: mask.to(device) for scope, mask in self.text.items()},
            original=self.original.to(device),
            place=self.place.to(device),
            query=self.query.to(device),
            needed=None if self.needed is None else self.needed.to(device),
        )

    def without(self, hidden: Tensor) -> Slots:
        """The same slots with those of ``hidden`` ``(B, n)`` as good as gone: not seen, so not to be chosen from."""
        return replace(self, visual=self.visual & ~hidden, alive=self.alive & ~hidden)

    def take(self, columns: ColumnMap) -> Slots:
        """The slots that a stage left."""
        index, valid = columns.index, columns.valid
        return Slots(
            visual=self.visual.gather(1, index) & valid,
            alive=self.alive.gather(1, index) & valid,
            text={scope: mask.gather(1, index) & valid for scope, mask in self.text.items()},
            original=self.original.gather(1, index),
            place=self.place.gather(1, index),
            query=((index == self.query[:, None]) & valid).int().argmax(dim=1),
            needed=None if self.needed is None else self.needed.gather(1, index) & valid,
        )


@dataclass(slots=True, eq=False)
class Prompt:
    """One prefill as its caller gave it. Padding can be told for certain only where the decoder is reached.

    Args:
        visual: ``(B, N)`` bool, placeholders of visual tokens.
        text: ``(B, N)`` bool, columns that may be compared with where no spans say better.
        spans: labels of the prompts, if any.
        keys: identity of each row; empty if unknown.
        labels: ``(B, N)`` training labels, if any.
        length: columns of the prompt itself, where generated or drafted tokens may follow; ``None`` for all.
        ids: ``(B, N)`` int64 token ids, where the caller showed them.
    """

    visual: Tensor
    text: Tensor
    spans: Spans | None = None
    keys: tuple[str, ...] = ()
    labels: Tensor | None = None
    length: int | None = None
    ids: Tensor | None = None

    @property
    def repeats(self) -> int:
        """Rows per sample (beams); 1 where no spans tell."""
        return 1 if self.spans is None else self.spans.repeats(self.visual.shape[0])

    def key(self, row: int) -> str:
        """Identity of a row."""
        if self.spans is not None:
            return self.spans.keys[row // self.repeats]
        return self.keys[row] if self.keys else ""

    def slots(self, alive: Tensor, scopes: Iterable[str]) -> Slots:
        """The whole prompt, given which columns are no padding ``(B, N)`` and which text scopes will be asked for."""
        visual = self.visual.to(alive.device) & alive
        return Slots(
            visual=visual,
            alive=alive,
            text={scope: self._scored_text(scope, alive) & alive & ~visual for scope in scopes},
            original=visual.long().cumsum(dim=1) - 1,
            place=alive.long().cumsum(dim=1) - 1,
            query=self._last_token(alive, visual),
            needed=None if self.labels is None else _needed(self.labels.to(alive.device)),
        )

    def _last_token(self, alive: Tensor, visual: Tensor) -> Tensor:
        """``(B,)`` the last real column of the prompt, and before the first label behind the image."""
        columns = _columns(alive)
        asked = alive.clone()
        if self.length is not None:
            asked[:, self.length :] = False
        if self.labels is not None:
            behind_image = columns > (visual * columns).amax(dim=1, keepdim=True)
            answers = (self.labels.to(alive.device) != IGNORED_LABEL) & behind_image
            asked &= answers.long().cumsum(dim=1) == 0
        return (asked * columns).amax(dim=1)

    def _after_image(self, alive: Tensor) -> Tensor:
        """``(B, N)`` bool, the prompt behind its last visual token; nothing where there is none."""
        visual = self.visual.to(alive.device) & alive
        behind = (visual.long().cumsum(dim=1) == visual.sum(dim=1, keepdim=True)) & visual.any(dim=1, keepdim=True)
        if self.length is not None:
            behind[:, self.length :] = False
        if self.labels is not None:
            behind = behind & (self.labels.to(alive.device) == IGNORED_LABEL)
        return behind

    def _scored_text(self, scope: str, alive: Tensor) -> Tensor:
        if scope == AFTER_IMAGE:
            return self._after_image(alive)
        if self.spans is None:
            return self.text.to(alive.device)
        labelled = self.spans.tokens(scope).to(alive.device).repeat_interleave(self.repeats, dim=0)
        chosen = torch.zeros_like(alive)
        chosen[:, : labelled.shape[1]] = labelled  # later columns are drafts or generated tokens, never text
        return chosen


def _columns(like: Tensor) -> Tensor:
    return torch.arange(like.shape[1], device=like.device)


def _answer_labels(spans: Spans, input_ids: Tensor) -> Tensor | None:
    """``(B, N)`` labels of the tokens that the spans call an answer; ``None`` where there are none, as in evaluation.

    A training loop that computes the logits of answers only cannot pass ``labels``, which the model would compare
    with logits of every column; the answers must not choose visual tokens all the same.
    """
    answers = spans.roles == ROLE_CODES[Role.ANSWER]
    if not bool(answers.any()):
        return None
    labels = torch.full_like(input_ids, IGNORED_LABEL)
    answers = answers.to(input_ids.device).repeat_interleave(spans.repeats(input_ids.shape[0]), dim=0)
    labels[:, : answers.shape[1]][answers] = input_ids[:, : answers.shape[1]][answers]
    return labels


def _needed(labels: Tensor) -> Tensor:
    """Columns that are a target, or that predict the next one."""
    labelled = labels != IGNORED_LABEL
    needed = labelled.clone()
    needed[:, :-1] |= labelled[:, 1:]
    return needed


class PromptReader:
    """Makes a :class:`Prompt` of the arguments of a forward call. One per attachment."""

    def __init__(self, image_token_id: int | None, special_ids: frozenset[int]) -> None:
        self._image_token_id = image_token_id
        self._special_ids = torch.tensor(sorted(special_ids), dtype=torch.long)
        self._root: Tensor | None = None
        self._seen = 0

    def from_ids(self, input_ids: Tensor, arguments: Mapping[str, Any], spans: Spans | None) -> Prompt:
        """Read a prompt that came as token ids."""
        if spans is not None:
            spans.check(input_ids)
        if self._image_token_id is None:
            visual = torch.zeros_like(input_ids, dtype=torch.bool)
        else:
            visual = input_ids == self._image_token_id
        labels = arguments.get("labels")
        if labels is None and spans is not None:
            labels = _answer_labels(spans, input_ids)
        length = self._prompt_length(input_ids, arguments) if spans is None else spans.roles.shape[1]
        text = self._free_text(input_ids, labels, length) if spans is None else torch.zeros_like(visual)
        return Prompt(visual=visual, text=text, spans=spans, labels=labels, length=length, ids=input_ids)

    def from_columns(self, columns: Columns, batch: int, length: int, arguments: Mapping[str, Any]) -> Prompt:
        """Read a prompt whose columns the caller named, for calls that show no ids."""
        named, width = columns.visual.shape
        if batch % named or length < width:
            raise UserError(
                f"visual_columns named {named} rows of {width} columns; the call has {batch} rows of {length}"
            )
        repeats = batch // named

        def widen(mask: Tensor) -> Tensor:
            full = torch.zeros(batch, length, dtype=torch.bool, device=mask.device)
            full[:, :width] = mask.repeat_interleave(repeats, dim=0)
            return full

        visual = widen(columns.visual)
        text = widen(~columns.visual if columns.text is None else columns.text)
        keys = tuple(key for key in columns.keys for _ in range(repeats))
        return Prompt(visual=visual, text=text, keys=keys, labels=arguments.get("labels"))

    def _free_text(self, input_ids: Tensor, labels: Tensor | None, length: int) -> Tensor:
        """Every token that is not special and cannot be an answer or a draft."""
        text = ~torch.isin(input_ids, self._special_ids.to(input_ids.device))
        if labels is not None:
            text &= labels == IGNORED_LABEL
        text[:, length:] = False
        return text

    def _prompt_length(self, input_ids: Tensor, arguments: Mapping[str, Any]) -> int:
        """Columns that are the prompt: what follows was generated, drafted or is being scored.

        Assisted decoding appends drafts to the prompt and asks for their logits; generation without a cache
        appends each new token and calls again. Both would otherwise let the output choose the visual tokens.
        """
        length = input_ids.shape[1]
        if cache_in(arguments) is None:
            return self._without_cache(input_ids)
        asked = arguments.get("logits_to_keep", 0)
        return length - (asked - 1) if isinstance(asked, int) and 1 < asked < length else length

    def _without_cache(self, input_ids: Tensor) -> int:
        root, length = self._root, input_ids.shape[1]
        one_more = root is not None and root.shape[0] == input_ids.shape[0] and length == self._seen + 1
        self._seen = length
        if one_more and root is not None and torch.equal(root, input_ids[:, : root.shape[1]]):
            return root.shape[1]
        self._root = input_ids
        return length
