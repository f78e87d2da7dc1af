"""Similarity of visual tokens to text rows: the measure, and how one score per token is made of many pairs.

Shared by the rule that keeps the most similar tokens and by the control that keeps the least similar ones, so
that the two can never differ in anything but the sign.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_simignore.discovery import nearest
from lit_simignore.types import UserError


def cosine(visual: Tensor, text: Tensor) -> Tensor:
    """``(I, T)`` cosine of every pair, -1 to 1; a zero row is similar to nothing (0)."""
    return F.normalize(visual.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T


def euclidean(visual: Tensor, text: Tensor) -> Tensor:
    """``(I, T)`` minus the L2 distance of the RAW rows, at most 0.

    On normalised rows the order would be the cosine's, so nothing would be compared.
    """
    return -torch.cdist(visual.float(), text.float(), p=2.0)


def manhattan(visual: Tensor, text: Tensor) -> Tensor:
    """``(I, T)`` minus the L1 distance of the raw rows, at most 0."""
    return -torch.cdist(visual.float(), text.float(), p=1.0)


MEASURES: MappingProxyType[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"cosine": cosine, "euclidean": euclidean, "manhattan": manhattan}
)
AGGREGATES = ("max", "mean", "top_m")
TEXT_SCOPES = ("options", "question", "prompt")


def pair_similarity(visual: Tensor, text: Tensor, measure: str) -> Tensor:
    """``(I, T)`` float32, higher is more similar, whatever the measure."""
    return MEASURES[measure](visual, text)


def aggregate_pairs(pairs: Tensor, how: str, top_m: int) -> Tensor:
    """One score per visual token from its similarities ``pairs`` ``(I, T)``; zeros where there is no text (T = 0)."""
    if pairs.shape[1] == 0:
        return pairs.new_zeros(pairs.shape[0])
    if how == "max":
        return pairs.amax(dim=1)
    if how == "mean":
        return pairs.mean(dim=1)
    return pairs.topk(min(top_m, pairs.shape[1]), dim=1).values.mean(dim=1)


def check_choice(owner: str, field: str, value: str, valid: tuple[str, ...]) -> None:
    """Refuse a value that is not one of ``valid``, with the nearest valid one."""
    if value not in valid:
        raise UserError(
            f"{owner}.{field} must be one of {', '.join(valid)}; got {value!r}, {nearest(str(value), valid)}"
        )


def check_similarity_fields(owner: str, similarity: str, aggregate: str, top_m: int, text: str) -> None:
    """Validate the four fields that define a similarity score."""
    check_choice(owner, "similarity", similarity, tuple(MEASURES))
    check_choice(owner, "aggregate", aggregate, AGGREGATES)
    check_choice(owner, "text", text, TEXT_SCOPES)
    if isinstance(top_m, bool) or top_m != int(top_m) or top_m < 1:
        raise UserError(f"{owner}.top_m must be an integer >= 1 (pairs averaged under aggregate='top_m'); got {top_m}")
