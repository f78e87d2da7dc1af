"""Answers that a method fixed and broke against the baseline, as bars about zero: what McNemar's test looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_simignore.report import formats
from lit_simignore.report.drawing import SIZE, rule, words
from lit_simignore.report.labels import text_width
from lit_simignore.report.markup import Markup, element, join
from lit_simignore.report.palette import GAIN, INK, LOSS, PAPER, looks
from lit_simignore.report.summary import MethodRow, RunView
from lit_simignore.report.verdict import Verdict, verdict

_ROW_MIN, _ROW_MAX = 24.0, 34.0
_BAR = 11.0
_VERDICT_MARKS = {Verdict.BETTER: "▲ better", Verdict.WORSE: "▼ worse", Verdict.UNCLEAR: "○ not distinguishable"}


@dataclass(frozen=True, slots=True)
class FlipScale:
    """Pixels from zero for a number of flips, the same for all methods of a run."""

    middle: float
    pixels_per_flip: float

    @classmethod
    def fitting(cls, rows: Sequence[MethodRow], width: float, margin: float) -> FlipScale:
        """The scale at which the longest bar leaves ``margin`` pixels for its number, on either side."""
        broken = max((row.broken or 0 for row in rows), default=0)
        fixed = max((row.fixed or 0 for row in rows), default=0)
        per_flip = (width - 2 * margin) / max(broken + fixed, 1)
        return cls(margin + broken * per_flip, per_flip)


def flip_bar(row: MethodRow, scale: FlipScale, y: float, height: float = _BAR) -> Markup | None:
    """The bar of one method about the line ``y``: broken hollow to the left, fixed solid to the right, net a tick."""
    if row.fixed is None or row.broken is None:
        return None
    left, right = row.broken * scale.pixels_per_flip, row.fixed * scale.pixels_per_flip
    top, net = y - height / 2, scale.middle + (row.fixed - row.broken) * scale.pixels_per_flip
    return join(
        [
            element("title", f"{row.fixed} fixed, {row.broken} broken"),
            _side(scale.middle - left, top, left, height, "loss"),
            _side(scale.middle, top, right, height, "gain"),
            words(scale.middle - left - 5, y + 4, f"{row.broken:,}", size=SIZE - 1, anchor="end", muted=True),
            words(scale.middle + right + 5, y + 4, f"{row.fixed:,}", size=SIZE - 1, muted=True),
            element("rect", x=net - 1.25, y=top - 3, width=2.5, height=height + 6, class_="net", fill=INK),
        ]
    )


def _side(x: float, y: float, width: float, height: float, side: str) -> Markup | None:
    if width <= 0:
        return None
    colour = GAIN if side == "gain" else LOSS
    # Solid against hollow: the two sides differ without colour as well.
    fill = {"fill": colour, "fill_opacity": 0.92} if side == "gain" else {"fill": PAPER, "fill_opacity": 0.6}
    return element("rect", x=x, y=y, width=width, height=height, class_=side, stroke=colour, stroke_width=1.2, **fill)


def flips_panel(view: RunView, width: float = 490, height: float = 330, *, most: int = 12) -> tuple[Markup, float]:
    """A row per method: marker and name, bar, difference, p and verdict; best first.

    Returns:
        The parts to put into an SVG element, and their height.
    """
    rows = sorted((row for row in view.methods if row.delta is not None), key=lambda row: -(row.delta or 0.0))
    if not rows:
        return words(width / 2, 40, "no method to compare with a baseline", anchor="middle", muted=True), 60.0
    shown = rows[:most]
    look_of = looks(row.name for row in view.rows)
    name_width = min(max(text_width(row.name, SIZE) for row in shown), 172.0)
    scale, start = FlipScale.fitting(shown, width - name_width - 246, 30), 22 + name_width
    step = min(max((height - 60) / len(shown), _ROW_MIN), _ROW_MAX)
    parts = [_headings(width, start + scale.middle)]
    for index, row in enumerate(shown):
        y = 44 + step * index
        bar = flip_bar(row, scale, y)
        parts += [
            look_of[row.name].marker(8, y, 4.6, hollow=verdict(row) is Verdict.UNCLEAR),
            words(20, y + 4, _fitted(row.name, name_width)),
            element("g", bar, transform=f"translate({start:g} 0)"),
            *_numbers(row, width, y),
        ]
    bottom = 44 + step * (len(shown) - 1) + 16
    parts.append(rule(start + scale.middle, 28, start + scale.middle, bottom, ink=True, width=0.8))
    if len(rows) > most:
        parts.append(words(20, bottom + 14, f"and {len(rows) - most} more methods", muted=True))
        bottom += 18
    return join(parts), bottom + 8


def _headings(width: float, zero: float) -> Markup:
    size = SIZE - 0.5
    return join(
        [
            words(zero - 8, 15, "◂ broken", size=size, anchor="end", muted=True),
            words(zero + 8, 15, "fixed ▸", size=size, muted=True),
            words(width - 178, 15, "points", size=size, anchor="end", muted=True),
            words(width - 130, 15, "p Holm", size=size, anchor="end", muted=True),
        ]
    )


def _numbers(row: MethodRow, width: float, y: float) -> list[Markup]:
    found = verdict(row)
    certain = found in (Verdict.BETTER, Verdict.WORSE)
    difference = formats.signed(row.delta).replace("-", "−")
    return [
        words(width - 178, y + 4, difference, anchor="end", bold=certain),
        words(width - 130, y + 4, formats.p_text(row.p), anchor="end", muted=not certain),
        words(width - 120, y + 4, _VERDICT_MARKS.get(found, ""), bold=certain, muted=not certain, size=SIZE - 0.5),
    ]


def _fitted(name: str, width: float) -> str:
    if text_width(name, SIZE) <= width:
        return name
    while name and text_width(name, SIZE) > width - 8:
        name = name[:-1]
    return f"{name}…"
