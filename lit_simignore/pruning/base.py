"""What a pruner is: given what the model knows about one sample's visual tokens, say which of them stay.

Rungs, by how much a method has to change:

* :class:`Pruner` - decide the whole :class:`~lit_simignore.types.Selection` with a budget of the rule's own.
* :class:`CountPruner` - the same with an inherited budget of ``num_keep`` or ``keep_ratio`` (diverse sets, merging).
* :class:`ScorePruner` - say how important every token is; the top-k is inherited too.
* a field ``layer_idx`` - the same, inside the decoder instead of before it.
* :class:`StagedPruner` - several drops in one prefill: :meth:`Pruner.stages` gives one single-stage pruner for each.

A pruner is a plain dataclass: its fields are its configuration, its docstring is its reference.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from lit_simignore.discovery import pick
from lit_simignore.pruning._budget import PrefillShape as PrefillShape
from lit_simignore.pruning._budget import check_budget, require_shape, solve, spent
from lit_simignore.pruning._features import Features as Features
from lit_simignore.pruning._features import Need as Need
from lit_simignore.types import Selection, UserError

PrunerT = TypeVar("PrunerT", bound="Pruner")


@dataclass(kw_only=True)
class Pruner(ABC):
    """Base of every rule that drops or merges visual tokens. Subclasses implement :meth:`choose`.

    Args:
        positions: rotary positions of the kept tokens: ``original`` (gaps stay) or ``renumber`` (closed up).
    """

    positions: str = "original"

    needs: ClassVar[frozenset[Need]] = frozenset()

    order_free: ClassVar[bool] = False
    """True where a token's score does not depend on its position: the contract suite then checks that scores
    move with their tokens under any permutation."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})
    """Fields by preset name, for :meth:`preset`."""

    budget_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that each fix how many tokens stay; exactly one of them is set."""

    adaptive: ClassVar[bool] = False
    """True where none of :attr:`budget_fields` need be set: the rule then finds its own count or has a default."""

    def __post_init__(self) -> None:
        if self.positions not in ("original", "renumber"):
            raise UserError(f"{type(self).__name__}.positions must be original or renumber; got {self.positions!r}")

    @classmethod
    def preset(cls: type[PrunerT], name: str, **overrides: Any) -> PrunerT:
        """The rule as published: ``paper``, or ``released`` (what the authors' code does), with fields overridden.

        Raises:
            UserError: unknown preset or field.
        """
        values = dict(pick(f"{cls.__name__} preset", name, dict(cls.presets)))
        if any(field in overrides for field in cls.budget_fields):
            values = {field: value for field, value in values.items() if field not in cls.budget_fields}
        for field in overrides:
            pick(f"{cls.__name__} field", field, cls.__dataclass_fields__)
        return cls(**{**values, **overrides})

    @property
    def stage(self) -> int | None:
        """0-based decoder layer before which tokens are dropped; ``None`` means before the decoder."""
        return getattr(self, "layer_idx", None)

    def stages(self) -> tuple[Pruner, ...]:
        """The single drops that make up the method, by ascending :attr:`stage`."""
        return (self,)

    @abstractmethod
    def choose(self, features: Features) -> Selection:
        """Decide for one sample. Must not modify ``features``."""

    def choose_batch(self, features: Sequence[Features]) -> list[Selection]:
        """Decide for all samples of one prefill. Samples do not influence each other, unless a release lets them."""
        return [self.choose(sample) for sample in features]

    @abstractmethod
    def with_budget(self, definition: str, num_tokens: float, shape: PrefillShape | None = None) -> Pruner:
        """A copy that spends ``num_tokens`` visual tokens.

        Args:
            definition: ``input``, ``final``, ``layer_mean`` or ``flops``, see :class:`~lit_simignore.types.Budget`.
            num_tokens: visual tokens to spend.
            shape: the decoder and the prompt. Pruners inside the decoder cannot do without it, except for ``final``.

        Raises:
            UserError: the budget cannot be met (the message names the least that can), or ``shape`` is missing.
        """

    def count_left(self, num_visual: int) -> int | None:
        """How many of ``num_visual`` visual tokens later layers compute; ``None`` where that depends on the sample."""
        return None

    def select(self, visual: Tensor, text: Tensor, key: str = "") -> Tensor:
        """Kept indices for one sample, ascending int64 ``(K,)``.

        Args:
            visual: ``(I, D)`` visual tokens.
            text: ``(T, D)`` text rows in the same space.
            key: identity of the sample, for seeded rules.
        """
        check_rows(visual, text)
        return self.choose(Features(visual=visual, text=text, key=key)).kept


@dataclass(kw_only=True)
class CountPruner(Pruner):
    """A rule that keeps a given number or fraction of the tokens.

    Args:
        num_keep: visual tokens kept per sample; more than there are keeps all, 0 keeps none.
        keep_ratio: fraction kept, 0 to 1; the count is rounded half to even.
    """

    num_keep: int | None = None
    keep_ratio: float | None = None

    budget_fields: ClassVar[tuple[str, ...]] = ("num_keep", "keep_ratio")

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [name for name in self.budget_fields if getattr(self, name) is not None]
        if len(given) != 1 and not (self.adaptive and not given):
            came = ", ".join(f"{name}={getattr(self, name)}" for name in given) or "none"
            raise UserError(f"{type(self).__name__} takes exactly one of {', '.join(self.budget_fields)}; got {came}")
        check_count(self.num_keep)
        check_ratio("keep_ratio", self.keep_ratio)
        if self.stage is not None:
            check_layer(type(self).__name__, self.stage)

    def count_of(self, total: int) -> int:
        """How many of ``total`` tokens to keep."""
        if self.num_keep is not None:
            return min(self.num_keep, total)
        assert self.keep_ratio is not None
        return round(self.keep_ratio * total)

    def count_left(self, num_visual: int) -> int | None:
        """As many as a count or a fraction says; a rule that finds its own count may keep any number."""
        return None if self.num_keep is None and self.keep_ratio is None else self.count_of(num_visual)

    def with_budget(self, definition: str, num_tokens: float, shape: PrefillShape | None = None) -> Pruner:
        """A copy with the ``num_keep`` that spends ``num_tokens``; inside the decoder ``final`` needs no ``shape``."""
        check_budget(definition, num_tokens)
        num_keep = num_tokens
        if self.stage is not None and definition != "final":
            num_keep = self._solve_layer(self.stage, definition, num_tokens, shape)
        others = {name: None for name in self.budget_fields if name != "num_keep"}
        return replace(self, num_keep=round(num_keep), **others)  # type: ignore[arg-type]

    def _solve_layer(self, layer: int, definition: str, num_tokens: float, shape: PrefillShape | None) -> float:
        known = require_shape(type(self).__name__, definition, shape)
        early, late = min(layer, known.num_layers), max(known.num_layers - layer, 0)

        def spend(num_keep: float) -> float:
            return spent(definition, [known.num_visual] * early + [num_keep] * late, known)

        return solve(type(self).__name__, definition, num_tokens, spend, known.num_visual)


@dataclass(kw_only=True)
class ScorePruner(CountPruner):
    """A rule that ranks tokens and keeps the best.

    Args:
        num_keep: visual tokens kept per sample; more than there are keeps all, 0 keeps none.
        keep_ratio: fraction kept, 0 to 1; the count is rounded half to even.
    """

    @abstractmethod
    def score(self, features: Features) -> Tensor:
        """``(I,)`` float importance, higher is kept."""

    def count(self, scores: Tensor) -> int:
        """How many of the scored tokens to keep."""
        return self.count_of(scores.shape[0])

    def choose(self, features: Features) -> Selection:
        """Keep the highest scores; ties go to the lower index."""
        scores = self.score(features)
        return Selection(kept=top_k_ascending(scores, self.count(scores)), scores=scores)


@dataclass(kw_only=True)
class StagedPruner(Pruner):
    """A method that drops at several places of one prefill. It only makes the :meth:`stages`; they decide."""

    @property
    def stage(self) -> int | None:
        """The first stage's."""
        return self.stages()[0].stage

    @abstractmethod
    def stages(self) -> tuple[Pruner, ...]:
        """One single-stage pruner per drop, by ascending :attr:`Pruner.stage`."""

    def choose(self, features: Features) -> Selection:
        """Not possible: the stages see different layers.

        Raises:
            UserError: always.
        """
        raise UserError(f"{type(self).__name__} drops in several layers; call choose on every one of its stages()")


def top_k_ascending(scores: Tensor, num_keep: int) -> Tensor:
    """Indices of the ``num_keep`` highest ``scores`` ``(I,)``, ascending. Ties go to the lower index."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[:num_keep].sort().values


def evenly_spaced(total: int, num_keep: int) -> list[int]:
    """``num_keep`` of ``total`` indices, ascending, at the centres of ``num_keep`` equal stretches.

    The choice that knows nothing about the tokens and still leaves no part of the image out.
    """
    return [((2 * i + 1) * total) // (2 * num_keep) for i in range(min(num_keep, total))]


def check_count(num_keep: int | None) -> None:
    """Refuse a negative or fractional count."""
    if num_keep is not None and (isinstance(num_keep, bool) or num_keep != int(num_keep) or num_keep < 0):
        raise UserError(f"num_keep must be an integer >= 0 (visual tokens KEPT); got {num_keep}")


def check_layer(owner: str, layer_idx: int) -> None:
    """Refuse a layer before which no other layer has run."""
    if isinstance(layer_idx, bool) or layer_idx != int(layer_idx) or layer_idx < 1:
        raise UserError(
            f"{owner} drops before decoder layer layer_idx (0-based), an integer >= 1, for it reads the layers before "
            f"it; got {layer_idx}"
        )


def check_ratio(name: str, ratio: float | None) -> None:
    """Refuse a fraction outside 0..1."""
    if ratio is not None and not (math.isfinite(ratio) and 0.0 <= ratio <= 1.0):
        raise UserError(f"{name} must lie between 0 and 1 (fraction KEPT); got {ratio}")


def check_rows(visual: Tensor, text: Tensor) -> None:
    """Refuse anything but two matrices of the same width."""
    if visual.ndim != 2 or text.ndim != 2 or visual.shape[1] != text.shape[1]:
        raise UserError(
            "expected visual tokens (I, D) and text rows (T, D) of one width; "
            f"got {tuple(visual.shape)} and {tuple(text.shape)}"
        )
