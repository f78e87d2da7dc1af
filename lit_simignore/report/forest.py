"""A forest plot cut into table rows: each method's difference from the baseline with its interval, on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lit_simignore.report import axis, formats
from lit_simignore.report.axis import Axis
from lit_simignore.report.drawing import FONT, SIZE, rule, words
from lit_simignore.report.markup import Markup, element
from lit_simignore.report.palette import Look
from lit_simignore.report.summary import MethodRow, RunView
from lit_simignore.report.verdict import Verdict, verdict

ROW_HEIGHT = 24.0
_WIDTH, _MARGIN = 170.0, 9.0
# Points. Less than that is no difference that anyone would want magnified.
_NARROWEST = 2.0


class _Estimate(NamedTuple):
    """What a row shows: a value and the ends of its interval, in percent or points."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Forest:
    """The scale of the rows.

    Args:
        scale: places values.
        paired: rows show differences from the baseline in points; else accuracies in percent.
    """

    scale: Axis
    paired: bool

    @classmethod
    def of(cls, view: RunView) -> Forest:
        """Differences where any method has one, else accuracies."""
        paired = any(row.delta is not None for row in view.rows)
        found = [value for row in view.rows for value in _estimate(row, paired) if value is not None]
        lowest, highest = (-100.0, 100.0) if paired else (0.0, 100.0)
        ends = [*found, 0.0] if paired else found
        span = (_MARGIN, _WIDTH - _MARGIN)
        scale = axis.linear(ends, *span, lowest=lowest, highest=highest, wanted=4, narrowest=_NARROWEST)
        return cls(scale, paired)

    def heading(self) -> Markup:
        """The numbers of the scale."""
        marks = [_tick(self.scale.place(tick), tick, self.paired) for tick in self.scale.ticks]
        return strip(marks, _WIDTH, 14, "points of difference" if self.paired else "accuracy in percent")

    def row(self, row: MethodRow, look: Look) -> Markup | None:
        """One method's marker and interval; hollow where the test cannot tell it from the baseline."""
        value, low, high = _estimate(row, self.paired)
        if value is None:
            return None
        y = ROW_HEIGHT / 2
        parts = []
        if self.paired:
            zero = self.scale.place(0.0)
            parts.append(rule(zero, 0, zero, ROW_HEIGHT, ink=True, width=0.8))
        if low is not None and high is not None:
            line = {"class_": f"{look.css_class} stroke", "stroke": look.colour, "stroke_width": 1.8}
            parts.append(element("line", x1=self.scale.place(low), y1=y, x2=self.scale.place(high), y2=y, **line))
        parts.append(look.marker(self.scale.place(value), y, 4.6, hollow=verdict(row) is Verdict.UNCLEAR))
        said = formats.signed(value) if self.paired else f"{value:.1f}"
        return strip(parts, _WIDTH, ROW_HEIGHT, f"{said} with its interval")


def _estimate(row: MethodRow, paired: bool) -> _Estimate:
    if paired and row.is_baseline:
        return _Estimate(0.0, None, None)
    if paired:
        return _Estimate(row.delta, row.delta_low, row.delta_high)
    found = (row.accuracy, row.ci_low, row.ci_high)
    return _Estimate(*(None if value is None else 100 * value for value in found))


def _tick(x: float, value: float, paired: bool) -> Markup:
    text = f"{value:+g}".replace("-", "−") if paired and value else f"{value:g}"
    return words(x, 11, text, size=SIZE - 1, anchor="middle", muted=True)


def strip(parts: Sequence[Markup | None], width: float, height: float, label: str) -> Markup:
    """A small picture within a cell of a table."""
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        class_="figure",
        role="img",
        aria_label=label,
        font_family=FONT,
    )
