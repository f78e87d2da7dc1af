"""LLaVA-OneVision: like LLaVA-NeXT for a single image; several images of one sample are one tile each."""

from __future__ import annotations

from typing import Any, ClassVar

from lit_simignore.pruning.base import Need
from lit_simignore.surgery.families._llava import LlavaLike
from lit_simignore.surgery.runs import Run
from lit_simignore.surgery.towers import READS, RESIZES


class LlavaOnevision(LlavaLike):
    """A SigLIP tower (no class token) per tile, a projector, a causal decoder.

    Where an image has so many tiles that the model interpolates between their patches, its tokens belong to none.
    """

    model_types: ClassVar[tuple[str, ...]] = ("llava_onevision",)
    processor: ClassVar[str] = "ImagesOnlyLlavaOnevision"
    offers: ClassVar[frozenset[Need]] = frozenset({Need.TEXT})
    tower_offers: ClassVar[frozenset[Need]] = READS | RESIZES

    def grids(self, config: Any, runs: tuple[Run, ...]) -> tuple[tuple[int, int], ...]:
        """Always empty: newline tokens end the rows of a tiled image, and one ends an image of a single tile."""
        return ()
