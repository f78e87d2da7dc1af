"""Methods with a list of layers and a list of counts: one drop per layer, fewer tokens every time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from lit_simignore.pruning._budget import check_budget, require_shape, solve, spent
from lit_simignore.pruning.base import (
    CountPruner,
    Features,
    PrefillShape,
    StagedPruner,
    check_count,
    check_layer,
    check_ratio,
)
from lit_simignore.types import UserError


@dataclass(kw_only=True)
class LayerStage(CountPruner):
    """One of the drops. ``keep_ratio`` is a fraction of the tokens that entered decoder layer 0.

    Args:
        layer_idx: 0-based layer before which tokens are dropped.
    """

    layer_idx: int

    def survivors(self, current: int, num_input: int) -> int:
        """Tokens that leave this stage when ``current`` of the original ``num_input`` reach it."""
        return min(current, self.count_of(num_input))

    def count_in(self, features: Features) -> int:
        """How many of the present tokens to keep."""
        current = features.visual.shape[0]
        return min(current, self.count_of(current if features.num_input is None else features.num_input))


@dataclass(kw_only=True)
class LayerwisePruner(StagedPruner):
    """Base of the methods that drop tokens before several given layers.

    Args:
        layers: 0-based layers before which tokens are dropped, ascending, each >= 1.
        num_keep: visual tokens kept at each of them. Give at most one of ``num_keep`` and ``keep_ratio``.
        keep_ratio: the same as fractions of the ORIGINAL number of visual tokens.
    """

    layers: Sequence[int]
    num_keep: Sequence[int] | None = None
    keep_ratio: Sequence[float] | None = None

    budget_fields: ClassVar[tuple[str, ...]] = ("num_keep", "keep_ratio")
    adaptive: ClassVar[bool] = True
    default_ratio: ClassVar[tuple[float, ...]] = ()
    """Fractions where neither budget field is given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        for field in ("layers", *self.budget_fields):
            if isinstance(getattr(self, field), int | float):
                raise UserError(f"{name}.{field} takes a list, one entry per drop; got {getattr(self, field)}")
        if self.num_keep is not None and self.keep_ratio is not None:
            raise UserError(
                f"{name} takes at most one of num_keep, keep_ratio; got {self.num_keep} and {self.keep_ratio}"
            )
        if self.num_keep is None and self.keep_ratio is None:
            self.keep_ratio = self.default_ratio
        self.layers = tuple(self.layers)
        for layer in self.layers:
            check_layer(name, layer)
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise UserError(f"{name}.layers must be different layers in ascending order; got {list(self.layers)}")
        self._check_counts(name)

    def _check_counts(self, name: str) -> None:
        for count in self.num_keep or ():
            check_count(count)
        for ratio in self.keep_ratio or ():
            check_ratio("keep_ratio", ratio)
        given: Sequence[float] = self.num_keep if self.num_keep is not None else self.keep_ratio or ()
        if len(given) != len(self.layers):
            raise UserError(
                f"{name} takes one count per layer: {len(self.layers)} layers {list(self.layers)}, "
                f"got {len(given)} counts {list(given)}"
            )

    def stages(self) -> tuple[LayerStage, ...]:
        """One drop per layer."""
        counts: Sequence[Any] = self.num_keep if self.num_keep is not None else self.keep_ratio or ()
        field = "num_keep" if self.num_keep is not None else "keep_ratio"
        return tuple(self.stage_at(layer, {field: count}) for layer, count in zip(self.layers, counts, strict=True))

    @abstractmethod
    def stage_at(self, layer: int, budget: dict[str, Any]) -> LayerStage:
        """The single-stage pruner before ``layer``; ``budget`` is its ``num_keep`` or ``keep_ratio``."""

    def visual_per_layer(self, num_visual: int, num_layers: int) -> list[int]:
        """Visual tokens that every decoder layer computes, for ``num_visual`` at its input."""
        counts, current, stages = [], num_visual, {stage.stage: stage for stage in self.stages()}
        for layer in range(num_layers):
            if layer in stages:
                current = stages[layer].survivors(current, num_visual)
            counts.append(current)
        return counts

    def with_budget(self, definition: str, num_tokens: float, shape: PrefillShape | None = None) -> LayerwisePruner:
        """A copy whose counts are all multiplied by one factor (none above the original number).

        Counts are whole, so the budget is met to within rounding. ``final`` needs no ``shape`` where the method adds no
        tokens of its own: the other counts follow the last one in proportion, as counts.
        """
        check_budget(definition, num_tokens)
        if definition == "final" and shape is None and not self.adds_tokens:
            return self._with_last(num_tokens)
        known = require_shape(type(self).__name__, definition, shape)

        def spend(factor: float) -> float:
            schedule = self._scaled(factor, known).visual_per_layer(known.num_visual, known.num_layers)
            return spent(definition, schedule, known)

        counts: Sequence[float] = self.num_keep or [ratio * known.num_visual for ratio in self.keep_ratio or ()]
        smallest = min((count for count in counts if count > 0), default=1.0)
        high = max(1.0, known.num_visual / smallest)
        return self._scaled(solve(type(self).__name__, definition, num_tokens, spend, high), known)

    @property
    def adds_tokens(self) -> bool:
        """Whether more tokens leave a stage than it keeps, so that counts alone do not tell the budget."""
        return False

    def _with_last(self, num_tokens: float) -> LayerwisePruner:
        counts: Sequence[float] = self.num_keep if self.num_keep is not None else self.keep_ratio or ()
        if counts[-1] <= 0:
            raise UserError(
                f"{type(self).__name__} keeps nothing at its last layer, so its counts cannot be scaled to a final "
                f"budget of {num_tokens:g}; give num_keep, one count per layer"
            )
        scaled = tuple(round(num_tokens * count / counts[-1]) for count in counts)
        return replace(self, num_keep=scaled, keep_ratio=None)

    def _scaled(self, factor: float, shape: PrefillShape) -> LayerwisePruner:
        if self.num_keep is not None:
            counts = tuple(min(shape.num_visual, round(count * factor)) for count in self.num_keep)
            return replace(self, num_keep=counts)
        return replace(self, keep_ratio=tuple(min(1.0, ratio * factor) for ratio in self.keep_ratio or ()))
