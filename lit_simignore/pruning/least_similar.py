"""The control that must lose: keep the visual tokens that resemble the text least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lit_simignore.pruning._similarity import aggregate_pairs, check_similarity_fields, pair_similarity
from lit_simignore.pruning.base import Features, Need, ScorePruner, evenly_spaced
from lit_simignore.types import Selection


@dataclass(kw_only=True)
class LeastSimilar(ScorePruner):
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

    needs: ClassVar[frozenset[Need]] = frozenset({Need.TEXT})
    order_free: ClassVar[bool] = True

    similarity: str = "cosine"
    aggregate: str = "max"
    top_m: int = 3
    text: str = "prompt"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_similarity_fields("LeastSimilar", self.similarity, self.aggregate, self.top_m, self.text)

    def score(self, features: Features) -> Tensor:
        """``(I,)`` float32 minus the similarity to the text; zeros without text."""
        pairs = pair_similarity(features.visual, features.text, self.similarity)
        return -aggregate_pairs(pairs, self.aggregate, self.top_m)

    def choose(self, features: Features) -> Selection:
        """Keep the least similar tokens; evenly spaced ones where there is nothing to compare with."""
        if features.text.shape[0]:
            return super().choose(features)
        scores = self.score(features)
        kept = evenly_spaced(scores.shape[0], self.count(scores))
        return Selection(kept=torch.tensor(kept, dtype=torch.long, device=scores.device), scores=scores)
