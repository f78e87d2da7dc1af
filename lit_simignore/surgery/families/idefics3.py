"""Idefics3: an overview of the image, after its tiles if it was large enough to be cut up."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from lit_simignore.pruning.base import Need
from lit_simignore.surgery.families.base import Family
from lit_simignore.surgery.runs import Run, fixed_grids
from lit_simignore.surgery.towers import READS, RESIZES, VisionTower, by_module


class Idefics3(Family):
    """A SigLIP tower (no class token) per tile, pixel shuffle, a causal decoder."""

    model_types: ClassVar[tuple[str, ...]] = ("idefics3",)
    offers: ClassVar[frozenset[Need]] = frozenset({Need.TEXT, Need.GRID})
    tower_offers: ClassVar[frozenset[Need]] = READS | RESIZES
    images_per_row: ClassVar[bool] = True
    reusable_beginning: ClassVar[bool] = True

    def grids(self, config: Any, runs: tuple[Run, ...]) -> tuple[tuple[int, int], ...]:
        """One square per image; empty as soon as an image was cut into tiles, which come one after the other.

        Every tile is announced by a token of its own, and the overview, always the last, by the same one in all
        images: runs announced otherwise are tiles.
        """
        if any(run.before != runs[-1].before for run in runs):
            return ()
        vision = config.vision_config
        side = vision.image_size // vision.patch_size // config.scale_factor
        return fixed_grids(runs, side, side)

    def vision(self, model: nn.Module) -> VisionTower:
        """The tower's last rows, whose order within a visual token is asked of the model's own pixel shuffle."""
        config: Any = model.config
        base: Any = getattr(model, "model", model)
        patches = config.vision_config.image_size // config.vision_config.patch_size
        numbers = torch.arange(patches * patches, dtype=torch.float64).view(1, -1, 1)
        side = patches // config.scale_factor
        return VisionTower(
            module=base.vision_model,
            attention=base.vision_model.encoder.layers[-1].self_attn,
            projector=by_module(base.connector.modality_projection),
            grid=(side, side),
            block=base.connector.pixel_shuffle(numbers, config.scale_factor)[0].long(),
            resize="mask",
        )
