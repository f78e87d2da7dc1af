"""The control that must lose: keep the visual tokens that resemble the text least."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lit_simignore.pruning._ranked import SimilarityRanked
from lit_simignore.pruning.base import Features


@dataclass(kw_only=True)
class LeastSimilar(SimilarityRanked):
    """Keep the visual tokens least similar to the text: Simignore with the sign turned.

    If this control does as well as Simignore, similarity is not what helped. Without text rows every token scores 0
    and evenly spaced ones are kept, as by Simignore.

    Args:
        similarity: as in Simignore.
        aggregate: as in Simignore.
        top_m: as in Simignore.
        text: as in Simignore.

    Reference:
        "Important tokens ignored" in Table 3 of arXiv:2412.09817 (Simignore): 61.73 against 68.02 on ScienceQA-IMG.
        The initial release kept the last K of its ranking; so does this.
    """

    def score(self, features: Features) -> Tensor:
        """``(I,)`` float32 minus the similarity to the text; zeros without text."""
        return -self.similarities(features)
