"""What the LLaVA line has in common: one layer of a CLIP or SigLIP tower, and a projector that takes row by row."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from lit_simignore.surgery.families.base import Family
from lit_simignore.surgery.towers import TiledTower, VisionTower, by_module, row_major

CLASS_TOKENS = {"clip_vision_model": True, "siglip_vision_model": False}
"""By type of tower: whether it has a class token, which then must not be among the visual tokens."""


class LlavaLike(Family):
    """Base of the line. Towers of other types, several feature layers at once, and a kept class token have no tower."""

    reusable_beginning: ClassVar[bool] = True

    def vision(self, model: nn.Module) -> VisionTower | None:
        """The CLIP or SigLIP tower, where visual tokens are one layer's patches and nothing else."""
        config: Any = model.config
        base: Any = getattr(model, "model", model)
        layers = getattr(getattr(getattr(base, "vision_tower", None), "encoder", None), "layers", None)
        class_token, chosen = CLASS_TOKENS.get(config.vision_config.model_type), config.vision_feature_layer
        if class_token is None or layers is None or not isinstance(chosen, int):
            return None
        made_by = (chosen if chosen >= 0 else len(layers) + 1 + chosen) - 1
        if config.vision_feature_select_strategy != ("default" if class_token else "full") or made_by < 0:
            return None
        side = config.vision_config.image_size // config.vision_config.patch_size
        facts: dict[str, Any] = {
            "module": base.vision_tower,
            "attention": layers[made_by].self_attn,
            "projector": by_module(base.multi_modal_projector),
            "grid": (side, side),
            "block": row_major(side, side),
            "feature_layer": chosen,
            "class_token": class_token,
            "last_attention": layers[-1].self_attn if class_token else None,
            "resize": "argument",
        }
        return TiledTower(**facts, owner=base) if hasattr(base, "pack_image_features") else VisionTower(**facts)

    def complete_processor(self, processor: Any, config: Any) -> None:
        """Checkpoints from before 2025 do not tell the processor how many placeholders a picture takes."""
        if getattr(processor, "patch_size", None) is None:
            processor.patch_size = config.vision_config.patch_size
        if getattr(processor, "vision_feature_select_strategy", None) is None:
            processor.vision_feature_select_strategy = config.vision_feature_select_strategy
            processor.num_additional_image_tokens = 1
