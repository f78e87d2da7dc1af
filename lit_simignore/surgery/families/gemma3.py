"""Gemma 3: tokens of one image see each other in both directions; most decoder layers see a window only."""

from __future__ import annotations

from math import isqrt
from typing import Any, ClassVar

from torch import Tensor, nn

from lit_simignore.pruning.base import Need
from lit_simignore.surgery.families.base import Family
from lit_simignore.surgery.runs import Run, fixed_grids
from lit_simignore.surgery.towers import READS, RESIZES, VisionTower, row_major


class Gemma3(Family):
    """A SigLIP tower (no class token) whose patches are averaged down to a fixed square.

    Masks are made above the decoder, one per type of layer, and are cut there by rows and columns, which keeps the
    blocks of the images. A prompt longer than the window is refused: dropping would move the window.
    """

    model_types: ClassVar[tuple[str, ...]] = ("gemma3",)
    processor: ClassVar[str] = "GroupedGemma3"
    offers: ClassVar[frozenset[Need]] = frozenset({Need.TEXT, Need.GRID})
    tower_offers: ClassVar[frozenset[Need]] = READS | RESIZES

    def grids(self, config: Any, runs: tuple[Run, ...]) -> tuple[tuple[int, int], ...]:
        """The same square for every image, and for every crop of pan-and-scan, which counts as an image."""
        side = isqrt(config.mm_tokens_per_image)
        return fixed_grids(runs, side, side)

    def vision(self, model: nn.Module) -> VisionTower:
        """The tower's last rows: a visual token is the mean of a square of patches."""
        config: Any = model.config
        base: Any = getattr(model, "model", model)
        projector, rows = base.multi_modal_projector, isqrt(config.mm_tokens_per_image)

        def project(means: Tensor) -> Tensor:
            weight = projector.mm_input_projection_weight
            return projector.mm_soft_emb_norm(means.to(weight.device)) @ weight

        return VisionTower(
            module=base.vision_tower,
            attention=base.vision_tower.encoder.layers[-1].self_attn,
            projector=project,
            grid=(rows, rows),
            block=row_major(rows, rows, projector.kernel_size),
            averages=True,
            resize="argument",
        )
