"""What happened inside an attached model: which visual tokens survived which stage, and what that cost."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lit_simignore.surgery.spans import Spans
from lit_simignore.types import Budget, UserError

MAX_CALLS = 256


@dataclass(slots=True, eq=False)
class StageTrace:
    """One pruning stage of one prefill. Lists have one entry per sample.

    Args:
        name: class of the pruner.
        layer_idx: 0-based decoder layer before which it ran; ``None`` before the decoder.
        kept: ``(K,)`` int64 on the CPU, ascending ORIGINAL indices of the visual tokens that survived it.
        scores: ``(I,)`` of the visual tokens that reached it, higher is kept; ``None`` where the rule has no scores.
        candidates: ``(I,)`` int64, original indices of the visual tokens that reached it.
        sources: for merging rules, the original tokens that each kept one carries.
    """

    name: str
    layer_idx: int | None
    kept: list[Tensor] = field(default_factory=list)
    scores: list[Tensor | None] = field(default_factory=list)
    candidates: list[Tensor] = field(default_factory=list)
    sources: list[tuple[tuple[int, ...], ...] | None] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class EditTrace:
    """One intervention in one layer of one prefill.

    Args:
        name: class of the intervention.
        layer_idx: 0-based decoder layer.
        found: what it noted there, tensors with one row per sample; for EAH ``winning_head`` ``(B,)`` (-1: none) and
            ``sink_counts`` ``(B, H)``.
    """

    name: str
    layer_idx: int
    found: dict[str, Any]


@dataclass(slots=True, eq=False)
class CallTrace:
    """One prefill. Lists have one entry per sample, under beams as well where spans were given.

    Args:
        num_visual: visual tokens of the prompt.
        grids: (rows, cols) of each image.
        stages: in the order in which they ran.
        budgets: what was spent.
        edits: what interventions noted, by layer and in the order in which they act.
    """

    num_visual: list[int]
    grids: list[tuple[tuple[int, int], ...]]
    stages: list[StageTrace] = field(default_factory=list)
    budgets: list[Budget] = field(default_factory=list)
    edits: list[EditTrace] = field(default_factory=list)

    @property
    def kept(self) -> list[Tensor]:
        """Original indices of the visual tokens that survived the last stage."""
        if not self.stages:
            return [torch.arange(count) for count in self.num_visual]
        return self.stages[-1].kept


class Trace:
    """The record that :func:`~lit_simignore.surgery.attach.attach` yields; it stays readable after the block.

    ``kept``, ``stages``, ``edits``, ``grids``, ``num_visual``, ``budgets`` and ``budget`` describe the last prefill;
    ``calls`` holds the last 256 prefills. ``spans`` may be set anew before every call, for loops that stay attached.
    """

    def __init__(self, spans: Spans | None = None) -> None:
        self.spans = spans
        self._calls: deque[CallTrace] = deque(maxlen=MAX_CALLS)

    @property
    def calls(self) -> list[CallTrace]:
        """The last 256 prefills, oldest first."""
        return list(self._calls)

    def add(self, call: CallTrace) -> None:
        """Record one prefill."""
        self._calls.append(call)

    def reset(self) -> None:
        """Forget all calls."""
        self._calls.clear()

    @property
    def last(self) -> CallTrace:
        """The last prefill.

        Raises:
            UserError: there was none.
        """
        if not self._calls:
            raise UserError(
                "the trace is empty: run model(**inputs) or model.generate(**inputs) inside attach(...) first"
            )
        return self._calls[-1]

    @property
    def kept(self) -> list[Tensor]:
        """Per sample ``(K,)`` int64, original indices of the visual tokens after the last stage."""
        return self.last.kept

    @property
    def stages(self) -> list[StageTrace]:
        """The stages of the last prefill."""
        return self.last.stages

    @property
    def edits(self) -> list[EditTrace]:
        """What interventions noted in the last prefill."""
        return self.last.edits

    @property
    def grids(self) -> list[tuple[tuple[int, int], ...]]:
        """Per sample, (rows, cols) of every image."""
        return self.last.grids

    @property
    def num_visual(self) -> list[int]:
        """Per sample, visual tokens before pruning."""
        return self.last.num_visual

    @property
    def budgets(self) -> list[Budget]:
        """Per sample, what was spent."""
        return self.last.budgets

    @property
    def budget(self) -> Budget:
        """Mean budget over the samples of the last prefill."""
        return mean_budget(self.last.budgets)


def mean_budget(budgets: Sequence[Budget]) -> Budget:
    """Field-wise mean.

    Raises:
        UserError: there are none.
    """
    if not budgets:
        raise UserError("expected at least one budget to average; got none")
    names = [item.name for item in dataclasses.fields(Budget)]
    return Budget(**{name: sum(getattr(budget, name) for budget in budgets) / len(budgets) for name in names})
