"""LLaVA-1.5 and every other ``LlavaForConditionalGeneration``: one fixed square grid per image."""

from __future__ import annotations

from typing import Any, ClassVar

from lit_simignore.pruning.base import Need
from lit_simignore.surgery.families.base import Family
from lit_simignore.surgery.runs import Run, fixed_grids


class Llava(Family):
    """A CLIP-like tower, a projector, a causal decoder; the prompt repeats a placeholder once per patch."""

    model_types: ClassVar[tuple[str, ...]] = ("llava",)
    offers: ClassVar[frozenset[Need]] = frozenset({Need.TEXT, Need.GRID})

    def grids(self, config: Any, runs: tuple[Run, ...]) -> tuple[tuple[int, int], ...]:
        """The vision tower's patch grid once per image; empty where the class token is kept among the patches."""
        side = config.vision_config.image_size // config.vision_config.patch_size
        return fixed_grids(runs, side, side)

    def complete_processor(self, processor: Any, config: Any) -> None:
        """Checkpoints from before 2024 do not tell the processor how many placeholders an image takes."""
        if getattr(processor, "patch_size", None) is None:
            processor.patch_size = config.vision_config.patch_size
        if getattr(processor, "vision_feature_select_strategy", None) is None:
            processor.vision_feature_select_strategy = config.vision_feature_select_strategy
            processor.num_additional_image_tokens = 1
