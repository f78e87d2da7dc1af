"""SparseVLM+: SparseVLM's second version, with positional bias divided out and nothing merged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_simignore.pruning._features import TEXT_ROWS, needed
from lit_simignore.pruning._layerwise import LayerStage, LayerwisePruner
from lit_simignore.pruning._raters import rater_weights
from lit_simignore.pruning._similarity import check_choice
from lit_simignore.pruning.base import Features, Need, top_k_ascending
from lit_simignore.types import Selection, UserError


@dataclass(kw_only=True)
class SparseVLMPlus(LayerwisePruner):
    """Before each of ``layers``, keep what the raters attend to beyond what their distance explains.

    Raters as in :class:`~lit_simignore.pruning.sparsevlm.SparseVLM`. The attention probabilities of the layer before
    are DIVIDED by a prior: the logits ``q . k / sqrt(d)`` that all-ones queries and keys get from rotary positions
    alone, without softmax. The ``num_heads`` heads with the largest sum over raters and visual tokens count; the score
    is the mean over them and over the raters. Nothing is merged, positions are kept.

    Args:
        layers: 0-based layers before which tokens are dropped. The release drops AFTER layers 2, 6, 15: 3, 7, 16 here.
        num_keep: visual tokens kept at each layer.
        keep_ratio: the same as fractions of the original number; the release's 300, 200, 118 of 576 by default.
        num_heads: heads that count; more than there are counts all (the release fails there).
        text: which text rows can be raters: ``after_image`` is every token behind the last visual token;
            ``prompt``, ``question`` and ``options`` go by the prompt's spans.

    Reference:
        Version 2 of the release of SparseVLM (Gumpest/SparseVLMs at 26a5f488; arXiv:2410.04417, whose paper does not
        describe it, so there is no section). ``preset("released-192")``, ``-128``, ``-96`` and ``-64`` are its
        budgets.

        Deviations: a decoder of fewer than ``num_heads`` heads uses all of them (the release fails); where no more
        tokens reach a stage than it keeps, all stay (the release drops one). As in the release, nothing guards a prior
        that crosses zero; with the usual 128 dimensions per head it stays positive over image distances.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.TEXT, Need.TEXT_ATTENTION, Need.INPUT_EMBEDDINGS, Need.ROPE})
    default_ratio: ClassVar[tuple[float, ...]] = (300 / 576, 200 / 576, 118 / 576)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "released": {"num_keep": (300, 200, 118)},
            "released-192": {"num_keep": (300, 200, 118)},
            "released-128": {"num_keep": (238, 108, 60)},
            "released-96": {"num_keep": (246, 54, 28)},
            "released-64": {"num_keep": (66, 34, 20)},
        }
    )

    layers: Sequence[int] = (3, 7, 16)
    num_heads: int = 14
    text: str = "after_image"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("SparseVLMPlus", "text", self.text, TEXT_ROWS)
        if self.num_heads < 1:
            raise UserError(f"SparseVLMPlus.num_heads must be an integer >= 1 (heads that count); got {self.num_heads}")

    def stage_at(self, layer: int, budget: dict[str, Any]) -> LayerStage:
        """The drop before ``layer``."""
        return _SparsePlusStage(
            layer_idx=layer, num_heads=self.num_heads, positions=self.positions, text=self.text, **budget
        )


@dataclass(kw_only=True)
class _SparsePlusStage(LayerStage):
    needs: ClassVar[frozenset[Need]] = SparseVLMPlus.needs

    num_heads: int
    text: str

    def choose(self, features: Features) -> Selection:
        prior = rope_prior(needed(self, features, "text_rope"), needed(self, features, "visual_rope"))
        attention = needed(self, features, "text_attention").detach().float() / prior
        by_head = torch.einsum("t,hti->hi", rater_weights(self, features), attention)
        heads = torch.argsort(by_head.sum(dim=1), descending=True, stable=True)[: self.num_heads]
        scores = by_head[heads].mean(dim=0)
        return Selection(kept=top_k_ascending(scores, self.count_in(features)), scores=scores)


def rope_prior(query_rope: Tensor, key_rope: Tensor) -> Tensor:
    """``(T, I)`` logits of all-ones queries and keys under rotary positions.

    Args:
        query_rope: ``(2, T, d)`` cosine and sine, halves rotated against each other as in Llama.
        key_rope: ``(2, I, d)`` the same for the keys.
    """
    return _rotated_ones(query_rope) @ _rotated_ones(key_rope).T / math.sqrt(query_rope.shape[-1])


def _rotated_ones(rope: Tensor) -> Tensor:
    cosine, sine = rope.detach().float()
    signs = cosine.new_ones(cosine.shape[-1])
    signs[: len(signs) // 2] = -1.0
    return cosine + signs * sine
