"""For callers that make ``inputs_embeds`` themselves: say which columns of the next calls are visual tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor

from lit_simignore.types import UserError


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """What :func:`visual_columns` was told.

    Args:
        visual: ``(B, N)`` bool, the visual tokens.
        text: ``(B, N)`` bool, the text to compare with; ``None`` means every other real token.
        keys: identity of each row for seeded pruners; empty if there is none.
    """

    visual: Tensor
    text: Tensor | None
    keys: tuple[str, ...]


EXPLICIT: ContextVar[Columns | None] = ContextVar("lit_simignore_columns", default=None)


@contextmanager
def visual_columns(visual: Tensor, text: Tensor | None = None, keys: tuple[str, ...] = ()) -> Iterator[None]:
    """Within the block, prompts without ``input_ids`` have their visual tokens in these columns.

    Use it inside :func:`~lit_simignore.surgery.attach.attach` around a bare causal language model, or around a
    vision-language model that is given ``inputs_embeds``::

        with attach(language_model, Simignore(num_keep=128)), visual_columns(mask):
            language_model(inputs_embeds=embeds, attention_mask=attention)

    Args:
        visual: ``(B, N)`` bool over the columns of the prompt.
        text: ``(B, N)`` bool, the text rows that pruners compare with; every other real token if ``None``.
        keys: one identity per row, for pruners that are seeded per sample.

    Raises:
        UserError: not a two-dimensional bool tensor.
    """
    if visual.ndim != 2 or visual.dtype.is_floating_point or (text is not None and text.shape != visual.shape):
        raise UserError(
            f"visual_columns expects bool masks (B, N) of one shape; got {tuple(visual.shape)} {visual.dtype}"
        )
    token = EXPLICIT.set(Columns(visual.bool(), None if text is None else text.bool(), tuple(keys)))
    try:
        yield
    finally:
        EXPLICIT.reset(token)
