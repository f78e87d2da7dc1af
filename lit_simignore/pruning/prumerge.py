"""PruMerge: keep the patches whose class-token attention stands out, and merge their neighbours into them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_simignore.pruning._features import needed, needed_projector
from lit_simignore.pruning._merging import PLACEMENTS
from lit_simignore.pruning._outliers import cls_attention, merge_neighbours, num_outliers
from lit_simignore.pruning._similarity import check_choice
from lit_simignore.pruning._vision import VisionPruner
from lit_simignore.pruning.base import Features, Need
from lit_simignore.types import Selection, UserError


@dataclass(kw_only=True)
class PruMerge(VisionPruner):
    """Adaptive count: every patch whose attention is an outlier stays; the others are merged into those that stay.

    Attention ``a = softmax(q_CLS k^T / sqrt(C))`` over class token and patches, of the vision tower's LAST layer, as
    one head of full width. Outliers are patches with ``a_i > Q3 + 1.5 (Q3 - Q1)``. Every kept token i becomes
    ``x_i + sum_j a_j x_j`` over the ``neighbours`` patches j whose keys are most cosine-similar to its own (kept ones
    included; weights not normalised), and one further row is ``sum_j a_j x_j`` over all patches that did not stay.
    Rows are merged before the projector.

    Args:
        num_keep: rows that reach the decoder, the further one included; without a budget the outliers decide.
        keep_ratio: the same as a fraction.
        neighbours: patches merged into every kept one; at most all others.
        placement: ``in_place`` leaves every row where its token stood, the further row standing at the most attended
            patch that did not stay; ``appended`` is the release's order: by falling attention, the further row last.

    Reference:
        Shang et al., "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models",
        arXiv:2403.15388; section and equation not verified. Release: 42Shawn/LLaVA-PruMerge at 097c0411,
        ``token_prune_merge_advanced``.

        Deviations: the release fails without any outlier and below 33 patches, pools the threshold over the batch, and
        feeds rows in order of attention with positions closed up (``preset("released")`` has that order). A fixed
        ``num_keep`` takes the best instead of the outliers; the release's own branches for fixed counts are not
        followed. Tiles that the tower encodes by themselves are pruned by themselves. No substitute of its authors for
        the class token is known, so towers without one are refused.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.VISION_LAST_QK, Need.VISION_HIDDEN, Need.PROJECTOR})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"released": {"placement": "appended", "positions": "renumber"}}
    )
    adaptive: ClassVar[bool] = True

    neighbours: int = 32
    placement: str = "in_place"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("PruMerge", "placement", self.placement, PLACEMENTS)
        if self.neighbours < 0:
            raise UserError(f"PruMerge.neighbours must be an integer >= 0 (patches merged); got {self.neighbours}")

    def choose_image(self, features: Features, num_keep: int | None) -> Selection:
        """Keep what stands out, or ``num_keep - 1`` patches, and merge the others into them and one further row."""
        attention = cls_attention(self, features)
        kept = self._kept(attention, num_keep)
        if kept.shape[0] >= attention.shape[0]:
            return Selection(kept=torch.arange(attention.shape[0], device=attention.device), scores=attention)
        return merge_neighbours(
            kept=kept,
            attention=attention,
            keys=needed(self, features, "vision_last_keys"),
            hidden=needed(self, features, "vision_hidden"),
            project=needed_projector(self, features),
            neighbours=self.neighbours,
            placement=self.placement,
        )

    def _kept(self, attention: Tensor, num_keep: int | None) -> Tensor:
        """Patches that stay, in the release's order."""
        count = num_outliers(attention) if num_keep is None else num_keep - 1
        return torch.argsort(attention, descending=True, stable=True)[:count]
