"""The control that merges blindly: average pooling of the patch grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from lit_simignore.pruning._cells import counted_cells, owners
from lit_simignore.pruning._merging import membership, merged_selection
from lit_simignore.pruning._vision import VisionPruner
from lit_simignore.pruning.base import Features, Need
from lit_simignore.types import Selection, UserError


@dataclass(kw_only=True)
class Pooling(VisionPruner):
    """Every kept token is the mean of the visual tokens of one cell of a coarser grid; cells share no token.

    For K of R x C tokens, the rows are cut into about ``sqrt(K R / C)`` bands of equal height, and the K cells are
    shared out evenly over the bands, so that any K can be had and cells are near squares. Where K cells form a grid
    that divides R x C this is average pooling with stride = kernel. The mean is taken AFTER the projector, of the
    tokens that the decoder would have seen. A row stands at the middle of its cell.

    Args:
        num_keep: rows that reach the decoder, per sample, shared out over its images.
        keep_ratio: the same as a fraction.

    Reference:
        None: a control, as "pooling" in several comparisons. It shortens as much as any rule without looking at the
        picture or the question; a rule that loses to it is not worth its cost. For a picture that is made smaller
        before it is encoded see :class:`~lit_simignore.pruning.downsampled_image.DownsampledImage`.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRID})

    def choose_image(self, features: Features, num_keep: int | None) -> Selection:
        """Average every cell."""
        assert num_keep is not None
        total = features.visual.shape[0]
        if [rows * columns for rows, columns in features.grids] != [total]:
            raise UserError(
                f"Pooling needs the whole patch grid of every image; got {total} tokens and grids "
                f"{list(features.grids)}: let it run before other pruners"
            )
        rows, columns = features.grids[0]
        cells = counted_cells(rows, columns, num_keep)
        owner = torch.tensor(owners(cells, rows, columns), device=features.visual.device)
        sums = features.visual.new_zeros(num_keep, features.visual.shape[1], dtype=torch.float32)
        sums = sums.index_add(0, owner, features.visual.float())
        means = (sums / torch.bincount(owner, minlength=num_keep).unsqueeze(1)).to(features.visual.dtype)
        slots = torch.tensor([cell.middle(columns) for cell in cells], device=owner.device)
        return merged_selection(slots, means, membership(owner, num_keep).T, "in_place")
