"""InternVL (2.5 and later, in the Hugging Face port): square tiles, and a thumbnail where there are several."""

from __future__ import annotations

from typing import Any, ClassVar

from lit_simignore.pruning.base import Need
from lit_simignore.surgery.families.base import Family
from lit_simignore.surgery.runs import Run


class InternVL(Family):
    """A tower with a class token whose patches are merged four to one, so its attention has no place on the tokens."""

    model_types: ClassVar[tuple[str, ...]] = ("internvl",)
    processor: ClassVar[str] = "ImagesOnlyInternVL"
    offers: ClassVar[frozenset[Need]] = frozenset({Need.TEXT, Need.GRID})

    def grids(self, config: Any, runs: tuple[Run, ...]) -> tuple[tuple[int, int], ...]:
        """One square per image, told apart by the tokens around it; empty as soon as an image was cut into tiles.

        Tiles come one after the other, followed by the thumbnail: together they are no row-major grid.
        """
        vision = config.vision_config
        rows, cols = (
            int(size // patch * config.downsample_ratio)
            for size, patch in zip(vision.image_size, vision.patch_size, strict=True)
        )
        return ((rows, cols),) * len(runs) if all(run.length == rows * cols for run in runs) else ()
