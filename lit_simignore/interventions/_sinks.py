"""Vision sinks: visual tokens that many queries attend to, counted head by head without a map over all queries.

A column is a sink of a head if the attention that it gets, averaged over the queries below it and without what it pays
itself, exceeds a threshold. How that average is taken is where paper, released code and a correct mean differ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_simignore.interventions._kernel import LayerContext, row_logits

ROWS = ("all", "image", "after_image")
"""Query rows that are averaged over: every token, the visual tokens, or the text behind the first visual token."""

DIVISORS = ("rows", "constant", "released")
"""What the summed attention on a column is divided by, see :func:`column_means`."""


@torch.no_grad()
def column_means(
    query: Tensor,
    key: Tensor,
    context: LayerContext,
    *,
    rows: str = "all",
    divisor: str = "rows",
    chunk: int = 256,
) -> Tensor:
    """``(B, H, P)`` float32 mean attention that every visual token gets from other tokens; 0 outside the image.

    Softmax runs over everything a query sees; the diagonal is left out afterwards, as in the paper. Memory is
    ``B x H x chunk x K``, whatever the length.

    Args:
        query: ``(B, H, P, d)`` of a prefill, after rotation.
        key: ``(B, G, K, d)``, K >= P.
        context: a prefill's.
        rows: which queries count, one of :data:`ROWS`; padding never does.
        divisor: ``rows``: the number of counted queries, other than the token itself, that see the column.
            ``constant``: last minus first visual column. ``released``: first + last + 1 - column, which for columns
            36..610 is the 647 - j of the released code.
        chunk: query rows whose attention is held at once.
    """
    counted = counted_rows(context.visual, context.alive, rows)
    num_slots = counted.shape[1]
    sums = query.new_zeros(*query.shape[:2], num_slots, dtype=torch.float32)
    seers = torch.zeros(query.shape[0], 1, num_slots, device=query.device)
    for some in counted.any(dim=0).nonzero()[:, 0].split(chunk):
        weight = counted[:, some].float()
        logits = context.hide(row_logits(query, key, context.scaling, some), some, num_slots)
        probabilities = logits.softmax(dim=-1)[..., :num_slots]
        probabilities[:, :, torch.arange(len(some), device=some.device), some] = 0
        sums += torch.einsum("bhrk,br->bhk", probabilities, weight)
        seers = seers + _others_that_see(context, some, weight, key.shape[2])
    shares = sums / _divisors(divisor, context, seers).clamp(min=1)
    return shares.masked_fill(~context.visual[:, None], 0)


def counted_rows(visual: Tensor, alive: Tensor, rows: str) -> Tensor:
    """``(B, P)`` bool, the query rows of ``rows`` (one of :data:`ROWS`)."""
    if rows == "image":
        return visual & alive
    if rows == "after_image":
        return alive & ~visual & (visual.long().cumsum(dim=1) > 0)
    return alive


def sink_counts(means: Tensor, visual: Tensor, threshold: Tensor | float) -> Tensor:
    """``(B, H)`` int64, visual tokens whose mean attention exceeds the threshold.

    Args:
        means: ``(B, H, P)`` from :func:`column_means`.
        visual: ``(B, P)`` bool.
        threshold: one for all, or ``(B,)``. A mean equal to it is no sink.
    """
    limit = torch.as_tensor(threshold, dtype=means.dtype, device=means.device).reshape(-1, 1, 1)
    return ((means > limit) & visual[:, None]).sum(dim=-1)


def _others_that_see(context: LayerContext, rows: Tensor, weight: Tensor, num_keys: int) -> Tensor:
    """``(B, 1 or H, P)`` how many of ``rows``, by ``weight`` ``(B, R)``, see a column that is not their own."""
    num_slots = context.visual.shape[1]
    seen = context.sees(rows, num_slots, num_keys)
    if seen is None:
        seen = torch.ones(1, 1, len(rows), num_slots, dtype=torch.bool, device=rows.device)
    columns = torch.arange(num_slots, device=rows.device)
    others = (seen[..., :num_slots] & (columns != rows[:, None])).float().expand(len(weight), -1, -1, -1)
    return torch.einsum("bhrk,br->bhk", others, weight)


def _divisors(divisor: str, context: LayerContext, seers: Tensor) -> Tensor:
    """``(B, 1 or H, P)`` for :func:`column_means`."""
    if divisor == "rows":
        return seers
    place = context.alive.long().cumsum(dim=1) - 1  # padding has no place in a sample's own sequence
    last = place.masked_fill(~context.visual, 0).amax(dim=1, keepdim=True)
    first = place.masked_fill(~context.visual, place.shape[1]).amin(dim=1, keepdim=True)
    if divisor == "constant":
        return (last - first)[:, None].float()
    return (first + last + 1 - place)[:, None].float()
