"""PyramidDrop: drop a share of the visual tokens at several depths, by the attention of the last prompt token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from lit_simignore.pruning._features import needed
from lit_simignore.pruning._layerwise import LayerStage, LayerwisePruner
from lit_simignore.pruning.base import Features, Need, top_k_ascending
from lit_simignore.types import Selection


@dataclass(kw_only=True)
class PyramidDrop(LayerwisePruner):
    """Before each of ``layers``, keep the tokens with the highest ``score_i = mean_h A_h[q, i]``.

    Unlike FastV, ``A`` is the attention that the layer of the stage ITSELF would pay: its input norm, projections and
    rotation on the hidden states that enter it, softmax over all positions. ``q`` is the last prompt token (in
    training: the last one before the answer). The count is ``int(original count * keep_ratio)``, truncated.

    Args:
        layers: 0-based layers before which tokens are dropped. "After 8 layers" in the paper is 8 here.
        num_keep: visual tokens kept at each layer.
        keep_ratio: the same as fractions of the original number; half, a quarter, an eighth by default.

    Reference:
        Xing et al., "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy
        Reduction", CVPR 2025, arXiv:2410.17247; section and equation not verified. Release: Cooperx521/PyramidDrop at
        6444f304.

        Deviations: the release closes the positions up after every drop (``preset("released")``); the default keeps
        them, so that keys cached by earlier layers and decoding go on with one numbering. In the release eager
        attention fails at the first drop and so do grouped key-value heads, and masks of batches of several prompts
        have the undropped length; all three work here. Its training path drops labels with their tokens; here labels
        keep their columns.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.OWN_ATTENTION})
    default_ratio: ClassVar[tuple[float, ...]] = (0.5, 0.25, 0.125)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"paper": {"keep_ratio": default_ratio}, "released": {"keep_ratio": default_ratio, "positions": "renumber"}}
    )

    layers: Sequence[int] = (8, 16, 24)

    def stage_at(self, layer: int, budget: dict[str, Any]) -> LayerStage:
        """The drop before ``layer``."""
        return _PyramidStage(layer_idx=layer, positions=self.positions, **budget)


@dataclass(kw_only=True)
class _PyramidStage(LayerStage):
    needs: ClassVar[frozenset[Need]] = PyramidDrop.needs

    def count_of(self, total: int) -> int:
        return int(total * self.keep_ratio) if self.keep_ratio is not None else super().count_of(total)

    def choose(self, features: Features) -> Selection:
        scores = needed(self, features, "own_attention").detach().float().mean(dim=0)
        return Selection(kept=top_k_ascending(scores, self.count_in(features)), scores=scores)
