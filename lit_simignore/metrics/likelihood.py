"""Which of several given answers a model holds for the most likely."""

from __future__ import annotations

from collections.abc import Sequence


def most_likely(log_probs: Sequence[float], lengths: Sequence[int], *, per_token: bool) -> int:
    """Place of the candidate with the highest log-probability; the first of several.

    Args:
        log_probs: natural logarithms, at most 0: the sum over each candidate's tokens.
        lengths: tokens of each candidate, at least 1.
        per_token: divide by the length, so that long candidates are not at a disadvantage (as SEED-Bench and the
            "acc_norm" of language-model harnesses do, the latter by characters); else the sum decides.
    """
    scores = [value / length if per_token else value for value, length in zip(log_probs, lengths, strict=True)]
    return max(range(len(scores)), key=scores.__getitem__)
