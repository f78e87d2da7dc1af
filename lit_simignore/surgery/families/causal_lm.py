"""Bare causal language models: somebody else makes ``inputs_embeds`` and says which columns are visual."""

from __future__ import annotations

from typing import Any, ClassVar

from lit_simignore.pruning.base import Need
from lit_simignore.surgery.families.base import Family
from lit_simignore.surgery.runs import Run


class CausalLM(Family):
    """A decoder without a vision tower; visual columns come through ``surgery.columns.visual_columns``."""

    model_types: ClassVar[tuple[str, ...]] = ("llama", "mistral", "qwen2")
    offers: ClassVar[frozenset[Need]] = frozenset({Need.TEXT})

    def image_token_id(self, config: Any) -> int | None:
        """There is no placeholder."""
        return None

    def grids(self, config: Any, runs: tuple[Run, ...]) -> tuple[tuple[int, int], ...]:
        """Unknown."""
        return ()
