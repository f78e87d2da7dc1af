"""Values over decoder layers: lines with their intervals, named at their right ends, and a level to compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lit_simignore.report import axis
from lit_simignore.report.axis import Axis
from lit_simignore.report.drawing import SIZE, rule, words
from lit_simignore.report.labels import text_width
from lit_simignore.report.markup import Markup, element, join
from lit_simignore.report.palette import FAINT, Look

_LEFT, _TOP, _BOTTOM = 46.0, 30.0, 46.0
_GAP = 15.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line. Values are per cent, one per layer; NaN leaves a gap. Intervals are drawn where both ends are known."""

    name: str
    look: Look
    values: Sequence[float]
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Level:
    """A horizontal line to compare with, in per cent, named at the left."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Frame:
    """The axes of a figure over layers."""

    across: Axis
    up: Axis
    width: float
    height: float
    layers: Sequence[int]

    @property
    def bottom(self) -> float:
        """The horizontal axis."""
        return self.height - _BOTTOM

    @property
    def right(self) -> float:
        """Where the names begin."""
        return self.across.end


def frame(layers: Sequence[int], values: Sequence[float], names: Sequence[str], width: float, height: float) -> Frame:
    """Axes that hold all ``values`` (per cent) and leave room for ``names`` at the right."""
    room = max((text_width(name, SIZE) for name in names), default=0.0) + 26
    known = [value for value in values if math.isfinite(value)]
    low, high = min(layers), max(layers)
    margin = max((high - low) * 0.02, 0.3)
    ticks = _layer_ticks(layers)
    across = Axis(low - margin, high + margin, _LEFT, width - room, ticks)
    return Frame(across, axis.linear([0, *known], height - _BOTTOM, _TOP, lowest=0, highest=100), width, height, layers)


def _layer_ticks(layers: Sequence[int]) -> tuple[float, ...]:
    every = next(step for step in (1, 2, 4, 5, 10, 20, 50, 100, 1000) if len(layers) / step <= 17)
    return tuple(float(layer) for layer in layers if layer % every == 0) or (float(layers[0]),)


def line_figure(
    layers: Sequence[int], lines: Sequence[Line], unit: str, *, level: Level | None = None, width: float = 560,
    height: float = 330,
) -> tuple[Markup, float]:  # fmt: skip
    """Draw the figure.

    Args:
        layers: 0-based, ascending.
        lines: at least one.
        unit: what the vertical axis shows, with its unit.
        level: drawn dashed, with its name.
        width: in pixels.
        height: in pixels.

    Returns:
        Parts for an SVG element, and the height that they take.
    """
    values = [value for line in lines for value in (*line.values, *line.lows, *line.highs)]
    values += [] if level is None else [level.value]
    axes = frame(layers, values, [line.name for line in lines], width, height)
    parts = [grid(axes, unit)]
    if level is not None:
        y = axes.up.place(level.value)
        parts.append(rule(_LEFT, y, axes.right, y, ink=True, width=1.2, dash="5 4"))
        parts.append(words(axes.right - 4, y + 15, level.name, anchor="end", muted=True, halo=True))
    parts += [_drawn(line, axes) for line in lines]
    parts.append(_names(lines, axes))
    return join(parts), height


def grid(axes: Frame, unit: str) -> Markup:
    """Axes, ticks and what they show."""
    parts = [words(6, 15, unit, muted=True, size=SIZE - 0.5)]
    for tick in axes.up.ticks:
        y = axes.up.place(tick)
        parts += [rule(_LEFT, y, axes.right, y), words(_LEFT - 7, y + 4, f"{tick:g}", anchor="end", muted=True)]
    for tick in axes.across.ticks:
        x = axes.across.place(tick)
        parts.append(rule(x, axes.bottom, x, axes.bottom + 5, ink=True))
        parts.append(words(x, axes.bottom + 19, f"{tick:g}", anchor="middle", muted=True))
    parts.append(rule(_LEFT, axes.bottom, axes.right, axes.bottom, ink=True))
    middle = (_LEFT + axes.right) / 2
    parts.append(words(middle, axes.bottom + 38, "decoder layer (0-based)", anchor="middle", muted=True))
    return join(parts)


def _drawn(line: Line, axes: Frame) -> Markup:
    places = [
        (axes.across.place(layer), axes.up.place(value), value)
        for layer, value in zip(axes.layers, line.values, strict=True)
    ]
    known = [place for place in places if math.isfinite(place[2])]
    look = line.look
    path = "".join(
        f"{'M' if index == 0 or not math.isfinite(places[index - 1][2]) else 'L'}{x:.1f} {y:.1f}"
        for index, (x, y, value) in enumerate(places)
        if math.isfinite(value)
    )
    stroke = element(
        "path", d=path, class_=f"{look.css_class} stroke", fill="none", stroke=look.colour, stroke_width=1.8,
        stroke_dasharray=look.dash, stroke_linejoin="round",
    )  # fmt: skip
    dots = known if len(known) <= 40 else known[:: math.ceil(len(known) / 40)]
    marks = [
        element("g", element("title", f"{line.name}: {value:.1f}%"), look.marker(x, y, 3.4)) for x, y, value in dots
    ]
    return join([_ribbon(line, axes), stroke, *marks])


def _ribbon(line: Line, axes: Frame) -> Markup | None:
    ends = [
        (axes.across.place(layer), axes.up.place(low), axes.up.place(high))
        for layer, low, high in zip(axes.layers, line.lows, line.highs, strict=False)
        if math.isfinite(low) and math.isfinite(high)
    ]
    if len(ends) < 2:
        return None
    above = "L".join(f"{x:.1f} {high:.1f}" for x, _, high in ends)
    below = "L".join(f"{x:.1f} {low:.1f}" for x, low, _ in reversed(ends))
    return element(
        "path", d=f"M{above}L{below}z", class_=f"{line.look.css_class} wash", fill=line.look.colour, fill_opacity=0.16
    )


def _names(lines: Sequence[Line], axes: Frame) -> Markup:
    """Every name beside the right end of its line, moved apart where ends are close."""
    ends: list[tuple[float, Line]] = []
    for line in lines:
        known = [value for value in line.values if math.isfinite(value)]
        if known:
            ends.append((axes.up.place(known[-1]) + 4, line))
    ends.sort(key=lambda end: end[0])
    heights: list[float] = []
    for wanted, _ in ends:
        heights.append(max(wanted, heights[-1] + _GAP) if heights else wanted)
    too_low = max(0.0, heights[-1] - axes.bottom - 2) if heights else 0.0
    parts = []
    for height, (_, line) in zip(heights, ends, strict=True):
        parts.append(line.look.marker(axes.right + 9, height - too_low - 4, 3.8))
        parts.append(words(axes.right + 18, height - too_low, line.name))
    return join(parts)


def band(axes: Frame, low: float, high: float) -> Markup:
    """A horizontal stretch of values, in per cent."""
    top, bottom = axes.up.place(high), axes.up.place(low)
    size = {"width": axes.right - _LEFT, "height": max(bottom - top, 1.0)}
    return element("rect", x=_LEFT, y=top, **size, class_="band", fill=FAINT, fill_opacity=0.85)
