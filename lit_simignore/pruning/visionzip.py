"""VisionZip: keep the dominant patches, merge all others into a few contextual tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_simignore.pruning._features import needed, needed_projector
from lit_simignore.pruning._merging import PLACEMENTS, membership, merged_selection
from lit_simignore.pruning._similarity import check_choice
from lit_simignore.pruning._vision import VisionPruner
from lit_simignore.pruning.base import Features, Need, check_ratio
from lit_simignore.types import Selection, UserError


@dataclass(kw_only=True)
class VisionZip(VisionPruner):
    """Dominant tokens by class-token attention, plus contextual tokens that each stand for a group of the rest.

    Of ``num_keep`` rows, ``round(num_keep * contextual_share)`` are contextual. Dominant patches are those with the
    largest attention of the class token, summed over heads. Among the R others (reading order) every
    ``floor(R / contextual)``-th one is a target, and each of the remaining goes to the target with the most similar
    key (cosine of the keys' mean over heads). A contextual token is the target plus the MEAN of the tokens that went
    to it, taken before the projector.

    Args:
        num_keep: rows that reach the decoder, per sample, shared out over its images.
        keep_ratio: the same as a fraction.
        contextual_share: contextual rows as a fraction of all; 10 of 64 in the release.
        include_cls: spend one dominant row on the class token itself, as the release does. It is no patch: its row
            takes the place of the most attended merged patch.
        placement: ``in_place`` leaves every row where its token stood; ``appended`` is the release's order: class
            token, dominant patches, contextual tokens.

    Reference:
        Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models", CVPR 2025,
        arXiv:2412.04467; section and equation not verified. Release: dvlab-research/VisionZip at 3151f6df; attention,
        keys and features are of one vision layer there and here.

        Deviations of the default: no class token, rows in reading order with their own positions (the release appends
        the contextual ones and closes positions up). ``preset("released")`` has all three, with the 54 + 10 rows of
        its documentation; it needs a class token. The release runs the whole tower with eager attention, and merges
        into targets of the one image of a call; here every image, and every tile that the tower encodes by itself, has
        its share. In towers without a class token the attention is the mean over all patches of the picture, which the
        authors of VisPruner name as VisionZip's way too (Theia-4869/VisPruner, issue 1); where several patches make
        one visual token, they count together, as the same thread says.
    """

    needs: ClassVar[frozenset[Need]] = frozenset(
        {Need.VISION_ATTENTION, Need.VISION_KEYS, Need.VISION_HIDDEN, Need.PROJECTOR}
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"released": {"num_keep": 64, "include_cls": True, "placement": "appended", "positions": "renumber"}}
    )

    contextual_share: float = 10 / 64
    include_cls: bool = False
    placement: str = "in_place"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio("contextual_share", self.contextual_share)
        check_choice("VisionZip", "placement", self.placement, PLACEMENTS)

    def choose_image(self, features: Features, num_keep: int | None) -> Selection:
        """Keep the most attended patches and merge the others into contextual tokens."""
        assert num_keep is not None
        scores = needed(self, features, "vision_attention").detach().float().sum(dim=0)
        num_contextual = round(num_keep * self.contextual_share)
        with_cls = self.include_cls and num_keep > num_contextual
        ranked = torch.argsort(scores, descending=True, stable=True)
        num_dominant = num_keep - num_contextual - with_cls
        dominant, rest = ranked[:num_dominant].sort().values, ranked[num_dominant:].sort().values
        if num_contextual == 0 and not with_cls:
            return Selection(kept=dominant, scores=scores)
        targets, merged = _split_evenly(rest, num_contextual)
        contextual, carries = self._merge(features, targets, merged)
        slots = [dominant, targets]
        rows = [features.visual[dominant], contextual]
        carried = [membership(dominant, len(ranked)), carries]
        if with_cls:
            slots.insert(0, merged[scores[merged].argmax()].view(1))
            rows.insert(0, needed_projector(self, features)(self._class_row(features)))
            carried.insert(0, torch.zeros_like(carries[:1]) if num_contextual else carried[0].new_zeros(1, len(ranked)))
        return merged_selection(torch.cat(slots), torch.cat(rows), torch.cat(carried), self.placement, scores)

    def _class_row(self, features: Features) -> Tensor:
        if features.vision_cls_hidden is None:
            raise UserError(
                "VisionZip(include_cls=True) hands on the class token, and this vision tower has none that its "
                "projector takes: use include_cls=False"
            )
        return features.vision_cls_hidden

    def _merge(self, features: Features, targets: Tensor, merged: Tensor) -> tuple[Tensor, Tensor]:
        """``(C, D)`` projected contextual tokens, and which patches ``(C, I)`` each of them carries."""
        hidden = needed(self, features, "vision_hidden")
        carries = membership(targets, hidden.shape[0])
        if targets.shape[0] == 0:
            return features.visual[:0], carries
        metric = F.normalize(needed(self, features, "vision_keys").detach().float().mean(dim=0), dim=-1)
        goes_to = (metric[merged] @ metric[targets].T).argmax(dim=1)
        carries = carries.index_put((goes_to, merged), torch.ones_like(merged, dtype=torch.bool))
        sums = hidden.new_zeros(len(targets), hidden.shape[1], dtype=torch.float32)
        sums = sums.index_add(0, goes_to, hidden[merged].float())
        counts = torch.bincount(goes_to, minlength=len(targets)).clamp_min(1).unsqueeze(1)
        rows = hidden[targets].float() + sums / counts
        return needed_projector(self, features)(rows.to(hidden.dtype)), carries


def _split_evenly(rest: Tensor, num_targets: int) -> tuple[Tensor, Tensor]:
    """Every ``floor(R / num_targets)``-th entry of ``rest`` ``(R,)``, and the others."""
    step = max(1, rest.shape[0] // num_targets) if num_targets else 1
    is_target = torch.zeros_like(rest, dtype=torch.bool)
    is_target[: step * num_targets : step] = True
    return rest[is_target], rest[~is_target]
