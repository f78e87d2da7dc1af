"""What a model family is: a table of facts about its models and the few functions that the table cannot hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import nn

from lit_simignore.pruning.base import Need

TOKEN_ID_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id")


class Family(ABC):
    """Base of every family. A subclass lists its ``model_types`` and says where visual tokens are."""

    model_types: ClassVar[tuple[str, ...]]
    """Values of ``config.model_type`` that this family handles."""

    offers: ClassVar[frozenset[Need]] = frozenset()
    """What pruners may read on this family beyond the projected visual tokens."""

    @abstractmethod
    def image_token_id(self, config: Any) -> int | None:
        """Id of the placeholder that stands for one visual token; ``None`` where prompts have no placeholder."""

    @abstractmethod
    def grids(self, config: Any, num_visual: int) -> tuple[tuple[int, int], ...]:
        """(rows, cols) of every image of a sample with ``num_visual`` visual tokens; empty if they form no grid."""

    def decoder(self, model: nn.Module) -> nn.Module:
        """The text decoder: it receives ``inputs_embeds`` in which image rows are already projected."""
        return model.get_decoder()  # type: ignore[operator]

    def special_token_ids(self, model: nn.Module) -> frozenset[int]:
        """Ids that are never text: begin, end and padding of a sequence, and the image placeholder."""
        configs = [model.config, _text_config(model.config), getattr(model, "generation_config", None)]
        found: set[int] = set()
        for config in configs:
            for name in TOKEN_ID_FIELDS:
                value = getattr(config, name, None)
                found.update(value if isinstance(value, (list, tuple)) else [value] if value is not None else [])
        placeholder = self.image_token_id(model.config)
        return frozenset(found if placeholder is None else found | {placeholder})

    def complete_processor(self, processor: Any, config: Any) -> None:  # noqa: B027 - most files are complete
        """Fill in what old processor files leave out. Nothing by default."""


def _text_config(config: Any) -> Any:
    return config.get_text_config(decoder=True)
