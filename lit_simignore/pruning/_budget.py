"""Turn "spend this many visual tokens" into a method's own settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from lit_simignore.types import UserError

DEFINITIONS = ("input", "final", "layer_mean", "flops")


class ShapeNeeded(UserError):
    """A budget that depends on the decoder and the prompt, asked for without them."""


class PrefillShape(Protocol):
    """One prompt on one decoder: what the definitions of a budget are computed against."""

    @property
    def num_layers(self) -> int:
        """Decoder layers."""

    @property
    def num_visual(self) -> int:
        """Visual tokens of the prompt without pruning."""

    def flops_tokens(self, visual_per_layer: Sequence[float]) -> float:
        """Visual tokens of an input-pruned model that spends the same prefill FLOPs as ``visual_per_layer``."""


def check_budget(definition: str, num_tokens: float) -> None:
    """Refuse an unknown definition, and a budget that is no count."""
    if definition not in DEFINITIONS:
        raise UserError(f"budget definition must be one of {', '.join(DEFINITIONS)}; got {definition!r}")
    if not (math.isfinite(num_tokens) and num_tokens >= 0):
        raise UserError(f"a budget is a number of visual tokens >= 0; got {num_tokens}")


def require_shape(owner: str, definition: str, shape: PrefillShape | None) -> PrefillShape:
    """``shape``, or :class:`ShapeNeeded` where the definition cannot do without it."""
    if shape is None:
        raise ShapeNeeded(
            f"a {definition} budget of {owner} depends on the decoder and the prompt; "
            "pass with_budget(..., shape=PrefillShape)"
        )
    return shape


def spent(definition: str, visual_per_layer: Sequence[float], shape: PrefillShape) -> float:
    """Visual tokens that a schedule spends under ``definition``."""
    if definition == "input":
        return visual_per_layer[0]
    if definition == "final":
        return visual_per_layer[-1]
    if definition == "layer_mean":
        return math.fsum(visual_per_layer) / len(visual_per_layer)
    return shape.flops_tokens(visual_per_layer)


def solve(owner: str, definition: str, target: float, spend: Callable[[float], float], high: float) -> float:
    """The argument in ``[0, high]`` at which ``spend`` comes closest to ``target``.

    Args:
        owner: name of the method, for the message.
        definition: name of the budget's definition, for the message.
        target: visual tokens to spend.
        spend: non-decreasing; may have steps.
        high: argument beyond which nothing more can be spent.

    Raises:
        UserError: even ``spend(0)`` is more than ``target``.
    """
    least = spend(0.0)
    if least > target + 1e-6:
        raise UserError(
            f"{owner} spends at least {least:.4g} visual tokens ({definition}) because it drops inside the decoder; "
            f"got a budget of {target:g}: ask for at least that, or drop at an earlier layer"
        )
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        if spend(middle) <= target:
            low = middle
        else:
            high = middle
    return low if target - spend(low) <= spend(high) - target or spend(high) <= target else high
