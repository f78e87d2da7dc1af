"""OPERA's two rules as functions: a penalty on candidates that lean on one summary token, and when to step back.

They need what only a beam search has: every beam's candidates run one step further, and a way back. No intervention is
built on them yet, so this file is not scanned.

Source: Huang et al., "OPERA", CVPR 2024, arXiv:2311.17911, sections 3.2 and 3.3; numbers are those of its code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_simignore.types import UserError

SCALE = 50.0
"""Attention is multiplied by this before columns are multiplied out, so that products neither vanish nor explode."""

UNIT = 1e-7
"""Factor of every product."""

LARGEST = 65504.0
"""Products end here: the released code holds them in half precision, where larger ones become infinite."""

EARLY = 10
"""Answers up to this length are judged by their attention on the image, and no step goes back before it."""


def column_scores(attention: Tensor, *, scale: float = SCALE) -> Tensor:
    """``(..., W)`` float32: for every token of the answer, the product of what it and all later tokens pay to it.

    A high score is a column that stays bright: later tokens read the summary instead of the image.

    Args:
        attention: ``(..., W, W)`` attention among the W tokens of the answer, the candidate last: in the last layer,
            the maximum over heads, rows normalised over everything that they see.
        scale: factor of every entry.
    """
    window = attention.shape[-1]
    logs = (scale * attention.float()).log()
    # row i counts for column j from the diagonal on; a zero anywhere makes the product zero
    counted = torch.ones(window, window, dtype=torch.bool, device=attention.device).tril()
    sums = logs.masked_fill(~counted, 0.0).sum(dim=-2)
    return (UNIT * sums.exp()).clamp(max=LARGEST)


def over_trust(attention: Tensor, image_attention: Tensor, *, scale: float = SCALE) -> Tensor:
    """``(B, C)`` float32 penalty of every candidate; multiply by a weight (1 in the paper) and subtract from its logit.

    Args:
        attention: ``(B, C, W, W)`` as for :func:`column_scores`, for C candidates of B beams.
        image_attention: ``(B, C)`` attention that the candidate pays to the image in the same map.
        scale: see :func:`column_scores`.

    Returns:
        The brightest column's score; for answers of up to :data:`EARLY` tokens minus ``image_attention`` instead.
    """
    if attention.shape[-1] <= EARLY:
        return -image_attention.float()
    return column_scores(attention, scale=scale).amax(dim=-1)


def summary_tokens(attention: Tensor, *, scale: float = SCALE) -> Tensor:
    """``(B,)`` int64: the brightest column of every beam, the most frequent one among its candidates.

    Args:
        attention: ``(B, C, W, W)`` as for :func:`over_trust`.
        scale: see :func:`column_scores`.
    """
    return column_scores(attention, scale=scale).argmax(dim=-1).mode(dim=-1).values


def step_back(history: Sequence[Tensor], *, threshold: int = 15) -> int | None:
    """The position of the answer to decide anew, ``None`` to go on.

    Args:
        history: :func:`summary_tokens` ``(B,)`` of every step so far, the newest last.
        threshold: all beams must have named the same token in more than this many steps.

    Returns:
        The position behind the token that the beams agree on in the newest step. Tokens that were chosen there are
        then ruled out. Summary tokens before position :data:`EARLY` never call back.

    Raises:
        UserError: a threshold below 0, or no step.
    """
    if threshold < 0 or not history:
        raise UserError(f"expected threshold >= 0 and at least one step; got {threshold} and {len(history)} steps")
    named = torch.stack(list(history))
    agreed = int(named[-1].mode().values)
    often = (named == agreed).sum(dim=0) > threshold
    return agreed + 1 if bool(often.all()) and agreed >= EARLY else None
