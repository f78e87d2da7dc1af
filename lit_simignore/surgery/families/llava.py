"""LLaVA-1.5 and every other ``LlavaForConditionalGeneration``: one fixed square grid per image."""

from __future__ import annotations

from typing import Any, ClassVar

from lit_simignore.pruning.base import Need
from lit_simignore.surgery.families._llava import LlavaLike
from lit_simignore.surgery.runs import Run, fixed_grids
from lit_simignore.surgery.towers import READS_CLASS_TOKEN, RESIZES


class Llava(LlavaLike):
    """A CLIP-like tower, a projector, a causal decoder; the prompt repeats a placeholder once per patch."""

    model_types: ClassVar[tuple[str, ...]] = ("llava",)
    offers: ClassVar[frozenset[Need]] = frozenset({Need.TEXT, Need.GRID})
    tower_offers: ClassVar[frozenset[Need]] = READS_CLASS_TOKEN | RESIZES

    def grids(self, config: Any, runs: tuple[Run, ...]) -> tuple[tuple[int, int], ...]:
        """The vision tower's patch grid once per image; empty where the class token is kept among the patches."""
        side = config.vision_config.image_size // config.vision_config.patch_size
        return fixed_grids(runs, side, side)
