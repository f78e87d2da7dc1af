"""What a model family is: a table of facts about its models and the few functions that the table cannot hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

from lit_simignore.pruning.base import Need
from lit_simignore.surgery.rows import ColumnMap
from lit_simignore.surgery.runs import Run
from lit_simignore.surgery.towers import VisionTower

TOKEN_ID_FIELDS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "boi_token_index",
    "eoi_token_index",
)

NO_TEXT_TOWER = (
    "no model brings the text tower that its vision tower was trained with; embed patches and question with that CLIP "
    "model and call choose(Features(visual=..., text=..., joint_visual=..., text_tower=...)) for the kept indices"
)
MAX_PIXELS = "it takes pictures of any size, so give its processor a smaller max_pixels (or smaller pictures)"


class Family(ABC):
    """Base of every family. A subclass lists its ``model_types`` and says where visual tokens are."""

    model_types: ClassVar[tuple[str, ...]]
    """Values of ``config.model_type`` that this family handles."""

    offers: ClassVar[frozenset[Need]] = frozenset()
    """What pruners may read on this family beyond the projected visual tokens."""

    tower_offers: ClassVar[frozenset[Need]] = frozenset()
    """What rules may read inside the family's usual vision tower, see :meth:`vision`."""

    instead: ClassVar[Mapping[Need, str]] = MappingProxyType({Need.TEXT_TOWER: NO_TEXT_TOWER})
    """What to do about a need that the family does not serve, for the line that refuses a pruner."""

    column_inputs: ClassVar[frozenset[str]] = frozenset()
    """Arguments of the decoder with one entry per column that :meth:`shortened` shortens."""

    answer_inputs: ClassVar[Mapping[str, int]] = MappingProxyType({"token_type_ids": 0, "mm_token_type_ids": 0})
    """Arguments of the model with one entry per column, and what they say of a token of the answer."""

    reusable_beginning: ClassVar[bool] = False
    """Whether nothing behind the last visual token changes what stands in the cache up to there: the decoder is causal
    and visual tokens do not depend on the question. Prompts that begin alike may then share it."""

    images_per_row: ClassVar[bool] = False
    """Whether one row of the pixel values holds all images of a sample; otherwise it holds one, or a piece of one."""

    processor: ClassVar[str] = ""
    """Class in ``surgery.processors`` that takes the place of transformers' own; empty for ``AutoProcessor``."""

    def image_token_id(self, config: Any) -> int | None:
        """Id of the placeholder that stands for one visual token; ``None`` where prompts have no placeholder."""
        return int(config.image_token_id)

    @abstractmethod
    def grids(self, config: Any, runs: tuple[Run, ...]) -> tuple[tuple[int, int], ...]:
        """(rows, cols) of every image of a sample, whose visual tokens are row-major; empty if they form no grids.

        Args:
            config: the model's configuration.
            runs: what the prompt shows of the sample's images.
        """

    def decoder(self, model: nn.Module) -> nn.Module:
        """The text decoder: it receives ``inputs_embeds`` in which image rows are already projected."""
        return model.get_decoder()  # type: ignore[operator]

    def vision(self, model: nn.Module) -> VisionTower | None:
        """Where rules find the tower's attention, keys and rows; ``None`` if they belong to no visual tokens."""
        return None

    def check(self, model: nn.Module) -> None:  # noqa: B027 - most families have no odd members
        """Refuse a model of the family that cannot be handled. Nothing by default.

        Raises:
            UserError: says why.
        """

    def entrances(self, model: nn.Module) -> tuple[nn.Module, ...]:
        """Modules whose forward may be where a prompt comes in, the outermost first.

        Later steps are rewritten at the last one. More than one only where ``generate`` passes the model by.
        """
        return (model,)

    def embedding(self, model: nn.Module) -> nn.Module | None:
        """The module that is given the prompt's ids where ``generate`` does not show them to the last entrance."""
        return None

    def deepstack_layers(self, config: Any) -> int:
        """How many decoder layers add vision features to visual columns; drops inside the decoder come after them."""
        return 0

    def shortened(self, inputs: Mapping[str, Any], keep: Tensor, columns: ColumnMap) -> dict[str, Any]:
        """The family's own arguments of the decoder for the kept columns, see :attr:`column_inputs`.

        Args:
            inputs: keyword arguments of the decoder's forward for the whole prompt.
            keep: ``(B, N)`` bool, the columns that stay.
            columns: where the slots of the shortened batch come from.
        """
        return {}

    def later_positions(self, model: nn.Module, mask: Any, num_new: int) -> Tensor | None:
        """Positions of ``num_new`` columns after the prompt for callers that give none.

        Only for models that count them off the attention mask, which is about to be shortened.

        Args:
            model: the vision-language model.
            mask: the caller's attention mask for the whole conversation.
            num_new: columns of this step.
        """
        return None

    def select_rows(self, model: nn.Module, rows: Tensor) -> None:  # noqa: B027 - most keep all of it in the cache
        """Repeat or reorder what the model itself remembers of the last prompts. Nothing by default.

        Args:
            model: the vision-language model.
            rows: ``(B,)`` int64, which of the last prompts every row of the next call goes on with.
        """

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

    def load_processor(self, source: str, **hub: Any) -> Any:
        """The processor of the checkpoint at ``source``; ``hub`` are keyword arguments for ``from_pretrained``."""
        if not self.processor:
            from transformers import AutoProcessor

            return AutoProcessor.from_pretrained(source, **hub)
        from lit_simignore.surgery import processors

        return getattr(processors, self.processor).from_pretrained(source, **hub)

    def complete_processor(self, processor: Any, config: Any) -> None:  # noqa: B027 - most files are complete
        """Fill in what old processor files leave out. Nothing by default."""


def one_turn(image: str, between: str = "", after: str = "") -> str:
    """A chat template of one message without roles: ``image`` per image, ``between``, the text, ``after``."""
    single = "{% if messages | length > 1 %}{{ raise_exception('this template has one user message') }}{% endif %}"
    images = "{% for c in messages[0].content if c.type == 'image' %}" + image + "{% endfor %}"
    texts = "{% for c in messages[0].content if c.type == 'text' %}{{ c.text }}{% endfor %}"
    return single + images + between + texts + "{{ '" + after.replace("\n", "\\n") + "' }}"


def _text_config(config: Any) -> Any:
    return config.get_text_config(decoder=True)
