"""A model and a prompt as budgets see them: layers, visual tokens, text, and what a prefill costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lit_simignore.metrics.flops import DecoderShape, flops_equivalent_tokens
from lit_simignore.surgery.attach import unwrap
from lit_simignore.surgery.families import family_of
from lit_simignore.types import UserError


@dataclass(frozen=True, slots=True)
class PromptShape:
    """One prompt on one decoder: a :class:`~lit_simignore.pruning.base.PrefillShape`.

    Args:
        decoder: what the cost depends on.
        num_visual: visual tokens without pruning.
        num_text: everything else: text, template and special tokens.
    """

    decoder: DecoderShape
    num_visual: int
    num_text: int

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return self.decoder.num_layers

    def flops_tokens(self, visual_per_layer: Sequence[float]) -> float:
        """Visual tokens of an input-pruned model with the same prefill FLOPs."""
        lengths = [visual + self.num_text for visual in visual_per_layer]
        return flops_equivalent_tokens(self.decoder, lengths, self.num_text)


def prompt_shape(model: nn.Module, inputs: Mapping[str, Any]) -> PromptShape:
    """What a prompt looks like to a budget, for ``pruner.with_budget(definition, number, shape)``.

    Args:
        model: of a known family.
        inputs: of :func:`~lit_simignore.surgery.prepare.prepare` or a processor; of a batch the first prompt counts.

    Raises:
        UserError: the prompt shows no visual token.
    """
    base = unwrap(model)
    placeholder, ids = family_of(base.config).image_token_id(base.config), inputs["input_ids"][0]
    mask = inputs.get("attention_mask")
    length = ids.shape[0] if mask is None else int(mask[0].sum())
    num_visual = 0 if placeholder is None else int((ids == placeholder).sum())
    if not num_visual:
        raise UserError("a budget of visual tokens needs a prompt with visual tokens; this one shows none")
    return PromptShape(DecoderShape.from_config(base.config), num_visual, length - num_visual)
