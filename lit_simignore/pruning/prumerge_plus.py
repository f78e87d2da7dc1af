"""PruMerge+: PruMerge with evenly spread patches added to the outstanding ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_simignore.pruning._outliers import num_outliers
from lit_simignore.pruning.base import evenly_spaced
from lit_simignore.pruning.prumerge import PruMerge
from lit_simignore.types import UserError


@dataclass(kw_only=True)
class PruMergePlus(PruMerge):
    """As :class:`~lit_simignore.pruning.prumerge.PruMerge`, with patches 0, s, 2s, ... staying as well.

    With n outliers of N patches, ``s = int(int(N / n) / 3)``, so that about three times as many patches are added as
    stand out.

    Args:
        num_keep: rows that reach the decoder. The outliers come first (at most all places); what is left of the
            budget is spread evenly over the other patches.
        keep_ratio: the same as a fraction.
        neighbours: as in PruMerge.
        placement: as in PruMerge; ``appended`` puts the added patches behind the outstanding ones, ascending.
        grid_end: patches from this index on are never added; ``None`` for the number of patches.

    Reference:
        Shang et al., arXiv:2403.15388, section not verified; the variant that the released forward pass uses
        (42Shawn/LLaVA-PruMerge at 097c0411, ``token_prune_merge_advanced_plus``).

        Deviations: the release adds patches below a hard-coded 575 whatever the number of patches
        (``preset("released")``), and fails where more than a third are outliers (s is then 1 here). ``num_keep`` is
        this library's; the release has none. Otherwise as in PruMerge.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"released": {"placement": "appended", "positions": "renumber", "grid_end": 575}}
    )

    grid_end: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid_end is not None and self.grid_end < 0:
            raise UserError(f"PruMergePlus.grid_end must be an index >= 0, or none; got {self.grid_end}")

    def _kept(self, attention: Tensor, num_keep: int | None) -> Tensor:
        outliers = num_outliers(attention)
        ranked = torch.argsort(attention, descending=True, stable=True)
        if num_keep is not None:
            top = ranked[: min(outliers, num_keep - 1)]
            others = ranked[top.shape[0] :].sort().values
            spread = evenly_spaced(others.shape[0], num_keep - 1 - top.shape[0])
            return torch.cat([top, others[torch.tensor(spread, dtype=torch.long, device=others.device)]])
        total = attention.shape[0]
        stride = max(1, int(int(1 / (outliers / total)) / 3))
        end = total if self.grid_end is None else min(self.grid_end, total)
        grid = torch.arange(0, end, stride, device=attention.device)
        top = ranked[:outliers]
        return torch.cat([top, grid[~torch.isin(grid, top)]])
