"""LLaVA-1.5 and every other ``LlavaForConditionalGeneration``: one fixed square grid per image."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from lit_simignore.pruning.base import Need
from lit_simignore.surgery.families.base import Family
from lit_simignore.surgery.runs import Run, fixed_grids
from lit_simignore.surgery.vision import VisionTower


class Llava(Family):
    """A CLIP-like tower, a projector, a causal decoder; the prompt repeats a placeholder once per patch."""

    model_types: ClassVar[tuple[str, ...]] = ("llava",)
    offers: ClassVar[frozenset[Need]] = frozenset({Need.TEXT, Need.GRID})

    def grids(self, config: Any, runs: tuple[Run, ...]) -> tuple[tuple[int, int], ...]:
        """The vision tower's patch grid once per image; empty where the class token is kept among the patches."""
        side = config.vision_config.image_size // config.vision_config.patch_size
        return fixed_grids(runs, side, side)

    def vision(self, model: nn.Module) -> VisionTower | None:
        """The CLIP tower, where visual tokens are one layer's patches without its class token."""
        config: Any = model.config
        base: Any = getattr(model, "model", model)
        layers = _tower_layers(base)
        chosen = config.vision_feature_layer
        if config.vision_config.model_type != "clip_vision_model" or layers is None or not isinstance(chosen, int):
            return None
        made_by = (chosen if chosen >= 0 else len(layers) + 1 + chosen) - 1
        if config.vision_feature_select_strategy != "default" or made_by < 0:
            return None
        return VisionTower(
            module=base.vision_tower,
            feature_layer=chosen,
            attention=layers[made_by].self_attn,
            last_attention=layers[-1].self_attn,
            projector=base.multi_modal_projector,
        )

    def complete_processor(self, processor: Any, config: Any) -> None:
        """Checkpoints from before 2024 do not tell the processor how many placeholders an image takes."""
        if getattr(processor, "patch_size", None) is None:
            processor.patch_size = config.vision_config.patch_size
        if getattr(processor, "vision_feature_select_strategy", None) is None:
            processor.vision_feature_select_strategy = config.vision_feature_select_strategy
            processor.num_additional_image_tokens = 1


def _tower_layers(base: nn.Module) -> Any:
    tower = getattr(base, "vision_tower", None)
    return getattr(getattr(tower, "encoder", None), "layers", None)
