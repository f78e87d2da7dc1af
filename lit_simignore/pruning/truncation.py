"""Truncation: from one layer on, no visual token at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from lit_simignore.pruning._budget import check_budget, require_shape, spent
from lit_simignore.pruning.base import Features, PrefillShape, Pruner, check_layer
from lit_simignore.types import Selection, UserError


@dataclass(kw_only=True)
class Truncation(Pruner):
    """Drop every visual token before layer ``layer_idx``: how deep does the image still flow into the text?

    Layers before ``layer_idx`` see the whole image. Sweeping ``layer_idx`` shows the first layer after which dropping
    does no harm.

    Args:
        layer_idx: 0-based first layer without visual tokens. The released constants are 22 for LLaVA-1.5 and 2 for
            Qwen-VL.

    Reference:
        Zhang et al., "From Redundancy to Relevance: Information Flow in LVLMs Across Reasoning Tasks", NAACL 2025,
        arXiv:2406.06579, Table 1 (the untouched model against no visual token from the cliff layer on); section not
        verified.

        Deviations: in the release it is FastV with zero tokens kept, by masking: no work is saved, and the hard-coded
        image start leaves the first visual tokens visible and hides the first text tokens. Here the tokens are
        dropped, all of them and nothing else.
    """

    budget_fields: ClassVar[tuple[str, ...]] = ("layer_idx",)

    layer_idx: int = 22

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer("Truncation", self.layer_idx)

    def choose(self, features: Features) -> Selection:
        """Keep nothing."""
        return Selection(kept=features.visual.new_empty(0).long())

    def count_left(self, num_visual: int) -> int:
        """None of them."""
        return 0

    def with_budget(self, definition: str, num_tokens: float, shape: PrefillShape | None = None) -> Pruner:
        """A copy at the layer whose budget comes closest; it can only be met to within one layer's tokens.

        Raises:
            UserError: ``final`` other than 0, ``input`` other than all, less than one layer's or more than all but
                one layer's tokens, or no ``shape``.
        """
        check_budget(definition, num_tokens)
        if definition == "final":
            if num_tokens != 0:
                raise UserError(
                    f"Truncation leaves 0 visual tokens after the last layer; got a final budget of {num_tokens:g}"
                )
            return self
        known = require_shape("Truncation", definition, shape)
        total, layers = known.num_visual, known.num_layers

        def spend(layer: int) -> float:
            return spent(definition, [total] * layer + [0] * (layers - layer), known)

        reachable = range(1, max(2, layers))
        least, most = spend(reachable[0]), spend(reachable[-1])
        if not least - 1e-6 <= num_tokens <= most + 1e-6:
            raise UserError(
                f"Truncation spends {least:.4g} to {most:.4g} visual tokens ({definition}) on this decoder; "
                f"got a budget of {num_tokens:g}"
            )
        return replace(self, layer_idx=min(reachable, key=lambda layer: abs(spend(layer) - num_tokens)))
