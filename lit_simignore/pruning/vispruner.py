"""VisPruner: half the budget to the most attended patches, half to a diverse rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_simignore.pruning._features import needed
from lit_simignore.pruning._vision import VisionPruner
from lit_simignore.pruning.base import Features, Need, check_ratio
from lit_simignore.types import Selection, UserError


@dataclass(kw_only=True)
class VisPruner(VisionPruner):
    """Important tokens by class-token attention, then the rest thinned out until it is diverse enough.

    All patches are listed by descending mean class-token attention. The first ``int(num_keep * important_ratio)`` stay.
    The remaining list is thinned: split it into even and odd places, rate every even token by its largest cosine to
    an odd one, drop the ``round_size`` best-rated (most redundant) even tokens, and go on with the surviving even
    tokens in descending rating followed by the odd ones, until the rest of the budget is left. Cosines are taken on the
    unprojected features.

    Args:
        num_keep: visual tokens kept per sample, shared out over its images.
        keep_ratio: fraction kept.
        important_ratio: share of the budget that goes by attention, 0 to 1.
        round_size: tokens dropped per round.

    Reference:
        Zhang et al., "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs", ICCV
        2025, arXiv:2412.01818v2; section and equation not verified. Release: Theia-4869/VisPruner at aefa01ad.

        Deviations: the release fails on an odd number of remaining tokens; here the even half is then one longer. The
        release closes the positions up (``preset("released")``). Every round depends on the full order of the one
        before, so on real images two backends whose rounding differs may keep different diverse tokens. In towers
        without a class token the attention is the mean over all patches, merged as the model merges patches, as its
        authors answer (issue 1 of the release); tiles share the budget by size.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.VISION_ATTENTION, Need.VISION_HIDDEN})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"released": {"num_keep": 128, "positions": "renumber"}}
    )

    important_ratio: float = 0.5
    round_size: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio("important_ratio", self.important_ratio)
        if self.round_size < 1:
            raise UserError(f"VisPruner.round_size must be an integer >= 1 (dropped per round); got {self.round_size}")

    def choose_image(self, features: Features, num_keep: int | None) -> Selection:
        """Keep the most attended patches, and the least redundant of the others."""
        assert num_keep is not None
        scores = needed(self, features, "vision_attention").detach().float().mean(dim=0)
        hidden = needed(self, features, "vision_hidden").detach().float()
        ranked = torch.argsort(scores, descending=True, stable=True)
        num_important = int(num_keep * self.important_ratio)
        unit = F.normalize(hidden, dim=-1)
        diverse = thin_out(unit, ranked[num_important:], num_keep - num_important, self.round_size)
        return Selection(kept=torch.cat([ranked[:num_important], diverse]).sort().values, scores=scores)


def thin_out(unit: Tensor, listed: Tensor, num_keep: int, round_size: int) -> Tensor:
    """Drop the most redundant of ``listed`` until ``num_keep`` are left.

    Args:
        unit: ``(I, C)`` rows of length 1.
        listed: indices into ``unit``; their order matters.
        num_keep: length of the result.
        round_size: most tokens dropped at once.

    Returns:
        The surviving indices, in the order of the last round.
    """
    while listed.shape[0] > num_keep:
        even, odd = listed[::2], listed[1::2]
        drop = min(round_size, listed.shape[0] - num_keep, even.shape[0])
        if odd.shape[0]:
            redundancy = (unit[even] @ unit[odd].T).amax(dim=1)
            even = even[torch.argsort(redundancy, descending=True, stable=True)]
        listed = torch.cat([even[drop:], odd])
    return listed
