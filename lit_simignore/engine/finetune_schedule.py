"""What changes while a model is fine-tuned, by the step alone: how much is pruned, and how fast it learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lit_simignore.pruning.base import CountPruner, Pruner
from lit_simignore.types import UserError

KINDS = ("constant", "annealed")


@dataclass(frozen=True, kw_only=True)
class PruneSchedule:
    """How much is pruned at which optimiser step.

    Args:
        kind: ``constant``, or ``annealed``: the keep ratio falls linearly from ``start`` to what the pruner says, so
            that the model learns to live with fewer tokens.
        steps: steps that the fall takes; ``None`` is half of the training.
        start: keep ratio of the first step when annealed.

    Raises:
        UserError: an unknown kind, or values out of range.
    """

    kind: str = "constant"
    steps: int | None = None
    start: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"the pruning schedule must be one of {', '.join(KINDS)}; got {self.kind!r}")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"the pruning schedule takes at least one step; got {self.steps}")
        if not 0 < self.start <= 1:
            raise UserError(f"the pruning schedule starts at a keep ratio above 0 and at most 1; got {self.start}")

    def check(self, parts: Sequence[object]) -> None:
        """Refuse to anneal what has no keep ratio.

        Raises:
            UserError: names the part.
        """
        if self.kind == "constant":
            return
        pruners = [part for part in parts if isinstance(part, Pruner)]
        if not pruners:
            raise UserError("an annealed schedule needs something to anneal; set pruning to a method that prunes")
        for part in pruners:
            if not isinstance(part, CountPruner) or part.keep_ratio is None:
                raise UserError(f"an annealed schedule needs keep_ratio; got {part!r}: set keep_ratio instead")

    def parts_at(self, parts: Sequence[object], step: int, max_steps: int) -> tuple[object, ...]:
        """The parts as they prune at 0-based ``step`` of ``max_steps``."""
        if self.kind == "constant":
            return tuple(parts)
        length = self.steps if self.steps is not None else max(1, max_steps // 2)
        share = min(1.0, step / length)
        return tuple(self._between(part, share) for part in parts)

    def _between(self, part: object, share: float) -> object:
        if not isinstance(part, CountPruner) or part.keep_ratio is None:
            return part  # an intervention, which has no amount
        return replace(part, keep_ratio=float(self.start + (part.keep_ratio - self.start) * share))


def cosine_factor(step: int, max_steps: int, warmup_steps: int, floor: float = 0.0) -> float:
    """Factor on the learning rate of 0-based ``step``: up linearly, then half a cosine down to ``floor`` at the end."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
