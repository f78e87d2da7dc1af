"""The floor of every comparison: no visual token at all."""

from __future__ import annotations

from dataclasses import dataclass

from lit_simignore.pruning.base import Features, PrefillShape, Pruner
from lit_simignore.types import Selection, UserError


@dataclass(kw_only=True)
class TextOnly(Pruner):
    """Keep no visual token: what the language model knows without looking.

    A benchmark on which this control does well does not measure sight.

    Reference:
        "576 of 576 ignored" in Table 2 of arXiv:2412.09817 (Simignore): 53.35 on ScienceQA-IMG. In the released
        code that row may have seen image tokens again from FastV's layer on; here it is image-blind throughout.
    """

    def choose(self, features: Features) -> Selection:
        """Keep nothing."""
        nothing = features.visual.new_empty(0).long()
        return Selection(kept=nothing)

    def count_left(self, num_visual: int) -> int:
        """None of them."""
        return 0

    def with_budget(self, definition: str, num_tokens: float, shape: PrefillShape | None = None) -> Pruner:
        """Itself, for a budget of zero.

        Raises:
            UserError: any other budget; the only one that can be met is 0.
        """
        if num_tokens != 0:
            raise UserError(
                f"TextOnly spends 0 visual tokens, its least and its most; got a {definition} budget of {num_tokens:g}"
            )
        return self
