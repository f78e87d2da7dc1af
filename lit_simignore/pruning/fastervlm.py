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
        Zhang et al., "[CLS] Attention is All You Need for Training-Free Visual Token Pruning: Make VLM Inference
        Faster", arXiv:2412.01818v1; section and equation not verified. Release: Theia-4869/FasterVLM at f5d5f120.

        Deviations: the release closes the positions up afterwards (``preset("released")``); the default keeps them. It
        gives every image and tile of a call the same number of tokens; here they share the sample's budget by size. In
        towers without a class token the score is the mean attention from all patches of the picture, and patches that
        make one visual token count together: the authors' answer for VisPruner (Theia-4869/VisPruner, issue 1), not
        tried for FasterVLM.
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
