"""What the Qwen-VL line has in common: any resolution, and rotary positions with time, height and width."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_simignore.pruning.base import Need
from lit_simignore.surgery.families.base import MAX_PIXELS, Family
from lit_simignore.surgery.runs import Run
from lit_simignore.surgery.towers import READS, StreamTower, VisionTower, by_module


class MultiAxisRope(Family):
    """A tower without class token that merges 2 x 2 patches into one visual token, in row-major order."""

    offers: ClassVar[frozenset[Need]] = frozenset({Need.TEXT, Need.GRID})
    tower_offers: ClassVar[frozenset[Need]] = READS
    instead: ClassVar[Mapping[Need, str]] = MappingProxyType({**Family.instead, Need.RESIZED_IMAGE: MAX_PIXELS})
    reusable_beginning: ClassVar[bool] = True

    def vision(self, model: nn.Module) -> VisionTower | None:
        """The tower's last rows, before four of them are merged.

        None where its last layer sees windows only: attention within a window says nothing about the image.
        """
        tower: Any = getattr(model, "model", model).visual
        config = tower.config
        windows = getattr(config, "fullatt_block_indexes", None)
        if windows is not None and len(tower.blocks) - 1 not in windows:
            return None
        merged, merger = config.spatial_merge_size**2, by_module(tower.merger)
        return StreamTower(
            module=tower,
            attention=tower.blocks[-1].attn,
            projector=lambda rows: merger(rows.unflatten(-1, (merged, -1)).flatten(0, 1)),
            grid=(0, 0),
            block=torch.arange(merged)[None],
            order=None if windows is None else _window_order(config),
        )

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

    def select_rows(self, model: nn.Module, rows: Tensor) -> None:
        """The distance between columns and positions behind the images, one per prompt."""
        inner: Any = model.base_model
        if inner.rope_deltas is not None:
            inner.rope_deltas = inner.rope_deltas[rows.to(inner.rope_deltas.device)]


def _window_order(config: Any) -> Callable[[Tensor], Tensor]:
    """Visual tokens in the order in which a tower with windows computes them."""
    from transformers.vision_utils import get_vision_window_index

    facts = {name: getattr(config, name) for name in ("spatial_merge_size", "window_size", "patch_size")}
    return lambda sizes: get_vision_window_index(sizes, **facts)[0]
