"""LLaVA-NeXT (1.6): an overview of the image and its tiles at higher resolution, one newline token per row of them."""

from __future__ import annotations

from typing import Any, ClassVar

from lit_simignore.pruning.base import Need
from lit_simignore.surgery.families.base import Family
from lit_simignore.surgery.runs import Run


class LlavaNext(Family):
    """A CLIP-like tower per tile, a projector, a causal decoder.

    The class token attends within its own tile and padding is cut out of the stitched tiles, so no attention of the
    vision tower lines up with the visual tokens: only text is offered.
    """

    model_types: ClassVar[tuple[str, ...]] = ("llava_next",)
    offers: ClassVar[frozenset[Need]] = frozenset({Need.TEXT})

    def grids(self, config: Any, runs: tuple[Run, ...]) -> tuple[tuple[int, int], ...]:
        """Always empty: an image's tokens are two grids, one of them with a column of newline tokens."""
        return ()

    def complete_processor(self, processor: Any, config: Any) -> None:
        """Checkpoints from before 2025 do not tell the processor how many placeholders a tile takes."""
        if getattr(processor, "patch_size", None) is None:
            processor.patch_size = config.vision_config.patch_size
        if getattr(processor, "vision_feature_select_strategy", None) is None:
            processor.vision_feature_select_strategy = config.vision_feature_select_strategy
            processor.num_additional_image_tokens = 1
