"""Which number the gradients are of: the answer, read where it is predicted.

The row that predicts a token is the one before it. Rows count every visual token; the text-only numbering, in which an
image is one placeholder, points into the image (the released LLaVA-CAM does so).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_simignore.types import UserError


def answer_rows(first: int, num_answer: int) -> Tensor:
    """``(T,)`` int64 rows that predict the answer tokens ``first .. first + T - 1``.

    Args:
        first: column of the first answer token, visual tokens (and left padding) counted.
        num_answer: T, tokens of the answer.

    Raises:
        UserError: no row lies before the answer, or there is no answer.
    """
    if first < 1 or num_answer < 1:
        raise UserError(f"expected an answer of at least one token behind a prompt; got {num_answer} at column {first}")
    return torch.arange(first - 1, first - 1 + num_answer)


def answer_score(logits: Tensor, answer: Tensor, first: int, *, kind: str = "logit") -> Tensor:
    """Scalar: what the model says for ``answer`` in one teacher-forced pass over prompt and answer. Keeps gradients.

    The difference of two answers' scores is a contrastive target.

    Args:
        logits: ``(L, V)`` of one sample.
        answer: ``(T,)`` int64 answer tokens.
        first: column of the first answer token, visual tokens counted.
        kind: ``logit``: sum of the answer tokens' logits, the paper's target. ``log_prob``: sum of their
            log-probabilities, which a shift of all logits leaves alone.

    Raises:
        UserError: unknown kind, or the answer does not fit.

    Source: "From Redundancy to Relevance", NAACL 2025 (LLaVA-CAM), section 3.
    """
    rows = answer_rows(first, len(answer)).to(logits.device)
    if int(rows[-1]) >= len(logits):
        raise UserError(f"the answer ends behind the logits: {len(answer)} tokens at column {first} of {len(logits)}")
    return _sum_at(logits, rows, answer, kind)


def released_score(logits: Tensor, answer: Tensor, text_length: int) -> Tensor:
    """The released LLaVA-CAM's target, for comparison: ``sum_t logits[text_length + t, answer_t]``.

    ``text_length`` counts an image as one token, and the row is not shifted, so for most prompts this reads rows
    inside the image. Rows behind the last one are left out, where the released code would fail.
    """
    rows = torch.arange(text_length, text_length + len(answer), device=logits.device)
    inside = rows < len(logits)
    return _sum_at(logits, rows[inside], answer[inside.to(answer.device)], "logit")


def _sum_at(logits: Tensor, rows: Tensor, tokens: Tensor, kind: str) -> Tensor:
    if kind not in ("logit", "log_prob"):
        raise UserError(f"kind of target must be logit or log_prob; got {kind!r}")
    asked = logits[rows].float()
    scores = asked if kind == "logit" else asked.log_softmax(dim=-1)
    return scores.gather(1, tokens.to(logits.device)[:, None]).sum()
