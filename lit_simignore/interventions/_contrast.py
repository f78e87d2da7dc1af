"""Combining two predictions of the next token: one that saw the image, one that saw less of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def extrapolate(logits: Tensor, second: Tensor, strength: float) -> Tensor:
    """``logits + strength * (logits - second)``, away from what the poorer run predicts.

    Args:
        logits: ``(B, V)``.
        second: ``(B, V)``.
        strength: 0 leaves ``logits`` as they are. A token that both runs rule out (minus infinity) stays ruled out.
    """
    if strength == 0:
        return logits
    difference = torch.where(logits == second, torch.zeros_like(logits), logits - second)
    return logits + strength * difference


def cut_implausible(scores: Tensor, logits: Tensor, plausibility: float) -> Tensor:
    """``scores`` with minus infinity for tokens that the first run itself finds implausible.

    Args:
        scores: ``(B, V)`` combined scores.
        logits: ``(B, V)`` of the first run; log-probabilities do as well.
        plausibility: smallest probability that a token may have, as a fraction of the likeliest token's; 0 cuts none.
    """
    if plausibility == 0:
        return scores
    least = logits.amax(dim=-1, keepdim=True) + math.log(plausibility)
    return scores.masked_fill(logits < least, -torch.inf)
