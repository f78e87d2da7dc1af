"""LLaVA-NeXT (1.6): an overview of the image and its tiles at higher resolution, one newline token per row of them."""

from __future__ import annotations

from typing import Any, ClassVar

from lit_simignore.pruning.base import Need
from lit_simignore.surgery.families._llava import LlavaLike
from lit_simignore.surgery.runs import Run
from lit_simignore.surgery.towers import READS_CLASS_TOKEN, RESIZES


class LlavaNext(LlavaLike):
    """A CLIP-like tower per tile, a projector, a causal decoder.

    Rules that read the tower look at every tile by itself: a class token attends within its own tile. Padding has been
    cut out of the stitched tiles by then, and newline tokens, which show nothing, are the first to go.
    """

    model_types: ClassVar[tuple[str, ...]] = ("llava_next",)
    offers: ClassVar[frozenset[Need]] = frozenset({Need.TEXT})
    tower_offers: ClassVar[frozenset[Need]] = READS_CLASS_TOKEN | RESIZES

    def grids(self, config: Any, runs: tuple[Run, ...]) -> tuple[tuple[int, int], ...]:
        """Always empty: an image's tokens are two grids, one of them with a column of newline tokens."""
        return ()
