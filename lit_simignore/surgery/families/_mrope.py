"""What the Qwen-VL line has in common: any resolution, and rotary positions with time, height and width."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from lit_simignore.pruning.base import Need
from lit_simignore.surgery.families.base import Family
from lit_simignore.surgery.runs import Run


class MultiAxisRope(Family):
    """A tower without class token that merges 2 x 2 patches into one visual token, in row-major order."""

    offers: ClassVar[frozenset[Need]] = frozenset({Need.TEXT, Need.GRID})

    def grids(self, config: Any, runs: tuple[Run, ...]) -> tuple[tuple[int, int], ...]:
        """Read off the rotary coordinates: ``image_grid_thw`` does not come as far as the forward of ``generate``.

        Empty where the caller gave positions of its own, without height and width.
        """
        grids = []
        for run in runs:
            if not run.rows:
                return ()
            rows, cols = max(run.rows) - min(run.rows) + 1, max(run.cols) - min(run.cols) + 1
            if rows * cols != run.length:
                return ()
            grids.append((rows, cols))
        return tuple(grids)

    def later_positions(self, model: nn.Module, mask: Any, num_new: int) -> Tensor | None:
        """Text positions go on from the largest coordinate of the prompt, which ``rope_deltas`` remembers."""
        deltas = getattr(model.base_model, "rope_deltas", None)
        if deltas is None or not isinstance(mask, Tensor) or mask.ndim != 2:
            return None
        counted = (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -num_new:]
        shifted = counted + deltas.to(counted.device).repeat_interleave(counted.shape[0] // deltas.shape[0], dim=0)
        return shifted[None].expand(3, -1, -1)
