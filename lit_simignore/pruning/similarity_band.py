"""Simignore's third question: what if neither the most nor the least similar visual tokens are ignored, but a band?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_simignore.pruning._ranked import SimilarityRanked
from lit_simignore.pruning._similarity import check_choice
from lit_simignore.pruning.base import Features


@dataclass(kw_only=True)
class SimilarityBand(SimilarityRanked):
    """Rank visual tokens by their similarity to the text and ignore the middle of the ranking, or both of its ends.

    With ``n`` tokens ignored of ``I``, ``ignore="middle"`` drops the ``n`` ranks around the median; ``ignore="ends"``
    drops the ``floor(n / 2)`` most similar and the ``ceil(n / 2)`` least similar ones. Where a count is odd, the more
    similar side keeps one token more. Without text rows evenly spaced tokens are kept, as by Simignore.

    Args:
        ignore: ``middle`` or ``ends``.
        similarity: as in Simignore.
        aggregate: as in Simignore.
        top_m: as in Simignore.
        text: as in Simignore.

    Reference:
        "Intermediate tokens ignored" in Table 3 of arXiv:2412.09817 (Simignore): 64.55 against 68.02 on ScienceQA-IMG.
        The paper's words mean ``middle``. The only code that was public for it (the repository's first commit) keeps
        ranks 62 to 513 of 576, which is ``ends``: it ignores the 62 most and the 62 least similar tokens.
    """

    ignore: str = "middle"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("SimilarityBand", "ignore", self.ignore, ("middle", "ends"))

    def score(self, features: Features) -> Tensor:
        """``(I,)`` float32 distance of a token's rank from the median, or minus that; zeros without text.

        Half a rank on the more similar side decides between the two tokens that are equally far.
        """
        similarity = self.similarities(features)
        if features.text.shape[0] == 0:
            return similarity
        rank = torch.argsort(torch.argsort(similarity, descending=True, stable=True))
        offset = (2 * rank - (len(rank) - 1)).float()
        away = offset.abs() if self.ignore == "middle" else -offset.abs()
        return away + 0.5 * (offset < 0)
