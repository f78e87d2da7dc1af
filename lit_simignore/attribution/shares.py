"""What a token attends to: the prompt before the image, the image, the text behind it, or what was generated."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import torch
from torch import Tensor

from lit_simignore.types import UserError


class Part(IntEnum):
    """A part of the sequence. The values are the last dimension of every table of shares."""

    SYSTEM = 0
    VISUAL = 1
    USER = 2
    OUTPUT = 3


NO_PART = -1
"""Padding."""


def parts_of(visual: Tensor, prompt_length: int, alive: Tensor | None = None) -> Tensor:
    """``(L,)`` int64: the :class:`Part` that every column belongs to, :data:`NO_PART` for padding.

    Text before the first visual token is the system part; text between and behind images is the user's; without an
    image all text is the user's.

    Args:
        visual: ``(L,)`` bool, visual tokens.
        prompt_length: columns of the prompt, padding on the left included; what follows is output.
        alive: ``(L,)`` bool, False for padding; ``None`` for none.
    """
    columns = torch.arange(len(visual), device=visual.device)
    parts = torch.full_like(columns, int(Part.USER))
    before_image = (visual.long().cumsum(dim=0) == 0) & visual.any()
    parts[before_image] = Part.SYSTEM
    parts[visual] = Part.VISUAL
    parts[columns >= prompt_length] = Part.OUTPUT
    if alive is not None:
        parts[~alive] = NO_PART
    return parts


def attention_shares(probabilities: Tensor, parts: Tensor) -> Tensor:
    """``(..., 4)`` float32 attention on every :class:`Part`; sums to 1 where padding gets none.

    Args:
        probabilities: ``(..., K)`` attention after softmax.
        parts: ``(K,)`` from :func:`parts_of`.

    Raises:
        UserError: not one part per column.

    Source: "From Redundancy to Relevance", NAACL 2025, section 3.1: the sums over system, image and user tokens.
    """
    if parts.shape != probabilities.shape[-1:]:
        raise UserError(f"expected parts ({probabilities.shape[-1]},), one per column; got {tuple(parts.shape)}")
    members = torch.stack([parts == part for part in Part], dim=1)
    return probabilities.float() @ members.to(probabilities.device).float()


def layer_shares(layers: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """``(N, 4)`` float32 shares per layer, mean over heads and queries.

    Args:
        layers: for every layer ``(H, R, K)`` attention of the queries that are asked about (those that predict the
            answer, the last one, any) and the layer's parts ``(K,)``. K may fall where tokens are dropped. A
            generator keeps one layer's attention in memory at a time.
    """
    return torch.stack([attention_shares(attention, parts).flatten(0, -2).mean(dim=0) for attention, parts in layers])
