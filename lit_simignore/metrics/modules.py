"""The metrics as ``torchmetrics`` states, for live logging on many devices: sums, a reduction, then pure functions."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_simignore.metrics.hallucination import (
    CaptionObjects,
    ChairCounts,
    YesNoCounts,
    chair_scores,
    count_chair,
    count_yes_no,
    yes_no_scores,
)


class MeanScore(Metric):
    """Mean of the scores of samples that have one; NaN before the first."""

    full_state_update = False
    higher_is_better = True
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Iterable[float | None]) -> None:
        """Add the scores (0 to 1, or ``None``) of a batch."""
        known = [score for score in scores if score is not None]
        self.total += sum(known)
        self.count += len(known)

    def compute(self) -> Tensor:
        """Mean score, a float32 scalar: exact for right-or-wrong scores up to 2**24 samples."""
        return self.total / self.count


class YesNo(Metric):
    """POPE's five numbers; see :func:`~lit_simignore.metrics.hallucination.yes_no_scores`."""

    full_state_update = False
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(len(YesNoCounts._fields), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, pairs: Iterable[tuple[str | None, str]]) -> None:
        """Add ``(parsed, gold)`` pairs of a batch."""
        self.counts += torch.tensor(count_yes_no(pairs), device=self.counts.device)

    def compute(self) -> dict[str, float]:
        """The scores by name."""
        return yes_no_scores(YesNoCounts(*self.counts.tolist()))._asdict()


class Chair(Metric):
    """CHAIR's four numbers; see :func:`~lit_simignore.metrics.hallucination.chair_scores`."""

    full_state_update = False
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(len(ChairCounts._fields), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, captions: Iterable[CaptionObjects]) -> None:
        """Add the captions of a batch."""
        self.counts += torch.tensor(count_chair(captions), device=self.counts.device)

    def compute(self) -> dict[str, float]:
        """The scores by name."""
        return chair_scores(ChairCounts(*self.counts.tolist()))._asdict()
