"""The table of a sweep: every method of every job, in the page, in the terminal, and as plain rows for files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lit_simignore.report import formats
from lit_simignore.report.markup import Markup, element
from lit_simignore.report.palette import glyph, looks
from lit_simignore.report.sweep_view import NAMED_BY_METHOD, SweepRow, SweepView, shown
from lit_simignore.report.table import Column, grid_lines
from lit_simignore.report.verdict import Verdict, verdict

MARKS = {Verdict.BETTER: "▲", Verdict.WORSE: "▼", Verdict.UNCLEAR: "○"}
_PLAIN_MARKS = {Verdict.BETTER: "+", Verdict.WORSE: "-", Verdict.UNCLEAR: "~"}


@dataclass(frozen=True, slots=True)
class _Cells:
    """A column of the page: its title, what it is, its text and the number by which it is sorted."""

    title: str
    help: str
    text: Callable[[int, SweepRow], object]
    number: Callable[[int, SweepRow], float | None] = lambda place, row: None


def sweep_table(view: SweepView) -> Markup:
    """The table of the page; rows carry the number by which figures refer to them."""
    look_of, columns = looks(row.row.name for row in view.rows), _columns(view)
    head = [element("th", "method", scope="col", class_="name")]
    head += [element("th", column.title, scope="col", title=column.help or None) for column in columns]
    body = []
    for place, row in enumerate(view.rows):
        name = element("span", glyph(look_of[row.row.name]), element("bdi", row.row.name), class_="method")
        cells = [element("th", name, scope="row")]
        for column in columns:
            number = column.number(place, row)
            value = None if number is None else f"{number:.9g}"
            cells.append(element("td", column.text(place, row), data_v=value))
        body.append(element("tr", *cells, class_=f"row-{verdict(row.row).name.lower()}", data_r=place))
    table = element("table", element("thead", element("tr", *head)), element("tbody", *body), class_="results")
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label="table, scrolls sideways")


def _columns(view: SweepView) -> list[_Cells]:
    unit = formats.flops_unit(row.tflops for row in view.rows)
    flops, time = view.best_by_flops(), view.best_by_time()
    found = [_Cells("job", "run folder", lambda place, row: _job(row))]
    if not view.one_place:
        found.append(_Cells("model · benchmark", "", lambda place, row: row.where))
    found += [_parameter(name) for name in view.varied]
    found += [
        _Cells("accuracy %", "with its 95% interval", lambda place, row: _accuracy(row), lambda p, r: r.row.accuracy),
        _Cells(
            "points",
            "difference from the untouched model on the same samples, with its 95% interval",
            lambda place, row: _difference(row),
            lambda place, row: row.row.delta,
        ),
        _Cells("p", "exact paired test", lambda place, row: _p(row, row.row.p_value), lambda p, r: r.row.p_value),
        _Cells(
            "p Holm",
            "corrected for all comparisons of this table",
            lambda place, row: _p(row, row.row.p_holm),
            lambda place, row: row.row.p_holm,
        ),
        _Cells(
            "tokens",
            "visual tokens, mean over layers",
            lambda place, row: formats.tokens(_tokens(row)),
            lambda place, row: _tokens(row),
        ),
        _Cells(
            f"prefill {unit.name}",
            "",
            lambda place, row: formats.significant(_scaled(row.tflops, unit.per_tflop)),
            lambda place, row: row.tflops,
        ),
        _Cells("prefill ms", "measured", lambda p, r: formats.significant(r.milliseconds), lambda p, r: r.milliseconds),
        _Cells(
            "time share",
            "measured prefill time as a share of the untouched model's in the same job",
            lambda place, row: formats.MISSING if row.time_share is None else f"{row.time_share:.2f}",
            lambda place, row: row.time_share,
        ),
        _Cells("front", "on the Pareto front by FLOPs, by time", lambda p, r: _front(p, flops, time)),
    ]  # fmt: skip
    return found


def _parameter(name: str) -> _Cells:
    return _Cells(
        name,
        "",
        lambda place, row: element("bdi", shown(row.values[name])) if name in row.values else "",
        lambda place, row: formats.number(row.values.get(name)),
    )


def _job(row: SweepRow) -> str:
    return row.jobs[0] if len(row.jobs) == 1 else f"{len(row.jobs)} jobs"


def _front(place: int, flops: set[int], time: set[int]) -> str:
    return ", ".join(word for word, found in (("FLOPs", flops), ("time", time)) if place in found)


def _tokens(row: SweepRow) -> float | None:
    return row.row.budget.get("layer_mean")


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _accuracy(row: SweepRow) -> Markup:
    low, high = row.row.ci_low, row.row.ci_high
    interval = None if low is None or high is None else f" {formats.percent(low)}–{formats.percent(high)}"
    return element("span", element("b", formats.percent(row.row.accuracy)), interval and element("small", interval))


def _difference(row: SweepRow) -> Markup | str:
    found, low, high = row.row, row.row.delta_low, row.row.delta_high
    if found.is_baseline or found.delta is None:
        return "" if found.is_baseline else formats.MISSING
    interval = None if low is None or high is None else f" {_minus(low)} … {_minus(high)}"
    kind = verdict(found)
    mark = element("span", f" {MARKS[kind]}", class_=kind.name.lower(), title=kind.value) if kind in MARKS else None
    return element("span", element("b", _minus(found.delta)), interval and element("small", interval), mark)


def _minus(points: float) -> str:
    return formats.signed(points).replace("-", "−")


def _p(row: SweepRow, p: float | None) -> str:
    return "" if row.row.is_baseline else formats.p_text(p)


def render_sweep(view: SweepView) -> str:
    """The table for the terminal: at most 120 columns, the least important ones left out."""
    rows, unit = view.rows, formats.flops_unit(row.tflops for row in view.rows)
    if not rows:
        return "No job has results yet."

    def column(first: str, second: str, cell: Callable[[SweepRow], str], rank: int) -> Column:
        return Column((first, second), tuple(cell(row) for row in rows), rank)

    columns = [column("", "job", lambda row: _job(row).partition("-")[0], 6)]
    for rank, name in enumerate(view.varied):
        if name not in NAMED_BY_METHOD:
            title = formats.one_line(name)[-16:]
            columns.append(column("", title, lambda row, name=name: _value(row, name), 7 + rank))  # type: ignore[misc]
    columns += [
        column("acc.", "%", lambda row: formats.percent(row.row.accuracy), 0),
        column("diff.", "(pp)", lambda row: formats.signed(row.row.delta), 1),
        column("", "p Holm", _plain_p, 1),
        column("tokens", "mean", lambda row: formats.tokens(_tokens(row)), 4),
        column("prefill", unit.name, lambda row: formats.significant(_scaled(row.tflops, unit.per_tflop)), 2),
        column("prefill", "ms", lambda row: formats.significant(row.milliseconds), 5),
        column("time", "share", lambda row: "-" if row.time_share is None else f"{row.time_share:.2f}", 3),
    ]
    return "\n".join(grid_lines([row.row.name for row in rows], columns))


def _value(row: SweepRow, name: str) -> str:
    return shown(row.values[name])[:20] if name in row.values else ""


def _plain_p(row: SweepRow) -> str:
    mark = _PLAIN_MARKS.get(verdict(row.row))
    return formats.MISSING if row.row.p_holm is None else f"{formats.p_text(row.row.p_holm)} {mark or ''}".rstrip()


def plain_rows(view: SweepView) -> list[dict[str, Any]]:
    """Every row as plain data: shares are 0 to 1, differences in percentage points, as in the page."""
    flops, time = view.best_by_flops(), view.best_by_time()
    return [
        {
            "jobs": list(row.jobs),
            "method": row.row.key,
            "where": row.where,
            "values": dict(row.values),
            "n": row.row.n,
            "accuracy": row.row.accuracy,
            "ci_low": row.row.ci_low,
            "ci_high": row.row.ci_high,
            "delta_points": row.row.delta,
            "delta_low": row.row.delta_low,
            "delta_high": row.row.delta_high,
            "p_value": row.row.p_value,
            "p_holm": row.row.p_holm,
            "verdict": verdict(row.row).value,
            "tokens_layer_mean": _tokens(row),
            "prefill_tflops": row.tflops,
            "prefill_ms": row.milliseconds,
            "time_share": row.time_share,
            "front_flops": place in flops,
            "front_time": place in time,
        }
        for place, row in enumerate(view.rows)
    ]


def to_csv(view: SweepView) -> str:
    """The rows as CSV, parameters in columns of their own."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    names = list(dict.fromkeys(key for row in view.rows for key in row.values))
    for number, row in enumerate(plain_rows(view)):
        values = row.pop("values")
        row["jobs"] = " ".join(row["jobs"])
        if not number:
            writer.writerow([*(f"param:{name}" for name in names), *row])
        writer.writerow([_inert(value) for value in (*(values.get(name) for name in names), *row.values())])
    return target.getvalue()


def _inert(value: object) -> object:
    """Text that a file can hold, and that no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = formats.clean(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
