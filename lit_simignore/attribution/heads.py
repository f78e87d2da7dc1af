"""How single heads look at the image: how much, where, and how many tokens are sinks.

A head's attention comes in chunks of query rows, so that no map over all queries need exist.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lit_simignore.types import UserError


def image_attention(probabilities: Tensor, visual: Tensor) -> Tensor:
    """``(H, I)`` float32 attention on every visual token, mean over queries. Its sum over I is the share of the image.

    Args:
        probabilities: ``(H, R, K)`` after softmax.
        visual: ``(K,)`` bool.
    """
    return probabilities[..., visual].float().mean(dim=1)


def column_means(chunks: Iterable[tuple[Tensor, Tensor]], visual: Tensor) -> Tensor:
    """``(H, I)`` float32 attention that visual tokens get from the queries below them, mean over those queries.

    Args:
        chunks: query rows ``(R,)`` int64 and their attention ``(H, R, K)``, every row at most once. Rows that do not
            lie below a column (itself included) do not count for it.
        visual: ``(K,)`` bool.

    Raises:
        UserError: there were no rows.

    Source: EAH, arXiv:2411.09968 (vision sinks), with the true number of rows as divisor.
    """
    columns = visual.nonzero()[:, 0]
    sums: Tensor | None = None
    counts = torch.zeros(len(columns), device=visual.device)
    for rows, attention in chunks:
        below = (rows[:, None] > columns).to(attention.device)
        found = (attention[..., columns].float() * below).sum(dim=1)
        sums = found if sums is None else sums + found
        counts = counts + below.sum(dim=0).to(counts.device)
    if sums is None:
        raise UserError("expected attention of at least one query row; got none")
    return sums / counts.clamp(min=1).to(sums.device)


def sink_counts(means: Tensor, threshold: float) -> Tensor:
    """``(...,)`` int64 visual tokens whose mean attention exceeds ``threshold``.

    Args:
        means: ``(..., I)`` from :func:`column_means`; stack layers for the grid of layers and heads.
        threshold: a probability. The paper's 0.002 belongs to LLaVA-1.5's 625 tokens: 1.25 / L elsewhere.
    """
    return (means > threshold).sum(dim=-1)


def dense_heads(counts: Tensor, num_visual: int, density: float = 0.15) -> Tensor:
    """Bool like ``counts``: heads in which at least ``density`` of the visual tokens are sinks.

    Args:
        counts: from :func:`sink_counts`, any shape.
        num_visual: visual tokens.
        density: fraction; the paper's ablation names 0.15 and 0.2 and fixes neither.
    """
    return counts >= density * max(num_visual, 1)
