"""InstructBLIP with a decoder-only language model: a Q-Former's queries are the visual tokens."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import nn

from lit_simignore.pruning.base import Need
from lit_simignore.surgery.families.base import Family, one_turn
from lit_simignore.surgery.runs import Run
from lit_simignore.types import UserError

QUERIES = "its Q-Former makes the same number of tokens of every picture, so a smaller one would save none"


class InstructBlip(Family):
    """Its ``generate`` passes the model's forward by: ids are noted where they are embedded, for the language model.

    The queries are free mixtures of the whole image, so neither grid nor attention of the tower belongs to them.
    """

    model_types: ClassVar[tuple[str, ...]] = ("instructblip",)
    processor: ClassVar[str] = "TemplatedInstructBlip"
    offers: ClassVar[frozenset[Need]] = frozenset({Need.TEXT})
    instead: ClassVar[Mapping[Need, str]] = MappingProxyType({**Family.instead, Need.RESIZED_IMAGE: QUERIES})

    def check(self, model: nn.Module) -> None:
        """Refuse the members with an encoder-decoder (FLAN-T5), whose visual tokens never enter a decoder."""
        config: Any = model.config
        if not config.use_decoder_only_language_model:
            raise UserError(
                "InstructBLIP with an encoder-decoder language model (FLAN-T5) has no visual tokens in its decoder; "
                "take a checkpoint with a decoder-only one, such as Salesforce/instructblip-vicuna-7b"
            )

    def grids(self, config: Any, runs: tuple[Run, ...]) -> tuple[tuple[int, int], ...]:
        """Always empty: queries have no place in the image."""
        return ()

    def entrances(self, model: nn.Module) -> tuple[nn.Module, ...]:
        """The model for calls of its forward, the language model for ``generate``."""
        return (model, model.language_model)  # type: ignore[return-value]

    def embedding(self, model: nn.Module) -> nn.Module | None:
        """The language model's table."""
        return model.get_input_embeddings()  # type: ignore[operator]

    def complete_processor(self, processor: Any, config: Any) -> None:
        """The checkpoints have no chat template: the image, then the bare text."""
        if processor.chat_template is None:
            processor.chat_template = one_turn(processor.image_token)
