"""The control that looks at a smaller picture."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from lit_simignore.pruning._budget import check_budget, require_shape
from lit_simignore.pruning._cells import regular_cells
from lit_simignore.pruning.base import Features, Need, PrefillShape, Pruner, check_ratio
from lit_simignore.types import Selection, UserError


@dataclass(kw_only=True)
class DownsampledImage(Pruner):
    """The vision tower is shown a smaller picture: r x c patches instead of R x C, with ``r / R = c / C``.

    The model's own input picture (after the processor) is resized to r x c patches, bicubic with antialiasing, and the
    tower encodes it at that size with its position embeddings interpolated (bicubic). The decoder gets the tokens of
    the smaller picture and nothing else. Each of them takes the place of the middle token of the cell that it covers
    in the full grid, so that rotary positions span the same range; ``positions="renumber"`` closes them up, and the
    decoder then sees exactly what it would see had the prompt been written for the smaller picture.

    Such a tower was trained at one resolution, so part of what is lost is lost to interpolated positions. Families of
    any resolution (Qwen-VL and others) do not offer this: there a smaller picture is given to the processor.

    Args:
        keep_ratio: visual tokens of the smaller picture as a fraction of all, at most: r and c are whole numbers, so
            576 tokens at 0.25 are 12 x 12, and at 128 / 576 they are 11 x 11 = 121.

    Reference:
        Plain down-sampling beats many learned rules: VTC-Bench, arXiv:2510.07143. There the pictures are made smaller
        for models of any resolution; no released code is followed.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.GRID, Need.RESIZED_IMAGE})
    budget_fields: ClassVar[tuple[str, ...]] = ("keep_ratio",)
    adaptive: ClassVar[bool] = True

    keep_ratio: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio("keep_ratio", self.keep_ratio)

    def smaller_grid(self, rows: int, columns: int) -> tuple[int, int]:
        """Patches of the smaller picture: the largest grid of the same shape with at most ``keep_ratio`` of them.

        Raises:
            UserError: not even one patch is allowed.
        """
        most = math.floor(self.keep_ratio * rows * columns + 1e-6)
        longer = max(rows, columns)
        for side in range(longer, 0, -1):
            height, width = max(1, round(rows * side / longer)), max(1, round(columns * side / longer))
            if height * width <= most:
                return height, width
        raise UserError(
            f"DownsampledImage(keep_ratio={self.keep_ratio:g}) leaves no patch of {rows} x {columns}; "
            f"ask for {1 / (rows * columns):.4g} or more"
        )

    def choose(self, features: Features) -> Selection:
        """One token per patch of the smaller picture. What it holds is the tower's doing."""
        total = features.visual.shape[0]
        if sum(rows * columns for rows, columns in features.grids) != total:
            raise UserError("DownsampledImage needs the patch grid of every image: let it run before other pruners")
        kept: list[int] = []
        sources: list[tuple[int, ...]] = []
        first = 0
        for rows, columns in features.grids:
            for cell in regular_cells(rows, columns, *self.smaller_grid(rows, columns)):
                kept.append(first + cell.middle(columns))
                sources.append(tuple(first + place for place in cell.places(columns)))
            first += rows * columns
        return Selection(kept=torch.tensor(kept, device=features.visual.device), sources=tuple(sources))

    def with_budget(self, definition: str, num_tokens: float, shape: PrefillShape | None = None) -> Pruner:
        """A copy whose picture has at most ``num_tokens`` tokens; the nearest smaller grid is what it spends.

        Raises:
            UserError: less than one token, or no ``shape``: the fraction depends on the number of visual tokens.
        """
        check_budget(definition, num_tokens)
        known = require_shape("DownsampledImage", definition, shape)
        if num_tokens < 1:
            raise UserError(
                f"DownsampledImage spends at least 1 visual token ({definition}); got a budget of {num_tokens:g}"
            )
        return replace(self, keep_ratio=min(1.0, num_tokens / known.num_visual))

