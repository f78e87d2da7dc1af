"""Mean score, over all samples and by question type."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple


class Accuracy(NamedTuple):
    """How many samples have a score, and the mean of it (``None`` when none has)."""

    n: int
    accuracy: float | None


def accuracy(scores: Iterable[float | None]) -> Accuracy:
    """Mean of the scores (each 0 to 1). Samples without a score are left out, not counted as wrong."""
    known = [score for score in scores if score is not None]
    return Accuracy(len(known), math.fsum(known) / len(known) if known else None)


def accuracy_by_kind(scored: Iterable[tuple[str, float | None]]) -> dict[str, Accuracy]:
    """Break ``(kind, score)`` pairs down by kind, sorted by name. Samples without a kind are left out."""
    by_kind: defaultdict[str, list[float | None]] = defaultdict(list)
    for kind, score in scored:
        if kind:
            by_kind[kind].append(score)
    return {kind: accuracy(by_kind[kind]) for kind in sorted(by_kind)}
