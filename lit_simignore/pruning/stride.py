"""The control that knows nothing and wastes nothing: evenly spaced tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lit_simignore.pruning.base import Features, ScorePruner, evenly_spaced


@dataclass(kw_only=True)
class Stride(ScorePruner):
    """Keep evenly spaced visual tokens of the sequence: a down-sampled image in reading order.

    With ``num_keep`` K of I tokens, token ``floor((i + 1/2) I / K)`` is kept for ``i = 0..K-1``.

    Reference:
        Plain down-sampling beats many learned rules (VTC-Bench, arXiv:2510.07143); no released code is followed.
    """

    def score(self, features: Features) -> Tensor:
        """``(I,)`` float32: 1 for the evenly spaced tokens, 0 for the rest."""
        total = features.visual.shape[0]
        scores = features.visual.new_zeros(total, dtype=features.visual.float().dtype)
        scores[evenly_spaced(total, self.count(scores))] = 1.0
        return scores
