"""InternVL (2.5 and later, in the Hugging Face port): square tiles, and a thumbnail where there are several."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from lit_simignore.pruning.base import Need
from lit_simignore.surgery.families.base import Family
from lit_simignore.surgery.runs import Run
from lit_simignore.surgery.towers import READS, RESIZES, VisionTower, by_module


class InternVL(Family):
    """A tower with a class token whose patches are merged four to one by pixel shuffle.

    What the tower pays to a visual token is what it pays to its four patches together; keys and rows of the four stand
    side by side, as in the projector. Tiles, and the thumbnail behind them, are looked at one by one. FasterVLM was
    found to lose to random tokens on InternVL2 by users of its release (Theia-4869/FasterVLM, issue 4).
    """

    model_types: ClassVar[tuple[str, ...]] = ("internvl",)
    processor: ClassVar[str] = "ImagesOnlyInternVL"
    offers: ClassVar[frozenset[Need]] = frozenset({Need.TEXT, Need.GRID})
    tower_offers: ClassVar[frozenset[Need]] = READS | RESIZES
    reusable_beginning: ClassVar[bool] = True

    def grids(self, config: Any, runs: tuple[Run, ...]) -> tuple[tuple[int, int], ...]:
        """One square per image, told apart by the tokens around it; empty as soon as an image was cut into tiles.

        Tiles come one after the other, followed by the thumbnail: together they are no row-major grid.
        """
        rows, cols = _tokens(config)
        return ((rows, cols),) * len(runs) if all(run.length == rows * cols for run in runs) else ()

    def vision(self, model: nn.Module) -> VisionTower | None:
        """One layer's patches, whose order within a visual token is asked of the model's own pixel shuffle."""
        config: Any = model.config
        base: Any = getattr(model, "model", model)
        layers, chosen = base.vision_tower.encoder.layer, config.vision_feature_layer
        if config.vision_feature_select_strategy != "default" or not isinstance(chosen, int):
            return None
        made_by = (chosen if chosen >= 0 else len(layers) + 1 + chosen) - 1
        rows, cols = _tokens(config)
        merged = round(1 / config.downsample_ratio)
        numbers = torch.arange(rows * cols * merged**2, dtype=torch.float64).view(1, rows * merged, cols * merged, 1)
        shuffled = base.pixel_shuffle(numbers, scale_factor=config.downsample_ratio)
        return VisionTower(
            module=base.vision_tower,
            attention=layers[made_by].attention,
            projector=by_module(base.multi_modal_projector),
            grid=(rows, cols),
            block=shuffled.reshape(rows * cols, merged**2).long(),
            feature_layer=None if chosen == -1 else chosen,
            class_token=True,
            resize="itself",
        )


def _tokens(config: Any) -> tuple[int, int]:
    """Rows and columns of visual tokens per tile."""
    vision = config.vision_config
    rows, cols = (
        int(size // patch * config.downsample_ratio)
        for size, patch in zip(vision.image_size, vision.patch_size, strict=True)
    )
    return rows, cols
