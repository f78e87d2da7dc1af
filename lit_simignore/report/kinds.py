"""Accuracy by kind of question: a grid of methods by kinds, tinted by the difference from the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lit_simignore.report import formats
from lit_simignore.report.drawing import SIZE, words
from lit_simignore.report.labels import text_width
from lit_simignore.report.markup import Markup, element, join
from lit_simignore.report.palette import FAINT, GAIN, LOSS, looks
from lit_simignore.report.summary import KindScore, MethodRow, RunView

_CELL_MIN, _CELL_MAX, _CELL_HEIGHT, _GAP = 58.0, 124.0, 30.0, 2.0
_NAME_WIDTH = 190.0
_STEPS = (2.0, 5.0, 10.0, 20.0)
_MOST_KINDS = 24


def kinds_of(view: RunView) -> list[str]:
    """The kinds of a run, most frequent first, 24 at most; a single kind is no break-down and gives none."""
    sizes: dict[str, int] = {}
    for row in view.rows:
        for kind, score in row.by_kind.items():
            sizes[kind] = max(sizes.get(kind, 0), score.n)
    found = sorted(sizes, key=lambda kind: (-sizes[kind], kind))
    return found[:_MOST_KINDS] if len(found) > 1 else []


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the cells lie: names take ``left`` pixels, headings ``top``; headings that do not fit are turned."""

    left: float
    top: float
    cell: float
    turned: bool

    def x(self, column: int) -> float:
        return self.left + column * (self.cell + _GAP)

    def y(self, row: int) -> float:
        return self.top + row * (_CELL_HEIGHT + _GAP)


def kinds_grid(view: RunView, wanted_width: float) -> tuple[Markup, float, float]:
    """Draw the grid.

    Returns:
        The parts to put into an SVG element, their width (more than wanted where there are many kinds) and their
        height. Every cell has its number in print and the sign of its difference, so that the tint is not needed.
    """
    kinds = kinds_of(view)
    layout = _layout(view, kinds, wanted_width)
    parts = [_heading(kind, _size(view, kind), layout, column) for column, kind in enumerate(kinds)]
    look_of = looks(row.name for row in view.rows)
    for index, row in enumerate(view.rows):
        middle = layout.y(index) + _CELL_HEIGHT / 2
        parts.append(look_of[row.name].marker(7, middle, 4.6))
        parts.append(words(20, middle + 4, _fit(row.name, layout.left - 24), bold=row.is_baseline))
        parts += _cells(row, view.baseline, kinds, layout, index)
    overhang = 0.87 * max(text_width(_short(kind), SIZE) for kind in kinds) if layout.turned else 0.0
    width = max(layout.x(len(kinds)), layout.x(len(kinds) - 1) + overhang + 34)
    return join(parts), width, layout.y(len(view.rows)) + 4


def _layout(view: RunView, kinds: Sequence[str], wanted_width: float) -> _Layout:
    left = min(max(text_width(row.name, SIZE) for row in view.rows) + 28, _NAME_WIDTH)
    widest = max(text_width(_short(kind), SIZE) for kind in kinds)
    cell, turned = (wanted_width - left - 8) / len(kinds) - _GAP, False
    if widest > cell:
        cell, turned = (wanted_width - left - 0.87 * widest) / len(kinds) - _GAP, True
    cell = min(max(cell, _CELL_MIN), _CELL_MAX)
    return _Layout(left, widest * 0.5 + 38 if turned else 38, cell, turned)


def _size(view: RunView, kind: str) -> int:
    return max(row.by_kind[kind].n for row in view.rows if kind in row.by_kind)


def _heading(kind: str, size: int, layout: _Layout, column: int) -> Markup:
    middle = layout.x(column) + layout.cell / 2
    title = words(0, 0, _short(kind), anchor="start" if layout.turned else "middle")
    turn = f"translate({middle - 4:g} {layout.top - 24:g}) rotate(-30)"
    placed = element("g", title, transform=turn if layout.turned else f"translate({middle:g} {layout.top - 21:g})")
    return join([placed, words(middle, layout.top - 7, f"n = {size:,}", size=SIZE - 2, anchor="middle", muted=True)])


def _cells(
    row: MethodRow, baseline: MethodRow | None, kinds: Sequence[str], layout: _Layout, index: int
) -> list[Markup]:
    parts = []
    for column, kind in enumerate(kinds):
        reference = None if baseline is None or row.is_baseline else baseline.by_kind.get(kind)
        parts.append(_cell(row.by_kind.get(kind), reference, layout.x(column), layout.y(index), layout.cell))
    return parts


def _cell(score: KindScore | None, reference: KindScore | None, x: float, y: float, width: float) -> Markup:
    accuracy = None if score is None else score.accuracy
    difference = None
    if accuracy is not None and reference is not None and reference.accuracy is not None:
        difference = 100 * (accuracy - reference.accuracy)
    middle = x + width / 2
    size = {"x": x, "y": y, "width": width, "height": _CELL_HEIGHT, "rx": 3}
    parts = [
        element("rect", **size, class_="cell", fill=FAINT),
        _tint(difference, size),
        words(middle, y + (19 if difference is None else 14), formats.percent(accuracy), anchor="middle"),
    ]
    if difference is not None:
        text = formats.signed(difference).replace("-", "−")
        parts.append(words(middle, y + _CELL_HEIGHT - 5, text, size=SIZE - 2, anchor="middle", muted=True))
    return join(parts)


def _tint(difference: float | None, size: Mapping[str, float]) -> Markup | None:
    """Colour in five steps of strength; differences under two points stay plain."""
    strength = sum(abs(difference) >= step for step in _STEPS) if difference is not None else 0
    if difference is None or strength == 0:
        return None
    side, colour = ("gain", GAIN) if difference > 0 else ("loss", LOSS)
    return element("rect", **size, class_=f"tint {side}", fill=colour, fill_opacity=0.1 * strength + 0.05)


def _short(kind: str) -> str:
    title = formats.one_line(kind) or "(none)"
    return title if len(title) <= 22 else f"{title[:21]}…"


def _fit(name: str, width: float) -> str:
    if text_width(name, SIZE) <= width:
        return name
    while name and text_width(name, SIZE) > width - 8:
        name = name[:-1]
    return f"{name}…"
