"""Merged tokens: bookkeeping of which tokens a row carries and which place of the sequence it takes.

A merging rule makes rows; every row takes the place (the *slot*) of one visual token, so the sequence is simply as
short as if the other tokens had been dropped. Slots are ascending, as kept indices always are. Two placements exist:

* ``in_place``: a row stands where its own token stood, so rows stay in reading order;
* ``appended``: rows stand in the order in which the released code emits them; the slots then only say how many places
  of the image are left and carry no meaning of their own. Only with ``positions="renumber"`` is this the release.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_simignore.types import Selection

PLACEMENTS = ("in_place", "appended")


def merged_selection(
    slots: Tensor, rows: Tensor, carries: Tensor, placement: str, scores: Tensor | None = None
) -> Selection:
    """Bring rows into sequence order.

    Args:
        slots: ``(K,)`` int64, distinct: the token whose place row k takes.
        rows: ``(K, D)`` the values.
        carries: ``(K, I)`` bool: which tokens row k is made of.
        placement: ``in_place`` or ``appended``.
        scores: ``(I,)``, handed through.
    """
    kept, order = slots.sort()
    if placement == "in_place":
        rows, carries = rows[order], carries[order]
    return Selection(kept=kept, scores=scores, merged=rows, sources=sources_of(carries))


def membership(indices: Tensor, total: int) -> Tensor:
    """``(K, total)`` bool with one true entry per row: rows that carry nothing but themselves."""
    return torch.zeros(indices.shape[0], total, dtype=torch.bool, device=indices.device).scatter_(
        1, indices.unsqueeze(1), True
    )


def sources_of(carries: Tensor) -> tuple[tuple[int, ...], ...]:
    """The true columns of every row, ascending. One transfer to the host."""
    columns = carries.nonzero()[:, 1].tolist()
    counts: list[int] = carries.sum(dim=1).tolist()
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    return tuple(tuple(columns[end - count : end]) for end, count in zip(ends, counts, strict=True))
