"""FasterVLM: keep the patches that the vision tower's class token attends to most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from lit_simignore.pruning._features import needed
from lit_simignore.pruning._vision import VisionPruner
from lit_simignore.pruning.base import Features, Need, top_k_ascending
from lit_simignore.types import Selection


@dataclass(kw_only=True)
class FasterVLM(VisionPruner):
    """``score_i = mean_h A_h[CLS, i]`` in the vision layer that the features come from; the best stay, in order.

    Args:
        num_keep: visual tokens kept per sample, shared out over its images.
        keep_ratio: fraction kept.

    Reference:
        Zhang et al., "[CLS] Attention is All You Need for Training-Free Visual Token Pruning", arXiv:2412.01818v1.
        The release closes the positions up afterwards (``preset("released")``); the default keeps them.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.VISION_ATTENTION})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"released": {"num_keep": 128, "positions": "renumber"}}
    )

    def choose_image(self, features: Features, num_keep: int | None) -> Selection:
        """Keep the most attended patches."""
        assert num_keep is not None
        scores = needed(self, features, "vision_attention").detach().float().mean(dim=0)
        return Selection(kept=top_k_ascending(scores, num_keep), scores=scores)
