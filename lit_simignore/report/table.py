"""The table of results for the terminal: plain text, 120 columns at most, only the columns that have values."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lit_simignore.report import formats, notes
from lit_simignore.report.formats import MISSING
from lit_simignore.report.summary import MethodRow, RunView, read_summary
from lit_simignore.report.verdict import Verdict, headline, verdict

WIDTH = 120
_GAP = 2
_NAME_MIN = 16
_MARKS = {Verdict.BETTER: "+", Verdict.WORSE: "-", Verdict.UNCLEAR: "~"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column with a two-line heading; columns with a high ``rank`` are the first to go when space is short."""

    heading: tuple[str, str]
    cells: tuple[str, ...]
    rank: int

    @property
    def width(self) -> int:
        return max(_width(text) for text in (*self.heading, *self.cells))


def render_table(summary: Mapping[str, object]) -> str:
    """Draw the results of a run.

    Args:
        summary: the contents of ``summary.json``.

    Returns:
        Lines of at most 120 columns, without terminal codes, without a line break at the end.

    Raises:
        UserError: ``summary`` has no list of methods.
    """
    view = read_summary(summary)
    grid = _grid(view) if view.rows else []
    blocks = [_title(view), grid, _own_numbers(view), _wrapped([headline(view)]), _footer(view)]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _title(view: RunView) -> list[str]:
    facts = [view.fact("model"), view.fact("benchmark"), formats.plural(view.num_samples, "sample")]
    protocol = view.fact("protocol")
    facts += [f"protocol {protocol}"] if protocol else []
    return _wrapped([", ".join(fact for fact in facts if fact)], bullet="")


def _footer(view: RunView) -> list[str]:
    marks = [f"{mark} {kind.value}" for kind, mark in _MARKS.items() if kind in map(verdict, view.rows)]
    legend = [f"Mark after p Holm: {', '.join(marks)} (p < 0.05)."] if marks else []
    return _wrapped([f"! {line}" for line in notes.warnings(view)] + legend + notes.explanations(view), bullet="  ")


def _wrapped(lines: Sequence[str], bullet: str = "") -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent=bullet)]


def _own_numbers(view: RunView) -> list[str]:
    """The benchmark's own numbers, on the scale of its papers."""
    columns: list[Column] = []
    for name in view.headline:
        first, _, last = formats.one_line(name).replace("_", " ").rpartition(" ")
        cells = tuple(formats.significant(row.extra.get(name)) for row in view.rows)
        columns.append(Column((first, last), cells, rank=len(columns)))
    return grid_lines([row.name for row in view.rows], columns) if columns else []


def _grid(view: RunView) -> list[str]:
    columns = [column for column in _columns(view) if any(cell != MISSING for cell in column.cells)]
    return grid_lines([row.name for row in view.rows], columns)


def grid_lines(names: Sequence[str], columns: Sequence[Column]) -> list[str]:
    """A table of at most :data:`WIDTH` columns, one line per name; where space is short, high ranks go first."""
    columns = list(columns)
    wanted = min(max(map(_width, [*names, "method"])), 40)
    while columns and _total(columns) + wanted > WIDTH:
        if _total(columns) + _NAME_MIN <= WIDTH and _distinct(names, WIDTH - _total(columns)):
            break
        columns.remove(max(columns, key=lambda column: column.rank))
    name_width = min(wanted, WIDTH - _total(columns))
    lines = [
        _line(["", *(column.heading[0] for column in columns)], name_width, columns),
        _line(["method", *(column.heading[1] for column in columns)], name_width, columns),
    ]
    lines.append("-" * max(map(_width, lines)))
    for index, name in enumerate(names):
        cells = [column.cells[index] for column in columns]
        lines.append(_line([_squeezed(name, name_width), *cells], name_width, columns))
    return lines


def _total(columns: Sequence[Column]) -> int:
    return sum(column.width + _GAP for column in columns)


def _distinct(names: Sequence[str], width: int) -> bool:
    return len({_squeezed(name, width) for name in names}) == len(set(names))


def _line(cells: Sequence[str], name_width: int, columns: Sequence[Column]) -> str:
    first = cells[0] + " " * (name_width - _width(cells[0]))
    rest = [" " * (_GAP + column.width - _width(cell)) + cell for cell, column in zip(cells[1:], columns, strict=True)]
    return (first + "".join(rest)).rstrip()


def _squeezed(name: str, width: int) -> str:
    """Cut out of the middle: variants of a method differ at the end of their names."""
    if _width(name) <= width:
        return name
    head, tail = (width - 2) // 2, width - 2 - (width - 2) // 2
    return f"{_fitting(name, head)}..{_fitting(name[::-1], tail)[::-1]}"


def _fitting(text: str, width: int) -> str:
    while _width(text) > width:
        text = text[:-1]
    return text


def _width(text: str) -> int:
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _columns(view: RunView) -> list[Column]:
    def column(heading: tuple[str, str], cell: Callable[[MethodRow], str], rank: int) -> Column:
        return Column(heading, tuple(cell(row) for row in view.rows), rank)

    flops = formats.flops_unit(row.budget.get("prefill_tflops") for row in view.rows)
    return [
        column(("acc.", "%"), lambda row: formats.percent(row.accuracy), 0),
        column(("95%", "interval"), _interval, 1),
        column(("diff.", "(pp)"), lambda row: formats.signed(row.delta), 2),
        column(("interval", "of diff."), _difference_interval, 9),
        column(("paired", "p"), lambda row: formats.p_text(row.p_value), 3),
        column(("", "p Holm"), _holm, 2),
        column(("fixed/", "broken"), _flips, 4),
        *_token_columns(view, column),
        column(("needed", "kept %"), lambda row: formats.percent(row.needed_recall), 6),
        *([column(("needed", "merged %"), lambda row: formats.percent(row.needed_carried), 8)] if view.merges else []),
        column(("prefill", flops.name), lambda row: _flops(row, flops), 5),
        column(("prefill", "ms"), lambda row: formats.significant(row.efficiency.get("prefill_ms")), 4),
        column(("speed", "up"), lambda row: formats.times(row.efficiency.get("speedup_prefill")), 4),
    ]


def _token_columns(view: RunView, column: Callable[..., Column]) -> list[Column]:
    """One column if the three counts agree for every method (as when all pruning comes before layer 0), else three."""
    counts = [[row.budget.get(key) for key in ("input", "final", "layer_mean")] for row in view.rows]
    if all(len(set(found)) == 1 for found in counts):
        return [column(("visual", "tokens"), lambda row: formats.tokens(row.budget.get("input")), 3)]
    return [
        column(("tokens", "in"), lambda row: formats.tokens(row.budget.get("input")), 7),
        column(("tokens", "out"), lambda row: formats.tokens(row.budget.get("final")), 8),
        column(("tokens", "mean"), lambda row: formats.tokens(row.budget.get("layer_mean")), 3),
    ]


def _interval(row: MethodRow) -> str:
    if row.ci_low is None or row.ci_high is None:
        return MISSING
    return f"{formats.percent(row.ci_low)}-{formats.percent(row.ci_high)}"


def _difference_interval(row: MethodRow) -> str:
    if row.delta_low is None or row.delta_high is None:
        return MISSING
    return f"{formats.signed(row.delta_low)} {formats.signed(row.delta_high)}"


def _holm(row: MethodRow) -> str:
    mark = _MARKS.get(verdict(row))
    return MISSING if row.p_holm is None else f"{formats.p_text(row.p_holm)} {mark}" if mark else MISSING


def _flips(row: MethodRow) -> str:
    if row.is_baseline or row.fixed is None or row.broken is None:
        return MISSING
    return f"{row.fixed:,}/{row.broken:,}"


def _flops(row: MethodRow, unit: formats.FlopsUnit) -> str:
    spent = row.budget.get("prefill_tflops")
    return MISSING if spent is None else formats.significant(spent * unit.per_tflop)
