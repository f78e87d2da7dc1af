"""Accuracy against what it costs, over all runs of a sweep, with the Pareto front as a staircase."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lit_simignore.report import axis, formats
from lit_simignore.report.axis import Axis
from lit_simignore.report.drawing import SIZE, rule, words
from lit_simignore.report.labels import Box, around, place_labels, text_width
from lit_simignore.report.markup import Markup, element, join
from lit_simignore.report.palette import INK, Look, looks
from lit_simignore.report.sweep_view import SweepRow, SweepView
from lit_simignore.report.verdict import Verdict, verdict

WIDTH, HEIGHT = 560.0, 360.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 16.0, 18.0, 46.0
_RADIUS = 4.6
_NAME_LIMIT = 30
_MOST_LABELS = 12


@dataclass(frozen=True, slots=True)
class _Point:
    place: int
    row: SweepRow
    look: Look
    cost: float
    x: float
    y: float


def flops_curve(view: SweepView) -> Markup | None:
    """Accuracy against prefill FLOPs; ``None`` where fewer than two rows have both."""
    unit = formats.flops_unit(row.tflops for row in view.scored)

    def cost(row: SweepRow) -> float | None:
        return None if row.tflops is None else row.tflops * unit.per_tflop

    return _curve(view, cost, view.best_by_flops(), f"prefill, {unit.name} per sample")


def time_curve(view: SweepView) -> Markup | None:
    """Accuracy against measured prefill time; ``None`` where fewer than two rows have both."""
    label = "prefill time, share of the untouched model's in the same job" if view.one_place else "prefill, ms"
    return _curve(view, view.time, view.best_by_time(), f"{label} (measured)")


def _curve(view: SweepView, cost: Callable[[SweepRow], float | None], best: set[int], label: str) -> Markup | None:
    rows = [(place, row, cost(row)) for place, row in enumerate(view.rows) if row.row.accuracy is not None]
    known = [(place, row, spent) for place, row, spent in rows if spent is not None]
    if len(known) < 2:
        return None
    horizontal = axis.linear([spent for _, _, spent in known], _LEFT + 14, WIDTH - _RIGHT - 10, lowest=0, highest=1e30)
    vertical = _vertical([row for _, row, _ in known])
    look_of = looks(row.row.name for row in view.rows)
    points = [
        _Point(
            place, row, look_of[row.row.name], spent,
            horizontal.place(spent), vertical.place(100 * (row.row.accuracy or 0.0)),
        )
        for place, row, spent in known
    ]  # fmt: skip
    on_front = sorted((point for point in points if point.place in best), key=lambda point: (point.x, -point.y))
    return join(
        [
            _grid(horizontal, vertical, label),
            _staircase(on_front),
            *(_whisker(point, vertical) for point in on_front),
            *(_marker(point, point.place in best) for point in points),
            _labels(on_front, points),
        ]
    )


def _vertical(rows: Sequence[SweepRow]) -> Axis:
    ends = [value for row in rows for value in (row.row.accuracy, row.row.ci_low, row.row.ci_high) if value is not None]
    return axis.linear([100 * value for value in ends], HEIGHT - _BOTTOM, _TOP, lowest=0, highest=100)


def _grid(horizontal: Axis, vertical: Axis, label: str) -> Markup:
    bottom = HEIGHT - _BOTTOM
    parts = []
    for tick in vertical.ticks:
        y = vertical.place(tick)
        parts += [rule(_LEFT, y, WIDTH - _RIGHT, y), words(_LEFT - 7, y + 4, f"{tick:g}", anchor="end", muted=True)]
    for tick in horizontal.ticks:
        x = horizontal.place(tick)
        text = formats.significant(tick) if tick < 1e4 else f"{tick:,.0f}"
        parts += [rule(x, bottom, x, bottom + 4), words(x, bottom + 18, _short(text), anchor="middle", muted=True)]
    parts.append(words((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 8, label, anchor="middle", muted=True))
    parts.append(words(_LEFT, _TOP - 6, "accuracy %", muted=True))
    return join(parts)


def _short(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number


def _staircase(points: Sequence[_Point]) -> Markup | None:
    if not points:
        return None
    path = f"M{points[0].x:.1f} {HEIGHT - _BOTTOM:.1f}V{points[0].y:.1f}"
    for point in points[1:]:
        path += f"H{point.x:.1f}V{point.y:.1f}"
    path += f"H{WIDTH - _RIGHT:.1f}"
    return element("path", d=path, class_="front", fill="none", stroke=INK, stroke_width=1.4, stroke_dasharray="5 4")


def _whisker(point: _Point, vertical: Axis) -> Markup | None:
    row = point.row.row
    if row.ci_low is None or row.ci_high is None:
        return None
    low, high = vertical.place(100 * row.ci_low), vertical.place(100 * row.ci_high)
    return element(
        "path",
        d=f"M{point.x:.1f} {low:.1f}V{high:.1f}",
        class_=f"{point.look.css_class} stroke",
        stroke=point.look.colour,
        stroke_width=1.3,
        stroke_opacity=0.45,
        fill="none",
    )


def _marker(point: _Point, on_front: bool) -> Markup:
    row = point.row.row
    facts = f"{row.name} ({', '.join(point.row.jobs[:3])}): {formats.percent(row.accuracy)}% at "
    facts += f"{formats.significant(point.cost)}, {verdict(row).value}" + (", on the front" if on_front else "")
    drawn = point.look.marker(point.x, point.y, _RADIUS, hollow=verdict(row) is Verdict.UNCLEAR)
    return element(
        "g", element("title", facts), drawn, class_="point", data_r=point.place, opacity=None if on_front else 0.5
    )


def _labels(wanted: Sequence[_Point], points: Sequence[_Point]) -> Markup:
    """Names of the front's points; where a name stands for several rows, the number of the job."""
    names = Counter(point.row.row.name for point in points)
    chosen = wanted if len(wanted) <= _MOST_LABELS else wanted[:: -(-len(wanted) // _MOST_LABELS)]
    texts = [_label(point.row, names) for point in chosen]
    asked = [(text_width(text, SIZE), 15.0, [(point.x, point.y)]) for text, point in zip(texts, chosen, strict=True)]
    hard = [around(point.x, point.y, _RADIUS + 2.5) for point in points]
    frame = Box(_LEFT, _TOP - 8, WIDTH - 4, HEIGHT - _BOTTOM)
    parts = []
    for text, place in zip(texts, place_labels(asked, hard, [], frame), strict=True):
        if place is not None:
            middle = (place.box.left + place.box.right) / 2
            parts.append(words(middle, place.box.bottom - 4, text, anchor="middle", halo=True))
    return join(parts)


def _label(row: SweepRow, names: Counter[str]) -> str:
    name = row.row.name if names[row.row.name] == 1 else row.jobs[0].partition("-")[0]
    return name if len(name) <= _NAME_LIMIT else f"{name[: _NAME_LIMIT - 1]}…"
