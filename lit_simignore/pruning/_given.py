"""A set of visual tokens that somebody named: for experiments that leave out tokens of their own choosing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from lit_simignore.pruning.base import Features, PrefillShape, Pruner
from lit_simignore.types import Selection, UserError


@dataclass(kw_only=True)
class Given(Pruner):
    """Keep what was named for each sample.

    Args:
        kept: ``(K,)`` int64 ascending indices among the sample's visual tokens, by the sample's key.
    """

    kept: Mapping[str, Tensor] = field(default_factory=dict)

    def choose(self, features: Features) -> Selection:
        """The named tokens.

        Raises:
            UserError: none were named for this sample.
        """
        if features.key not in self.kept:
            raise UserError(f"no tokens were named for sample {features.key!r}")
        return Selection(kept=self.kept[features.key].to(features.visual.device))

    def with_budget(self, definition: str, num_tokens: float, shape: PrefillShape | None = None) -> Pruner:
        """Not possible.

        Raises:
            UserError: always.
        """
        raise UserError("named tokens have no budget of their own")
