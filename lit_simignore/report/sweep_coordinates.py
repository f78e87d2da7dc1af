"""Parallel coordinates: one line per run from its parameters to its accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lit_simignore.report import axis, formats
from lit_simignore.report.drawing import rule, words
from lit_simignore.report.labels import text_width
from lit_simignore.report.markup import Markup, element, join
from lit_simignore.report.palette import looks
from lit_simignore.report.sweep_view import NAMED_BY_METHOD, SweepRow, SweepView, shown
from lit_simignore.report.verdict import Verdict, verdict

HEIGHT = 380.0
_TOP, _BOTTOM, _LEFT, _RIGHT = 44.0, 22.0, 30.0, 62.0
_SPACE, _NARROW = 1100.0, 150.0
_BRUSH = 26.0
_FEW, _LOGARITHMIC_FROM = 8, 30.0


@dataclass(frozen=True, slots=True)
class _Axis:
    """One vertical axis. ``place`` gives the pixel of a row, ``None`` where the row has no value."""

    title: str
    place: Callable[[SweepRow], float | None]
    ticks: Sequence[tuple[float, str]]


def coordinates(view: SweepView) -> tuple[Markup, float] | None:
    """Draw the figure.

    Returns:
        Its parts and its width; ``None`` where no parameter varies or fewer than two runs are scored.
    """
    rows = [(place, row) for place, row in enumerate(view.rows) if row in view.compared]
    axes = _axes(view, [row for _, row in rows])
    if len(rows) < 2 or len(axes) < 2:
        return None
    width = max(_SPACE, _LEFT + _RIGHT + _NARROW * (len(axes) - 1))
    step = (width - _LEFT - _RIGHT - 70) / (len(axes) - 1)
    xs = [_LEFT + 40 + index * step for index in range(len(axes))]
    ordered = sorted(rows, key=lambda found: found[1].row.accuracy or 0.0)  # the best lines lie on top
    lines = [_line(view, place, row, axes, xs) for place, row in ordered]
    frame = [rule(x, _TOP, x, HEIGHT - _BOTTOM, ink=True) for x in xs]
    return join([*frame, *lines, *_names(axes, xs, step)]), width


def _axes(view: SweepView, rows: Sequence[SweepRow]) -> list[_Axis]:
    found = [_parameter(name, rows) for name in view.varied]
    if len({row.series for row in rows}) > 1 and not set(NAMED_BY_METHOD) & set(view.varied):
        found.append(_words("method", {row.series for row in rows}, lambda row: row.series))
    return [*found, _accuracy(rows)]


def _parameter(name: str, rows: Sequence[SweepRow]) -> _Axis:
    values = [row.values[name] for row in rows if name in row.values]
    numbers = [formats.number(value) for value in values]
    known = [number for number in numbers if number is not None]
    if len(known) == len(values) and len(set(known)) > 1:
        return _numbers(name, known)
    texts = dict.fromkeys(shown(value) for value in values)
    return _words(name, texts, lambda row: shown(row.values[name]) if name in row.values else None)


def _numbers(name: str, values: Sequence[float]) -> _Axis:
    low, high, bottom = min(values), max(values), HEIGHT - _BOTTOM
    logarithmic = low > 0 and high / low >= _LOGARITHMIC_FROM
    distinct = sorted(set(values))
    scale = axis.Axis(low, high, bottom, _TOP, (), logarithmic)
    if len(distinct) <= _FEW:
        ticks = distinct
    elif logarithmic:
        decades = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        ticks = sorted({low, high, *(10.0**power for power in decades)})
    else:
        ticks = [tick for tick in axis.linear(values, 0, 1, lowest=low, highest=high).ticks if low <= tick <= high]

    def place(row: SweepRow) -> float | None:
        number = formats.number(row.values.get(name))
        return None if number is None else scale.place(number)

    return _Axis(name, place, _apart([(scale.place(tick), f"{tick:.4g}") for tick in ticks]))


def _apart(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Without the ticks that would touch the one before."""
    found: list[tuple[float, str]] = []
    for tick in ticks:
        if not found or abs(found[-1][0] - tick[0]) >= 13:
            found.append(tick)
    return found


def _words(title: str, texts: Mapping[str, object] | set[str], text: Callable[[SweepRow], str | None]) -> _Axis:
    names = sorted(texts) if isinstance(texts, set) else list(texts)
    gap = (HEIGHT - _BOTTOM - _TOP) / max(1, len(names) - 1)
    first = _TOP if len(names) > 1 else (_TOP + HEIGHT - _BOTTOM) / 2
    places = {name: first + gap * index for index, name in enumerate(names)}

    def place(row: SweepRow) -> float | None:
        found = text(row)
        return None if found is None else places.get(found)

    return _Axis(title, place, _apart([(at, name) for name, at in places.items()]))


def _accuracy(rows: Sequence[SweepRow]) -> _Axis:
    scale = axis.linear(
        [100 * (row.row.accuracy or 0.0) for row in rows], HEIGHT - _BOTTOM, _TOP, lowest=0, highest=100
    )
    ticks = [(scale.place(tick), f"{tick:g}") for tick in scale.ticks]
    return _Axis("accuracy %", lambda row: scale.place(100 * (row.row.accuracy or 0.0)), ticks)


def _names(axes: Sequence[_Axis], xs: Sequence[float], step: float) -> list[Markup]:
    """Titles and ticks, over the lines, and the strips in which a range can be drawn."""
    parts = []
    for index, (each, x) in enumerate(zip(axes, xs, strict=True)):
        anchor = "start" if index == 0 and text_width(each.title, 12) / 2 > x else "middle"
        title = words(x if anchor == "middle" else 2, _TOP - 20, _fitting(each.title, step), anchor=anchor, bold=True)
        parts.append(element("g", element("title", each.title), title))
        for y, text in each.ticks:
            label = words(x + 7, y + 4, _fitting(text, min(step - 12, 150)), halo=True, muted=True)
            parts += [rule(x - 4, y, x + 4, y, ink=True), element("g", element("title", text), label)]
        parts.append(
            element(
                "rect", x=x - _BRUSH / 2, y=_TOP - 10, width=_BRUSH, height=HEIGHT - _BOTTOM - _TOP + 20,
                class_="brush", fill="transparent", data_axis=index,
            )
        )  # fmt: skip
    return parts


def _fitting(text: str, width: float) -> str:
    if text_width(text, 12) <= width:
        return text
    while len(text) > 1 and text_width(f"{text}…", 12) > width:
        text = text[:-1]
    return f"{text}…"


def _line(view: SweepView, place: int, row: SweepRow, axes: Sequence[_Axis], xs: Sequence[float]) -> Markup:
    look = looks(each.row.name for each in view.rows)[row.row.name]
    ys = [each.place(row) for each in axes]
    corners = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None]
    values = ", ".join(f"{name}={shown(value)}" for name, value in row.values.items() if name in view.varied)
    facts = f"{row.row.name} ({row.jobs[0]}): {formats.percent(row.row.accuracy)}%, {verdict(row.row).value}; {values}"
    end = corners[-1]
    return element(
        "g",
        element("title", facts),
        element(
            "polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in corners), class_=f"{look.css_class} stroke",
            fill="none", stroke=look.colour, stroke_width=1.7, stroke_linejoin="round",
        ),
        look.marker(*end, 4.0, hollow=verdict(row.row) is Verdict.UNCLEAR),
        class_="line",
        data_r=place,
        data_y=" ".join("" if y is None else f"{y:.1f}" for y in ys).replace("  ", " - "),
    )  # fmt: skip
