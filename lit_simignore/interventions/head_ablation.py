"""Ablate attention heads, to see what they were for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lit_simignore.interventions._sinks import counted_rows
from lit_simignore.interventions.base import (
    AttentionIntervention,
    KernelInputs,
    LayerContext,
    RowEdit,
    as_indices,
    check_choice,
    check_layers,
)
from lit_simignore.types import UserError

MODES = ("zero", "uniform", "blind")


@dataclass(kw_only=True)
class HeadAblation(AttentionIntervention):
    """Switch off some heads of some layers, for every token, in the prefill and in later steps.

    Args:
        layer_idx: 0-based decoder layer, or several; the same heads are ablated in each.
        heads: 0-based query heads; none leaves the model as it is.
        mode: zero: the heads add nothing to the residual stream. uniform: they attend to all that they see alike,
            which keeps the size of their output. blind: text behind the first visual token does not attend to visual
            tokens in these heads, which shows what they bring over from the image.

    Under grouped-query attention single query heads are ablated; the others of their group are not touched.

    Reference:
        ``zero`` is head masking as in Michel et al., "Are Sixteen Heads Really Better than One?", NeurIPS 2019,
        section 2.2; ``uniform`` replaces a map by the mean over what is seen; ``blind`` is this library's own.
    """

    image_only: ClassVar[bool] = False

    layer_idx: int | Sequence[int] = 1
    heads: Sequence[int] = ()
    mode: str = "zero"

    def __post_init__(self) -> None:
        as_indices("HeadAblation", "layer_idx", self.layer_idx)
        as_indices("HeadAblation", "heads", self.heads, empty=True)
        check_choice("HeadAblation", "mode", self.mode, MODES)

    def layers(self, num_layers: int) -> tuple[int, ...]:
        chosen = as_indices("HeadAblation", "layer_idx", self.layer_idx)
        return check_layers("HeadAblation", chosen, num_layers) if self.heads else ()

    def edit(self, inputs: KernelInputs, context: LayerContext) -> KernelInputs:
        """Ablate by ``mode``.

        Raises:
            UserError: the layer has fewer heads.
        """
        if not self.heads or (self.mode == "blind" and not self._looks_at_images(context)):
            return inputs
        ablated = self._ablated(inputs.query)
        if self.mode == "zero":
            gain = (~ablated).to(inputs.query.dtype)[None]
            return replace(inputs, gain=gain if inputs.gain is None else inputs.gain * gain)
        if self.mode == "uniform":
            # logits of a zero query are all equal, whatever the keys
            return replace(inputs, query=inputs.query.masked_fill(ablated[:, None, None], 0))
        return replace(inputs, row_edits=(*inputs.row_edits, _blind_rows(inputs, context, ablated)))

    def _ablated(self, query: Tensor) -> Tensor:
        """``(H,)`` bool."""
        chosen, there = as_indices("HeadAblation", "heads", self.heads), query.shape[1]
        if chosen[-1] >= there:
            raise UserError(f"HeadAblation.heads names head {chosen[-1]}; this decoder has heads 0 to {there - 1}")
        ablated = torch.zeros(there, dtype=torch.bool, device=query.device)
        ablated[list(chosen)] = True
        return ablated

    def _looks_at_images(self, context: LayerContext) -> bool:
        """Whether any sample has an image, noted once so that later steps need not ask the device."""
        if "images" not in context.memory:
            context.memory["images"] = bool(context.visual.any())
        return bool(context.memory["images"])


def _blind_rows(inputs: KernelInputs, context: LayerContext, ablated: Tensor) -> RowEdit:
    batch, _, num_queries, _ = inputs.query.shape
    visual = context.visual
    rows = torch.ones(batch, num_queries, dtype=torch.bool, device=visual.device) & visual.any(dim=1, keepdim=True)
    if context.prefill:
        rows = counted_rows(visual, context.alive, "after_image")

    def without_image(logits: Tensor, rows: Tensor) -> Tensor:
        hidden = torch.nn.functional.pad(visual, (0, logits.shape[-1] - visual.shape[1]))
        return logits.masked_fill(hidden[:, None, None] & ablated[:, None, None], torch.finfo(logits.dtype).min)

    return RowEdit(rows, without_image)
