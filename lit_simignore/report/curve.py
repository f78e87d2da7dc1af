"""Accuracy against what a method costs (visual tokens, measured time), with intervals and the baseline's band."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lit_simignore.report import axis, formats
from lit_simignore.report.axis import Axis
from lit_simignore.report.drawing import SIZE, rule, words
from lit_simignore.report.labels import Box, Place, around, place_labels, text_width
from lit_simignore.report.markup import Markup, element, join
from lit_simignore.report.palette import FAINT, Look, looks, series_of
from lit_simignore.report.summary import MethodRow, RunView
from lit_simignore.report.verdict import Verdict, verdict

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 16.0, 30.0, 46.0
_RADIUS = 4.6
_LEGEND_LINE = 18.0
_NAME_LIMIT = 44
_MOST_LABELS = 14


@dataclass(frozen=True, slots=True)
class Cost:
    """What the horizontal axis shows."""

    label: str
    of: Callable[[MethodRow], float | None]
    halving: bool = False


@dataclass(frozen=True, slots=True)
class _Point:
    row: MethodRow
    look: Look
    cost: float
    x: float
    y: float
    low: float
    high: float


def token_cost(view: RunView) -> Cost | None:
    """Visual tokens under the fairest definition that is known for every method: the mean over decoder layers first."""
    for key, label in (
        ("layer_mean", "visual tokens per decoder layer (mean)"),
        ("final", "visual tokens after the last layer"),
        ("input", "visual tokens at the decoder's input"),
    ):
        found = [row.budget.get(key) for row in view.rows if row.accuracy is not None]
        if found and None not in found:
            return Cost(label, lambda row, key=key: row.budget.get(key), halving=True)  # type: ignore[misc]
    return None


def time_cost(view: RunView) -> Cost | None:
    """Measured prefill time, where any method but the baseline has one."""
    known = [row for row in view.rows if row.efficiency.get("prefill_ms") is not None and row.accuracy is not None]
    if len(known) < 2:
        return None
    sizes = {row.efficiency.get("batch_size") for row in known}
    size = sizes.pop() if len(sizes) == 1 else None
    batch = "batch" if size is None else "sample" if size == 1 else f"batch of {size:g}"
    return Cost(f"prefill, ms per {batch} (measured)", lambda row: row.efficiency.get("prefill_ms"))


def curve(view: RunView, cost: Cost, width: float = 560, height: float = 340) -> tuple[Markup, float]:
    """Draw the figure.

    Returns:
        The parts to put into an SVG element, and the height they take, which grows with a legend for names that found
        no place beside their points. Hollow markers are methods that the test cannot tell from the baseline.
    """
    rows = [row for row in view.rows if row.accuracy is not None and cost.of(row) is not None]
    if not rows:
        return words(width / 2, height / 2, "no scored method yet", anchor="middle", muted=True), height
    horizontal, vertical = _axes(view, rows, cost, width, height)
    points = _points(view, rows, cost, horizontal, vertical)
    named, unnamed = _names(points, _frame(width, height))
    legend, extra = _legend(unnamed, width, height)
    parts = [
        _grid(horizontal, vertical, cost, width, height),
        _band(view.baseline, vertical, width),
        *(_line(series) for series in _series(points).values()),
        *map(_whisker, points),
        *map(_marker, points),
        named,
        legend,
    ]
    return join(parts), height + extra


def _frame(width: float, height: float) -> Box:
    return Box(_LEFT, _TOP - 14, width - 4, height - _BOTTOM)


def _axes(view: RunView, rows: Sequence[MethodRow], cost: Cost, width: float, height: float) -> tuple[Axis, Axis]:
    costs = [found for row in rows if (found := cost.of(row)) is not None]
    accuracies = [100 * value for row in rows for value in (row.accuracy, row.ci_low, row.ci_high) if value is not None]
    start, end = _LEFT + 14, width - _RIGHT - 10
    if cost.halving and min(costs) > 0 and max(costs) >= 3 * min(costs):
        horizontal = axis.halving(costs, max(costs), start, end)
    else:
        horizontal = axis.linear(costs, start, end, lowest=0, highest=float("inf"))
    return horizontal, axis.linear(accuracies, height - _BOTTOM, _TOP, lowest=0, highest=100)


def _points(view: RunView, rows: Sequence[MethodRow], cost: Cost, horizontal: Axis, vertical: Axis) -> list[_Point]:
    look_of = looks(row.name for row in view.rows)
    spent = [cost.of(row) or 0.0 for row in rows]
    places = _side_by_side([horizontal.place(value) for value in spent], horizontal)
    return [
        _Point(
            row=row,
            look=look_of[row.name],
            cost=value,
            x=x,
            y=vertical.place(100 * (row.accuracy or 0.0)),
            low=vertical.place(100 * (row.accuracy if row.ci_low is None else row.ci_low)),  # type: ignore[operator]
            high=vertical.place(100 * (row.accuracy if row.ci_high is None else row.ci_high)),  # type: ignore[operator]
        )
        for row, value, x in zip(rows, spent, places, strict=True)
    ]


def _side_by_side(places: list[float], horizontal: Axis) -> list[float]:
    """Spread points of (nearly) equal cost, whose intervals would hide one another."""
    groups: list[list[int]] = []
    for index in sorted(range(len(places)), key=places.__getitem__):
        if groups and places[index] - places[groups[-1][0]] < 4:
            groups[-1].append(index)
        else:
            groups.append([index])
    centres = [places[members[0]] for members in groups]
    spread = list(places)
    for members, centre in zip(groups, centres, strict=True):
        nearest = min((abs(other - centre) for other in centres if other != centre), default=horizontal.end - centre)
        gap = min(11.0, max(0.45 * nearest, 12.0) / len(members))
        reach = gap * (len(members) - 1)
        first = min(max(centre - reach / 2, horizontal.start - 8), horizontal.end + 8 - reach)
        for position, index in enumerate(sorted(members)):
            spread[index] = first + gap * position
    return spread


def _series(points: Sequence[_Point]) -> dict[str, list[_Point]]:
    found: dict[str, list[_Point]] = defaultdict(list)
    for point in points:
        found[series_of(point.row.name)].append(point)
    return {name: sorted(members, key=lambda point: point.x) for name, members in found.items()}


def _grid(horizontal: Axis, vertical: Axis, cost: Cost, width: float, height: float) -> Markup:
    bottom = height - _BOTTOM
    parts = [words(6, 15, "accuracy (%)", muted=True, size=SIZE - 0.5)]
    for tick in vertical.ticks:
        y = vertical.place(tick)
        parts += [rule(_LEFT, y, width - _RIGHT, y), words(_LEFT - 7, y + 4, f"{tick:g}", anchor="end", muted=True)]
    for tick in horizontal.ticks:
        x = horizontal.place(tick)
        parts += [
            rule(x, bottom, x, bottom + 5, ink=True),
            words(x, bottom + 19, f"{tick:.4g}", anchor="middle", muted=True),
        ]
    parts.append(rule(_LEFT, bottom, width - _RIGHT, bottom, ink=True))
    scale = ", logarithmic" if horizontal.logarithmic else ""
    parts.append(words((_LEFT + width - _RIGHT) / 2, bottom + 38, cost.label + scale, anchor="middle", muted=True))
    return join(parts)


def _band(baseline: MethodRow | None, vertical: Axis, width: float) -> Markup | None:
    if baseline is None or baseline.accuracy is None:
        return None
    parts = []
    if baseline.ci_low is not None and baseline.ci_high is not None:
        top, bottom = vertical.place(100 * baseline.ci_high), vertical.place(100 * baseline.ci_low)
        size = {"width": width - _LEFT - _RIGHT, "height": bottom - top}
        parts.append(element("rect", x=_LEFT, y=top, **size, class_="band", fill=FAINT, fill_opacity=0.85))
    y = vertical.place(100 * baseline.accuracy)
    parts.append(rule(_LEFT, y, width - _RIGHT, y, ink=True, width=1.2, dash="5 4"))
    return join(parts)


def _line(series: Sequence[_Point]) -> Markup | None:
    if len(series) < 2:
        return None
    look = series[0].look
    points = " ".join(f"{point.x:.1f},{point.y:.1f}" for point in series)
    return element(
        "polyline",
        points=points,
        class_=f"{look.css_class} stroke",
        fill="none",
        stroke=look.colour,
        stroke_width=1.8,
        stroke_dasharray=look.dash,
    )


def _whisker(point: _Point) -> Markup | None:
    if point.row.ci_low is None or point.row.ci_high is None:
        return None
    x, low, high = (f"{value:.1f}" for value in (point.x, point.low, point.high))
    left, right = f"{point.x - 3:.1f}", f"{point.x + 3:.1f}"
    return element(
        "path",
        d=f"M{x} {low}V{high}M{left} {low}H{right}M{left} {high}H{right}",
        class_=f"{point.look.css_class} stroke",
        stroke=point.look.colour,
        stroke_width=1.3,
        stroke_opacity=0.6,
        fill="none",
    )


def _marker(point: _Point) -> Markup:
    row = point.row
    facts = f"{row.name}: {formats.percent(row.accuracy)}% at {formats.significant(point.cost)}"
    drawn = point.look.marker(point.x, point.y, _RADIUS, hollow=verdict(row) is Verdict.UNCLEAR)
    return element("g", element("title", facts), drawn)


def _names(points: Sequence[_Point], frame: Box) -> tuple[Markup, list[tuple[str, Look]]]:
    series = _series(points)
    # Where points stand alone there is room: crowded series get their names last.
    order = sorted(series, key=lambda name: (series[name][0].look.index is not None, -_room(series[name], points)))
    if len(series) > _MOST_LABELS:
        order = [name for name in order if series[name][0].look.index is None]
    titles = {name: name if len(name) <= _NAME_LIMIT else f"{name[: _NAME_LIMIT - 1]}…" for name in series}
    wanted = [(text_width(titles[name], SIZE), 15.0, [(p.x, p.y) for p in series[name]]) for name in order]
    hard = [around(point.x, point.y, _RADIUS + 2.5) for point in points]
    soft = [Box(point.x - 3, point.high - 2, point.x + 3, point.low + 2) for point in points]
    soft += [around(x, y, 2) for members in series.values() for x, y in _along(members)]
    placed = place_labels(wanted, hard, soft, frame)
    found = {name: place for name, place in zip(order, placed, strict=True) if place is not None}
    parts = [_label(titles[name], place, series[name][0].look) for name, place in found.items()]
    return join(parts), [(titles[name], members[0].look) for name, members in series.items() if name not in found]


def _along(series: Sequence[_Point]) -> list[tuple[float, float]]:
    """Places on the line through a series, close enough to keep labels off it."""
    return [
        (before.x + (after.x - before.x) * step / 12, before.y + (after.y - before.y) * step / 12)
        for before, after in zip(series, series[1:], strict=False)
        for step in range(1, 12)
    ]


def _room(series: Sequence[_Point], points: Sequence[_Point]) -> float:
    mine = {id(point) for point in series}
    others = [other for other in points if id(other) not in mine]
    return max(
        min((abs(point.x - other.x) + abs(point.y - other.y) for other in others), default=0.0) for point in series
    )


def _label(text: str, place: Place, look: Look) -> Markup:
    box = place.box
    parts = []
    if place.leader is not None:
        x, y = place.leader
        near_x, near_y = min(max(x, box.left), box.right), min(max(y, box.top + 3), box.bottom - 3)
        parts.append(rule(x, y, near_x, near_y, ink=True, width=0.6))
    middle = (box.left + box.right) / 2
    parts.append(words(middle, box.bottom - 4, text, anchor="middle", halo=True, bold=look.index is None))
    return join(parts)


def _legend(unnamed: Sequence[tuple[str, Look]], width: float, height: float) -> tuple[Markup | None, float]:
    if not unnamed:
        return None, 0.0
    widest = max(text_width(name, SIZE) for name, _ in unnamed) + 26
    per_line = max(1, int((width - _LEFT) // widest))
    parts = []
    for index, (name, look) in enumerate(unnamed):
        x, y = _LEFT + widest * (index % per_line), height + 14 + _LEGEND_LINE * (index // per_line)
        parts += [look.marker(x, y, _RADIUS), words(x + 11, y + 4, name)]
    return join(parts), _LEGEND_LINE * -(-len(unnamed) // per_line) + 14
