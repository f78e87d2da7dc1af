"""FastV: inside the decoder, keep the visual tokens that the last prompt token attends to most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from lit_simignore.pruning._features import needed
from lit_simignore.pruning._similarity import check_choice
from lit_simignore.pruning.base import Features, Need, ScorePruner


@dataclass(kw_only=True)
class FastV(ScorePruner):
    """Before layer ``layer_idx``, keep the tokens with the highest ``score_i = mean_h A_h[q, i]``.

    ``A_h`` are the attention probabilities of head h in layer ``layer_idx - 1``, ``q`` is the last prompt token. Layers
    before ``layer_idx`` see every visual token; the kept ones stay in order and keep their positions. Nothing is scored
    again while decoding.

    Args:
        layer_idx: 0-based first layer that sees fewer tokens; the paper's K.
        num_keep: visual tokens kept.
        keep_ratio: fraction kept: 1 - R in the paper's terms.
        hidden: what becomes of tokens that an earlier part only hid (``apply="mask"``): they ``stay`` out of sight and
            are dropped here, or they ``return``: they compete, with the attention of 0 that they were paid, and those
            that are kept are seen again from here on. Only the first drop inside the decoder can bring them back.

    Reference:
        Chen et al., "An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large
        Vision-Language Models", ECCV 2024, arXiv:2403.06764; section and equation not verified. Release:
        pkunlp-icler/FastV at d165972; it also keeps ``round(N (1 - R))``. ``preset("paper")`` is K=2, R=50%.

        Deviations: the release reads ``output_attentions`` of an eager layer, takes one unpadded image at a hard-coded
        place, and in its path with a cache runs the scoring layer twice; its rule for training hides tokens instead of
        dropping them. Here one row of attention is computed beside the layer's own kernel, for any batch.
        ``hidden="return"`` is FastV in the released Simignore run (arXiv:2412.09817), which forgets the mask. That its
        span begins one token late there, so that the first visual token always stays and the first text token
        competes, is not followed.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.QUERY_ATTENTION})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"paper": {"layer_idx": 2, "keep_ratio": 0.5}, "released": {"layer_idx": 2, "keep_ratio": 0.5}}
    )

    layer_idx: int = 2
    hidden: str = "stay"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("FastV", "hidden", self.hidden, ("stay", "return"))

    def score(self, features: Features) -> Tensor:
        """``(I,)`` float32: mean over heads of the last prompt token's attention, 0 to 1."""
        return needed(self, features, "query_attention").detach().float().mean(dim=0)
