"""Axes of figures: a value's place in pixels, and ticks at round values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps ``low..high`` to ``start..end`` pixels, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """The pixel of a value; values beyond the ends are drawn at the ends."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return self.start + (self.end - self.start) * (at - low) / (high - low)


def linear(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    lowest: float,
    highest: float,
    wanted: int = 6,
    narrowest: float = 1e-9,
) -> Axis:
    """An axis whose ends are ticks and which holds all values, within ``lowest..highest``.

    Values that lie within ``narrowest`` get an axis that wide about them, or of a twentieth of their size where that is
    more: else rounding errors are drawn as differences, and labels lie over each other.
    """
    low, high = (min(values), max(values)) if values else (lowest, highest)
    if high - low < narrowest:
        middle = (low + high) / 2
        margin = max(narrowest / 2, abs(middle) * 0.05 if high - low < 1e-9 else 0.0, 1e-6)
        low, high = middle - margin, middle + margin
    step = _step((high - low) / wanted)
    low, high = max(lowest, math.floor(low / step) * step), min(highest, math.ceil(high / step) * step)
    if high <= low:
        low, high = high - step, high
    first = math.ceil(low / step - 1e-9)
    ticks = tuple(index * step for index in range(first, math.floor(high / step + 1e-9) + 1))
    return Axis(low, high, start, end, ticks)


def _step(rough: float) -> float:
    size = 10.0 ** math.floor(math.log10(rough))
    return next(step * size for step in _STEPS if step * size >= rough * (1 - 1e-9))


def halving(values: Sequence[float], top: float, start: float, end: float) -> Axis:
    """A logarithmic axis with ticks at ``top``, ``top / 2``, ``top / 4`` ... for positive values."""
    low, high = min([*values, top]) / 1.18, max([*values, top]) * 1.12
    ticks = [top]
    while ticks[-1] / 2 >= low:
        ticks.append(ticks[-1] / 2)
    return Axis(low, high, start, end, tuple(ticks), logarithmic=True)
