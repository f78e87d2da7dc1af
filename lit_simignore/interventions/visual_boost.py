"""PAI: add to the attention that the newest token pays to the image, and to the image's say in the prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_simignore.interventions._contrast import cut_implausible, extrapolate
from lit_simignore.interventions.base import (
    AttentionIntervention,
    Branch,
    KernelInputs,
    LayerContext,
    LogitsIntervention,
    RowEdit,
    check_number,
    check_whole,
)
from lit_simignore.types import UserError


@dataclass(kw_only=True)
class VisualBoost(AttentionIntervention, LogitsIntervention):
    """Raise the logits on visual tokens by ``alpha`` times their size, in the row that predicts the next token.

    That row is the last one of the prompt in the prefill and every row of a later step. With ``gamma`` above 1 the
    prediction is also moved away from that of a second run without the image, in which nothing is boosted.

    Args:
        alpha: share of a logit's absolute value that is added to it, before softmax; 0 boosts nothing.
        first_layer: 0-based decoder layer from which on attention is boosted.
        last_layer: the last one; null for all that follow.
        gamma: weight of the run with the image against one minus it for the run without; 1 needs no second run.
        plausibility: under ``gamma`` above 1, smallest probability of a token as a fraction of the likeliest token's.
        boost_prefill: whether the first generated token is predicted with the boost too.

    Reference:
        PAI, "Paying More Attention to Image", ECCV 2024, arXiv:2407.21771. Layers 2 to the last, ``alpha`` 0.2,
        ``gamma`` 1.1 and the cut at 0.1 are those of the authors' commands for LLaVA-1.5. ``preset("released")``
        adds their ``gamma``, and what their code does with it: the boost is off until the second run has been asked
        once, so the first token is predicted without. The default boosts it as well, and has no second run.
        The row that is boosted in a prefill is each sample's own last one; the released code takes the batch's.
    """

    branch: ClassVar[Branch] = Branch.NO_IMAGE
    edits_branch: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"released": {"alpha": 0.2, "gamma": 1.1, "boost_prefill": False}}
    )

    alpha: float = 0.2
    first_layer: int = 2
    last_layer: int | None = None
    gamma: float = 1.0
    plausibility: float = 0.1
    boost_prefill: bool = True

    def __post_init__(self) -> None:
        check_number("VisualBoost", "alpha", self.alpha, 0)
        check_number("VisualBoost", "gamma", self.gamma, 1)
        check_number("VisualBoost", "plausibility", self.plausibility, 0, 1)
        check_whole("VisualBoost", "first_layer", self.first_layer, 0)
        if self.last_layer is not None:
            check_whole("VisualBoost", "last_layer", self.last_layer, self.first_layer)

    def layers(self, num_layers: int) -> tuple[int, ...]:
        last = num_layers - 1 if self.last_layer is None else self.last_layer
        if self.first_layer > last or last >= num_layers:
            raise UserError(
                f"VisualBoost edits decoder layers {self.first_layer} to {last}; this decoder has layers 0 to "
                f"{num_layers - 1}"
            )
        return tuple(range(self.first_layer, last + 1)) if self.alpha else ()

    def edit(self, inputs: KernelInputs, context: LayerContext) -> KernelInputs:
        """Boost the rows that predict the next token."""
        if "images" not in context.memory:
            context.memory["images"] = bool(context.visual.any())
        if not self.alpha or not context.memory["images"] or (context.prefill and not self.boost_prefill):
            return inputs
        visual, num_queries = context.visual, inputs.query.shape[2]
        rows = visual.any(dim=1, keepdim=True).expand(-1, num_queries)
        if context.prefill:
            rows = rows & last_alive(context.alive)

        def boosted(logits: Tensor, rows: Tensor) -> Tensor:
            return boost(logits, visual, self.alpha)

        return replace(inputs, row_edits=(*inputs.row_edits, RowEdit(rows, boosted)))

    @property
    def contrasts(self) -> bool:
        return self.gamma != 1

    def combine(self, logits: Tensor, second: Tensor) -> Tensor:
        """``gamma log p + (1 - gamma) log q`` where the run with the image finds the token plausible."""
        likely = logits.float().log_softmax(dim=-1)
        scores = extrapolate(likely, second.float().log_softmax(dim=-1), self.gamma - 1)
        return cut_implausible(scores, likely, self.plausibility)


def boost(logits: Tensor, visual: Tensor, alpha: float) -> Tensor:
    """``logits`` ``(B, H, R, K)`` plus ``alpha`` times their absolute value on the visual tokens.

    Args:
        logits: before masking.
        visual: ``(B, P)`` bool for the first P keys.
        alpha: share of the absolute value that is added.
    """
    boosted = torch.nn.functional.pad(visual, (0, logits.shape[-1] - visual.shape[1]))
    return torch.where(boosted[:, None, None], logits + alpha * logits.abs(), logits)


def last_alive(alive: Tensor) -> Tensor:
    """``(B, P)`` bool, True at the last slot of each row of ``alive`` that is no padding."""
    behind = alive.long().flip(1).cumsum(dim=1).flip(1)
    return alive & (behind == 1)
