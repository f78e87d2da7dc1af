"""PaliGemma and PaliGemma 2: image and question see each other in both directions; the answer is causal."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import nn

from lit_simignore.pruning.base import Need
from lit_simignore.surgery.families.base import Family, one_turn
from lit_simignore.surgery.runs import Run, fixed_grids
from lit_simignore.surgery.towers import READS, RESIZES, VisionTower, by_module, row_major


class PaliGemma(Family):
    """A SigLIP tower (no class token), a linear projector; the whole prompt is one bidirectional block."""

    model_types: ClassVar[tuple[str, ...]] = ("paligemma",)
    answer_inputs: ClassVar[Mapping[str, int]] = MappingProxyType({"token_type_ids": 1})
    processor: ClassVar[str] = "TemplatedPaliGemma"
    offers: ClassVar[frozenset[Need]] = frozenset({Need.TEXT, Need.GRID})
    tower_offers: ClassVar[frozenset[Need]] = READS | RESIZES

    def grids(self, config: Any, runs: tuple[Run, ...]) -> tuple[tuple[int, int], ...]:
        """The tower's patch grid once per image."""
        side = config.vision_config.image_size // config.vision_config.patch_size
        return fixed_grids(runs, side, side)

    def vision(self, model: nn.Module) -> VisionTower:
        """The tower's last rows, one for every visual token."""
        config: Any = model.config
        base: Any = getattr(model, "model", model)
        side = config.vision_config.image_size // config.vision_config.patch_size
        return VisionTower(
            module=base.vision_tower,
            attention=base.vision_tower.encoder.layers[-1].self_attn,
            projector=by_module(base.multi_modal_projector),
            grid=(side, side),
            block=row_major(side, side),
            resize="argument",
        )

    def complete_processor(self, processor: Any, config: Any) -> None:
        """The checkpoints have no chat template: images, the begin token, the text, a newline."""
        if processor.chat_template is None:
            processor.chat_template = one_turn(processor.image_token, f"{processor.tokenizer.bos_token}", "\n")
