"""What an intervention is: a rule that changes how attention heads look at visual tokens, without dropping any.

Two kinds, and a method may be both:

* :class:`AttentionIntervention` - edit what the attention kernel of chosen decoder layers is given.
* :class:`LogitsIntervention` - run the prompt a second time in a poorer version, and combine the two predictions.

An intervention is a plain dataclass: its fields are its configuration, its docstring is its reference.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from lit_simignore.discovery import pick
from lit_simignore.interventions._kernel import Kernel as Kernel
from lit_simignore.interventions._kernel import KernelInputs as KernelInputs
from lit_simignore.interventions._kernel import LayerContext as LayerContext
from lit_simignore.interventions._kernel import RowEdit as RowEdit
from lit_simignore.interventions._kernel import attend as attend
from lit_simignore.types import UserError

InterventionT = TypeVar("InterventionT", bound="Intervention")


@dataclass(kw_only=True)
class Intervention(ABC):  # noqa: B024 - its two halves below say what they must answer
    """Base of every rule that changes attention or predictions. Subclass one of the two below, or both."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})
    """Fields by preset name, for :meth:`preset`."""

    @classmethod
    def preset(cls: type[InterventionT], name: str, **overrides: Any) -> InterventionT:
        """The rule as published: ``paper``, or ``released`` (what the authors' code does), with fields overridden.

        Raises:
            UserError: unknown preset or field.
        """
        values = dict(pick(f"{cls.__name__} preset", name, dict(cls.presets)))
        for field in overrides:
            pick(f"{cls.__name__} field", field, cls.__dataclass_fields__)
        return cls(**{**values, **overrides})


@dataclass(kw_only=True)
class AttentionIntervention(Intervention):
    """A rule that edits the attention of some decoder layers."""

    image_only: ClassVar[bool] = True
    """True where a batch without visual tokens is left as it is, which the contract suite then checks."""

    @abstractmethod
    def layers(self, num_layers: int) -> tuple[int, ...]:
        """The 0-based decoder layers that are edited, ascending, in a decoder of ``num_layers``.

        Raises:
            UserError: the decoder has no such layer.
        """

    @abstractmethod
    def edit(self, inputs: KernelInputs, context: LayerContext) -> KernelInputs:
        """What the layer's attention is computed from instead; ``inputs`` itself where there is nothing to do.

        Called once per layer of :meth:`layers` and call of the model. Must not modify tensors of ``inputs``; keeps
        gradients. Of several interventions on one layer each gets what the one before returned, in the order in
        which they were attached.
        """


class Branch(str, Enum):
    """What the second run of a prompt sees."""

    NOISY_IMAGE = "the same prompt with noise over its images"
    NO_IMAGE = "the prompt without its visual tokens"


@dataclass(kw_only=True)
class LogitsIntervention(Intervention):
    """A rule that compares each prediction with that of a second run, which knows less about the image."""

    branch: ClassVar[Branch]

    edits_branch: ClassVar[bool] = True
    """Whether attention interventions that are attached together with this one act in the second run as well."""

    @property
    def contrasts(self) -> bool:
        """Whether predictions are combined at all, as the fields stand."""
        return True

    def contrasts_at(self, step: int) -> bool:
        """Whether the second run is needed for generated token ``step`` (0 is the first).

        Where it is not, :meth:`combine` is given the first run's logits twice.
        """
        return True

    def second_pixels(self, pixels: Tensor, key: str) -> Tensor:
        """The pixel values that the second run of one sample sees, under :attr:`Branch.NOISY_IMAGE`.

        Args:
            pixels: what the model's processor made of the sample's images, of any shape; left untouched.
            key: identity of the sample, for seeded rules: the result does not depend on the batch.
        """
        raise UserError(f"{type(self).__name__} changes no pixels: its second run sees {self.branch.value}")

    @abstractmethod
    def combine(self, logits: Tensor, second: Tensor) -> Tensor:
        """Scores ``(B, V)`` float32 to choose the next token by, greedily or by sampling.

        Args:
            logits: ``(B, V)`` of the run that sees the image, before any warping.
            second: ``(B, V)`` of the run that does not.
        """


def check_choice(owner: str, field: str, value: str, valid: Sequence[str]) -> None:
    """Refuse a word that is not one of ``valid``."""
    if value not in valid:
        raise UserError(f"{owner}.{field} must be one of {', '.join(valid)}; got {value!r}")


def check_number(owner: str, field: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuse anything but a finite number from ``low`` to ``high``."""
    if isinstance(value, bool) or not math.isfinite(value) or not low <= value <= high:
        upper = "" if math.isinf(high) else f" and at most {high:g}"
        raise UserError(f"{owner}.{field} must be a finite number of at least {low:g}{upper}; got {value}")


def check_whole(owner: str, field: str, value: int, low: int) -> None:
    """Refuse anything but an integer of at least ``low``."""
    if isinstance(value, bool) or not math.isfinite(value) or value != int(value) or value < low:
        raise UserError(f"{owner}.{field} must be an integer of at least {low}; got {value}")


def as_indices(owner: str, field: str, value: int | Sequence[int], *, empty: bool = False) -> tuple[int, ...]:
    """``value`` as a tuple of 0-based indices, ascending and without repeats.

    Raises:
        UserError: an index that is no integer or below 0; none at all, unless ``empty`` is allowed.
    """
    given = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    for index in given:
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise UserError(f"{owner}.{field} must be 0-based indices such as 1 or [0, 1]; got {value!r}")
    if not given and not empty:
        raise UserError(f"{owner}.{field} names nothing; expected at least one 0-based index such as 1")
    return tuple(sorted(set(given)))


def check_layers(owner: str, layers: tuple[int, ...], num_layers: int) -> tuple[int, ...]:
    """``layers``, all of which a decoder of ``num_layers`` must have."""
    if layers and layers[-1] >= num_layers:
        raise UserError(f"{owner} edits decoder layer {layers[-1]}; this decoder has layers 0 to {num_layers - 1}")
    return layers
