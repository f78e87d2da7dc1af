"""Budgets that are asked for before the model is there, and how they are met once it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_simignore.pruning._budget import PrefillShape, ShapeNeeded
from lit_simignore.pruning.base import Pruner
from lit_simignore.types import UserError


@dataclass(frozen=True)
class PendingBudget:
    """A pruner whose setting follows from a budget, the decoder and the prompt. No part of an attachment yet.

    Args:
        pruner: gives everything but the count.
        definition: as for :meth:`~lit_simignore.pruning.base.Pruner.with_budget`.
        num_tokens: visual tokens to spend.
    """

    pruner: Pruner
    definition: str
    num_tokens: float


def spend(pruner: Pruner, definition: str, num_tokens: float) -> Pruner | PendingBudget:
    """``pruner`` with the budget, which waits where it depends on the model.

    Raises:
        UserError: the budget cannot be met by any model.
    """
    try:
        return pruner.with_budget(definition, num_tokens)
    except ShapeNeeded:
        return PendingBudget(pruner, definition, num_tokens)


def meet_budgets(parts: Sequence[object], shape: PrefillShape) -> tuple[object, ...]:
    """``parts`` with every :class:`PendingBudget` replaced by the pruner that spends it.

    A part's budget is that of the method as if it ended with this part: parts that run before it count, parts that run
    after it do not.

    Raises:
        UserError: a budget cannot be met, or an earlier part leaves a number of tokens that is not known in advance.
    """
    met = list(parts)
    for place, part in enumerate(parts):
        if isinstance(part, PendingBudget):
            entering = _entering(part.pruner, running_before(parts, place), shape.num_visual)
            met[place] = part.pruner.with_budget(part.definition, part.num_tokens, _Entering(shape, entering))
    return tuple(met)


def running_before(parts: Sequence[object], place: int) -> list[Pruner]:
    """The pruners that run before the one at ``place``: those before the decoder, then by layer, else as given."""
    pruners = {index: part.pruner if isinstance(part, PendingBudget) else part for index, part in enumerate(parts)}
    turns = {index: (part.stage or 0, index) for index, part in pruners.items() if isinstance(part, Pruner)}
    earlier = sorted(turn for turn in turns.values() if turn < turns[place])
    return [part for _, index in earlier if isinstance(part := pruners[index], Pruner)]


def _entering(pruner: Pruner, before: Sequence[Pruner], num_visual: int) -> int:
    """Visual tokens that enter the decoder."""
    for other in before:
        left = other.count_left(num_visual) if other.stage is None else None
        if left is None:
            raise UserError(
                f"what {type(other).__name__} leaves for {type(pruner).__name__} is not known in advance, so no budget "
                "can be met; set the fields of both"
            )
        num_visual = left
    return num_visual


@dataclass(frozen=True)
class _Entering:
    """A prompt of which earlier parts leave ``num_visual`` visual tokens."""

    shape: PrefillShape
    num_visual: int

    @property
    def num_layers(self) -> int:
        return self.shape.num_layers

    def flops_tokens(self, visual_per_layer: Sequence[float]) -> float:
        return self.shape.flops_tokens(visual_per_layer)
