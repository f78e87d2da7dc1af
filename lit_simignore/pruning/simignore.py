"""Simignore: keep the visual tokens that resemble the text, hide or drop the rest before the first decoder layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_simignore.pruning._similarity import aggregate_pairs, check_choice, check_similarity_fields, pair_similarity
from lit_simignore.pruning.base import (
    Features,
    Need,
    PrefillShape,
    Pruner,
    ScorePruner,
    check_ratio,
    evenly_spaced,
    top_k_ascending,
)
from lit_simignore.types import Selection, UserError


@dataclass(kw_only=True)
class Simignore(ScorePruner):
    """Keep the visual tokens most similar to the text: ``score_i = max_j cos(visual_i, text_j)``.

    Visual tokens are the projector's outputs, text rows the raw input embeddings of the scored text; both live in
    the decoder's input space. Computed in float32, scores are returned in float32.

    Args:
        num_keep: visual tokens kept per sample (the paper's 576 minus "ignored"). More than there are keeps all.
        keep_ratio: fraction kept.
        min_similarity: keep every token whose score reaches this value (cosine: -1 to 1; distances: at most 0).
        similarity_mass: keep the most similar tokens until they hold this share, 0 to 1, of the total similarity,
            counted from the least similar token upwards, so that any measure can be shared out. 1 keeps all.
        similarity: ``cosine``, or minus the ``euclidean`` or ``manhattan`` distance of the raw rows.
        aggregate: how a token's similarities to all text rows become one score: ``max``, ``mean``, or the mean of
            the ``top_m`` highest.
        top_m: pairs averaged under ``aggregate="top_m"``.
        text: which text is compared: ``options``, ``question``, or ``prompt`` (context, question and options;
            never the template, never the answer).
        positions: rotary positions of the kept tokens: ``original`` (gaps stay) or ``renumber`` (closed up).
        apply: ``drop`` shortens the sequence; ``mask`` keeps its length and hides the rest from attention.
        first: index in the descending list of all (token, text) pairs at which the walk begins.
        step: the walk reads every ``step``-th pair and keeps distinct tokens until ``num_keep`` are found or the
            list ends. ``first=0, step=1`` is exactly the top ``num_keep`` by ``max``. Another walk needs a count
            (``num_keep`` or ``keep_ratio``) and ``aggregate="max"``.

    A sample without text rows has no similarity: every token scores 0, a count keeps evenly spaced tokens, and
    ``min_similarity`` keeps all of them.

    Reference:
        Simignore, AAAI 2025, arXiv:2412.09817, Eq. 12-15. The paper's equations keep the image rows of the K best
        *pairs* (fewer than K tokens); its released code, and this class, keep K *distinct* tokens.
        ``preset("paper")`` keeps 452 of 576 ("124 ignored") over the paper's text. ``preset("released-7b")`` and
        ``preset("released-13b")`` are the similarity half of the released runs, which always add FastV: options
        only, walking from the second pair (7B) or over every second one (13B). All three hide tokens from attention
        (``apply="mask"``), as the authors' code does. The 7B code compares with the option texts without their
        letters but with the tokenizer's BOS; here the compared text is what the prompt's spans call options.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.TEXT})
    order_free: ClassVar[bool] = True
    budget_fields: ClassVar[tuple[str, ...]] = ("num_keep", "keep_ratio", "min_similarity", "similarity_mass")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "paper": {"num_keep": 452, "text": "prompt", "apply": "mask"},
            "released-7b": {"num_keep": 452, "text": "options", "apply": "mask", "first": 1, "step": 1},
            "released-13b": {"num_keep": 451, "text": "options", "apply": "mask", "first": 0, "step": 2},
        }
    )

    min_similarity: float | None = None
    similarity_mass: float | None = None
    similarity: str = "cosine"
    aggregate: str = "max"
    top_m: int = 3
    text: str = "prompt"
    apply: str = "drop"
    first: int = 0
    step: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio("similarity_mass", self.similarity_mass)
        if self.min_similarity is not None and not math.isfinite(self.min_similarity):
            raise UserError(f"Simignore.min_similarity must be a finite number; got {self.min_similarity}")
        check_similarity_fields("Simignore", self.similarity, self.aggregate, self.top_m, self.text)
        check_choice("Simignore", "apply", self.apply, ("drop", "mask"))
        self._check_walk()

    def _check_walk(self) -> None:
        if self.first < 0 or self.step < 1:
            raise UserError(
                f"Simignore walks pairs from first >= 0 by step >= 1; got first={self.first}, step={self.step}"
            )
        counted = self.num_keep is not None or self.keep_ratio is not None
        if self._walks and (self.aggregate != "max" or not counted):
            raise UserError(
                f"Simignore with first={self.first}, step={self.step} walks single pairs: it takes num_keep or "
                f"keep_ratio and aggregate='max'; got aggregate={self.aggregate!r}, num_keep={self.num_keep}"
            )

    @property
    def _walks(self) -> bool:
        return self.first != 0 or self.step != 1

    def score(self, features: Features) -> Tensor:
        """``(I,)`` float32 similarity to the text, higher is kept; zeros without text."""
        return aggregate_pairs(self._pairs(features), self.aggregate, self.top_m)

    def count(self, scores: Tensor) -> int:
        """How many of the scored tokens to keep, by whichever of the four budgets is set."""
        if self.min_similarity is not None:
            return int((scores >= self.min_similarity).sum())
        if self.similarity_mass is not None:
            return _mass_count(scores, self.similarity_mass)
        return super().count(scores)

    def choose(self, features: Features) -> Selection:
        """Keep the most similar tokens; evenly spaced ones where there is nothing to compare with."""
        pairs = self._pairs(features)
        scores = aggregate_pairs(pairs, self.aggregate, self.top_m)
        if pairs.shape[1] == 0:
            return Selection(kept=self._without_text(scores), scores=scores)
        if self._walks:
            return Selection(kept=walk_pairs(pairs, self.count(scores), self.first, self.step), scores=scores)
        return Selection(kept=top_k_ascending(scores, self.count(scores)), scores=scores)

    def with_budget(self, definition: str, num_tokens: float, shape: PrefillShape | None = None) -> Pruner:
        """A copy that keeps ``num_tokens``; every definition agrees, because all layers see the same tokens.

        Raises:
            UserError: under ``apply="mask"`` every token is still computed, so no budget can be met.
        """
        if self.apply == "mask":
            raise UserError(
                f"Simignore(apply='mask') computes every visual token, so no {definition} budget of {num_tokens:g} "
                "can be met; use apply='drop'"
            )
        return super().with_budget(definition, num_tokens, shape)

    def count_left(self, num_visual: int) -> int | None:
        """All of them where the others are only hidden."""
        return num_visual if self.apply == "mask" else super().count_left(num_visual)

    def _pairs(self, features: Features) -> Tensor:
        return pair_similarity(features.visual, features.text, self.similarity)

    def _without_text(self, scores: Tensor) -> Tensor:
        total = scores.shape[0]
        num_keep = total if self.min_similarity is not None else self.count(scores)
        return torch.tensor(evenly_spaced(total, num_keep), dtype=torch.long, device=scores.device)


def walk_pairs(pairs: Tensor, num_keep: int, first: int, step: int) -> Tensor:
    """The released selection: distinct tokens met while walking the sorted pairs.

    Args:
        pairs: ``(I, T)`` similarities.
        num_keep: stop after this many distinct tokens (or at the end of the list).
        first: position in the descending list at which the walk begins.
        step: distance between the pairs that are read.

    Returns:
        Ascending int64 indices, at most ``num_keep``.
    """
    order = torch.argsort(pairs.flatten(), descending=True, stable=True)
    visited = order[first::step] // pairs.shape[1]
    never = visited.shape[0]
    first_met = torch.full((pairs.shape[0],), never, dtype=torch.long, device=pairs.device)
    first_met.scatter_reduce_(0, visited, torch.arange(never, device=pairs.device), reduce="amin")
    earliest = torch.argsort(first_met, stable=True)[:num_keep]
    return earliest[first_met[earliest] < never].sort().values


def _mass_count(scores: Tensor, mass: float) -> int:
    """Fewest top tokens that hold ``mass`` of the similarity above the least similar token's."""
    if mass >= 1.0:
        return scores.shape[0]
    weights = scores.sort(descending=True).values.double()
    weights = weights - weights[-1:]
    if not bool(weights.sum() > 0):
        return math.ceil(mass * scores.shape[0])
    share_before = (weights.cumsum(0) - weights) / weights.sum()
    return int((share_before < mass).sum())
