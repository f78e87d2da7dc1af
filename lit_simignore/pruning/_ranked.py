"""What controls share that rank visual tokens by their similarity to the text, as Simignore does, and keep others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lit_simignore.pruning._similarity import aggregate_pairs, check_similarity_fields, pair_similarity
from lit_simignore.pruning.base import Features, Need, ScorePruner, evenly_spaced
from lit_simignore.types import Selection


@dataclass(kw_only=True)
class SimilarityRanked(ScorePruner):
    """A rule whose score is made of the similarity to the text.

    Args:
        similarity: as in Simignore.
        aggregate: as in Simignore.
        top_m: as in Simignore.
        text: as in Simignore.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.TEXT})
    order_free: ClassVar[bool] = True

    similarity: str = "cosine"
    aggregate: str = "max"
    top_m: int = 3
    text: str = "prompt"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_similarity_fields(type(self).__name__, self.similarity, self.aggregate, self.top_m, self.text)

    def similarities(self, features: Features) -> Tensor:
        """``(I,)`` float32, higher is more similar; zeros without text."""
        return aggregate_pairs(
            pair_similarity(features.visual, features.text, self.similarity), self.aggregate, self.top_m
        )

    def choose(self, features: Features) -> Selection:
        """Keep the highest scores; evenly spaced tokens where there is nothing to compare with."""
        if features.text.shape[0]:
            return super().choose(features)
        scores = self.score(features)
        kept = evenly_spaced(scores.shape[0], self.count(scores))
        return Selection(kept=torch.tensor(kept, dtype=torch.long, device=scores.device), scores=scores)
