"""SparseVLM: at several depths, keep what the relevant words attend to and merge part of the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_simignore.pruning import _clusters
from lit_simignore.pruning._features import TEXT_ROWS, needed
from lit_simignore.pruning._layerwise import LayerStage, LayerwisePruner
from lit_simignore.pruning._merging import PLACEMENTS, membership, merged_selection
from lit_simignore.pruning._raters import rater_weights
from lit_simignore.pruning._similarity import check_choice
from lit_simignore.pruning.base import Features, Need, check_ratio, top_k_ascending
from lit_simignore.types import Selection, UserError

_RELEASED = MappingProxyType({"placement": "appended", "positions": "renumber", "noise": True})


@dataclass(kw_only=True)
class SparseVLM(LayerwisePruner):
    """Before each of ``layers``: score, keep, and recycle.

    Raters are the text tokens whose share of ``softmax_text(visual . text)``, on the rows that entered the decoder and
    averaged over all visual tokens, lies above the mean. The score of a visual token is its attention from the raters
    in the layer before, averaged over heads and raters. Of the p tokens dropped, the best
    ``c = int(recycle_ratio * p) + 1`` are clustered (density peaks) into ``int(c / tokens_per_cluster) + 1`` groups of
    hidden states, and every group's ``sum / (count + 1e-6)`` becomes a token that competes again at the next stage.

    Args:
        layers: 0-based layers before which tokens are dropped. The release drops AFTER layers 2, 6, 15: 3, 7, 16 here.
        num_keep: visual tokens kept at each layer; merged tokens come on top.
        keep_ratio: the same as fractions of the original number; the release's 300, 200, 110 of 576 by default.
        merge: make merged tokens at all.
        recycle_ratio: fraction of the dropped tokens that is merged.
        tokens_per_cluster: see the formula.
        placement: ``in_place`` leaves a merged token where the centre of its group stood; ``appended`` puts all of them
            behind the kept ones, as the release does.
        noise: break ties of density by random numbers (from the sample's key) instead of by order.
        text: which text rows can be raters: ``after_image`` is every token behind the last visual token;
            ``prompt``, ``question`` and ``options`` go by the prompt's spans.

    Reference:
        Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference", ICML
        2025, arXiv:2410.04417; section and equation not verified. Release: Gumpest/SparseVLMs at 26a5f488, version 1,
        its default.

        Deviations of the default: merged tokens in reading order with positions of their own, and deterministic ties
        of density (the release adds ``1e-6`` of a random number; ``preset("released")`` draws it from the sample's
        key). Where no more tokens reach a stage than it keeps, all stay; the release drops one even then, and no
        preset does. The release fixes the layers for 32-layer decoders, needs SDPA, ``use_cache`` and batch size 1,
        and at decoding takes each layer's cache length for the position. ``preset("released-192")``, ``-128`` and
        ``-64`` name its budgets by their mean over layers; ``preset("released")`` is the first.
    """

    needs: ClassVar[frozenset[Need]] = frozenset(
        {Need.TEXT, Need.TEXT_ATTENTION, Need.INPUT_EMBEDDINGS, Need.LAYER_HIDDEN}
    )
    default_ratio: ClassVar[tuple[float, ...]] = (300 / 576, 200 / 576, 110 / 576)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "released": {"num_keep": (300, 200, 110), **_RELEASED},
            "released-192": {"num_keep": (300, 200, 110), **_RELEASED},
            "released-128": {"num_keep": (303, 110, 36), **_RELEASED},
            "released-64": {"num_keep": (66, 30, 17), **_RELEASED},
        }
    )

    layers: Sequence[int] = (3, 7, 16)
    merge: bool = True
    recycle_ratio: float = 0.3
    tokens_per_cluster: int = 10
    placement: str = "in_place"
    noise: bool = False
    text: str = "after_image"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("SparseVLM", "text", self.text, TEXT_ROWS)
        check_ratio("recycle_ratio", self.recycle_ratio)
        check_choice("SparseVLM", "placement", self.placement, PLACEMENTS)
        if self.tokens_per_cluster < 1:
            raise UserError(f"SparseVLM.tokens_per_cluster must be an integer >= 1; got {self.tokens_per_cluster}")

    @property
    def adds_tokens(self) -> bool:
        """Merged tokens come on top of the kept ones."""
        return self.merge

    def stage_at(self, layer: int, budget: dict[str, Any]) -> LayerStage:
        """The drop before ``layer``."""
        return _SparseStage(layer_idx=layer, method=self, positions=self.positions, text=self.text, **budget)


@dataclass(kw_only=True)
class _SparseStage(LayerStage):
    needs: ClassVar[frozenset[Need]] = SparseVLM.needs

    method: SparseVLM
    text: str

    def survivors(self, current: int, num_input: int) -> int:
        kept = super().survivors(current, num_input)
        return kept + self._num_merged(current - kept)[1]

    def choose(self, features: Features) -> Selection:
        attention = needed(self, features, "text_attention").detach().float().mean(dim=0)
        scores = rater_weights(self, features) @ attention
        num_keep = self.count_in(features)
        kept = top_k_ascending(scores, num_keep)
        num_candidates, num_merged = self._num_merged(scores.shape[0] - num_keep)
        if num_merged == 0:
            return Selection(kept=kept, scores=scores)
        candidates = torch.argsort(scores, descending=True, stable=True)[num_keep : num_keep + num_candidates]
        centres, merged, carries = self._cluster(features, candidates, num_merged)
        return merged_selection(
            torch.cat([kept, centres]),
            torch.cat([features.visual[kept], merged]),
            torch.cat([membership(kept, scores.shape[0]), carries]),
            self.method.placement,
            scores,
        )

    def _num_merged(self, num_dropped: int) -> tuple[int, int]:
        """How many dropped tokens are merged, and into how many."""
        if num_dropped == 0 or not self.method.merge:
            return 0, 0
        candidates = min(num_dropped, int(num_dropped * self.method.recycle_ratio) + 1)
        return candidates, min(candidates, candidates // self.method.tokens_per_cluster + 1)

    def _cluster(self, features: Features, candidates: Tensor, num_merged: int) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens at the centres ``(m,)``, the merged rows ``(m, D)`` and what each of them carries ``(m, I)``."""
        hidden = features.visual[candidates]
        noise = None
        if self.method.noise:
            noise = _clusters.tie_noise(features.key, self.layer_idx, len(candidates)).to(hidden.device)
        centres, cluster = _clusters.density_peaks(hidden.detach().float(), num_merged, noise)
        sums = hidden.new_zeros(num_merged, hidden.shape[1], dtype=torch.float32).index_add(0, cluster, hidden.float())
        counts = torch.bincount(cluster, minlength=num_merged).unsqueeze(1)
        carries = torch.zeros(num_merged, features.visual.shape[0], dtype=torch.bool, device=hidden.device)
        carries = carries.index_put((cluster, candidates), torch.ones_like(candidates, dtype=torch.bool))
        return candidates[centres], (sums / (counts + 1e-6)).to(hidden.dtype), carries
