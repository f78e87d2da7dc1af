"""DivPrune: keep the subset of visual tokens whose members are farthest apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_simignore.pruning.base import CountPruner, Features
from lit_simignore.types import Selection

_CHUNK = 1024


@dataclass(kw_only=True)
class DivPrune(CountPruner):
    """Greedy max-min diversity over the projected visual tokens, with the distance ``1 - cos``.

    The first token is the one whose nearest other token is farthest. Then, again and again, the token joins whose
    smallest distance to the chosen ones is largest. The text is not looked at, and all images of a sample compete.

    Args:
        num_keep: visual tokens kept per sample.
        keep_ratio: fraction kept; the count is rounded half to even, as in the release.

    Reference:
        Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", CVPR 2025,
        arXiv:2503.02175; section and equation not verified. Release: vbdi/divprune at 799e2d95 (non-commercial
        licence; only its numbers were used).

        Deviations: chosen tokens are left out of the search, while the release may choose one of several equal tokens
        twice; only rows of the distance matrix are ever held, so memory grows linearly. The release looks at the first
        image alone and closes the positions up (``preset("released")``, ratio 0.098).
    """

    order_free: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"paper": {"keep_ratio": 0.098}, "released": {"keep_ratio": 0.098, "positions": "renumber"}}
    )

    def choose(self, features: Features) -> Selection:
        """Keep a subset whose members are far apart."""
        num_keep = self.count_of(features.visual.shape[0])
        unit = F.normalize(features.visual.detach().float(), dim=-1)
        return Selection(kept=farthest_first(unit, num_keep).sort().values)


def farthest_first(unit: Tensor, num_keep: int) -> Tensor:
    """``(num_keep,)`` int64 indices into the length-1 rows ``unit`` ``(I, D)``, in the order of choice."""
    if num_keep == 0:
        return torch.zeros(0, dtype=torch.long, device=unit.device)
    latest = nearest_other_distance(unit).argmax().view(1)
    chosen, smallest = [latest], torch.full_like(unit[:, 0], torch.inf)
    for _ in range(num_keep - 1):
        to_latest = 1.0 - unit @ unit.index_select(0, latest).squeeze(0)
        smallest = torch.minimum(smallest, to_latest).index_fill(0, latest, -torch.inf)
        latest = smallest.argmax().view(1)
        chosen.append(latest)
    return torch.cat(chosen)


def nearest_other_distance(unit: Tensor) -> Tensor:
    """``(I,)`` distance of every row to its nearest other row; infinite for a single row."""
    parts = []
    for start in range(0, unit.shape[0], _CHUNK):
        distance = 1.0 - unit[start : start + _CHUNK] @ unit.T
        itself = torch.arange(start, start + distance.shape[0], device=unit.device).unsqueeze(1)
        parts.append(distance.scatter(1, itself, torch.inf).amin(dim=1))
    return torch.cat(parts)
