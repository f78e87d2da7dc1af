"""Qwen3-VL: vision features of several depths are added to the hidden states of the first decoder layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lit_simignore.surgery.families._mrope import MultiAxisRope
from lit_simignore.surgery.rows import ColumnMap


class Qwen3VL(MultiAxisRope):
    """Deepstack: the decoder is given one more set of rows per early layer, which are dropped with their tokens.

    Merging rules merge what enters the decoder alone: a merged row gets the deepstack rows of the token whose place it
    takes.
    """

    model_types: ClassVar[tuple[str, ...]] = ("qwen3_vl",)
    processor: ClassVar[str] = "ImagesOnlyQwen3VL"
    column_inputs: ClassVar[frozenset[str]] = frozenset({"visual_pos_masks"})

    def deepstack_layers(self, config: Any) -> int:
        """One layer per depth of the tower that is handed on."""
        return len(config.vision_config.deepstack_visual_indexes)

    def shortened(self, inputs: Mapping[str, Any], keep: Tensor, columns: ColumnMap) -> dict[str, Any]:
        """Which kept columns are visual, and the added rows of these alone (rows lie in batch order, then column)."""
        visual, rows = inputs.get("visual_pos_masks"), inputs.get("deepstack_visual_embeds")
        if visual is None or rows is None:
            return {}
        visual = visual.to(keep.device)
        kept = keep[visual]
        return {
            "visual_pos_masks": visual.gather(1, columns.index) & columns.valid,
            "deepstack_visual_embeds": [layer[kept.to(layer.device)] for layer in rows],
        }
