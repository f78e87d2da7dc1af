"""The table of results in the report: numbers with small graphics on common scales, one row per method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lit_simignore.report import formats
from lit_simignore.report.drawing import rule
from lit_simignore.report.flips import FlipScale, flip_bar
from lit_simignore.report.forest import ROW_HEIGHT, Forest, strip
from lit_simignore.report.markup import Markup, element
from lit_simignore.report.palette import Look, glyph, looks
from lit_simignore.report.summary import MethodRow, RunView
from lit_simignore.report.verdict import Verdict, verdict

_FLIP_WIDTH = 144.0
_MARKS = {Verdict.BETTER: "▲", Verdict.WORSE: "▼", Verdict.UNCLEAR: "○"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of numbers. ``value`` sorts and says whether there is anything; ``text`` is what is shown."""

    title: str
    value: Callable[[MethodRow], float | None]
    text: Callable[[float], str]
    help: str = ""


def results_table(view: RunView) -> Markup:
    """The headline table: accuracy and difference with intervals, p, flips, tokens, recall, cost."""
    forest = Forest.of(view)
    flips = FlipScale.fitting(view.rows, _FLIP_WIDTH, 34) if any(row.fixed is not None for row in view.rows) else None
    columns = [column for column in _columns(view) if _has_values(column, view.rows)]
    look_of = looks(row.name for row in view.rows)
    head = [_head("method", "name"), _head("accuracy %")]
    head += [_head("points", title="difference from the baseline in percentage points")] if forest.paired else []
    head.append(element("th", forest.heading(), scope="col", class_="graphic"))
    if flips is not None:
        head += [
            _head("p", title="exact paired test against the baseline"),
            _head("p Holm", title="corrected for the number of methods compared"),
            _head("broken | fixed", "graphic", title="answers lost and gained, and the net"),
        ]
    head += [_head(column.title, title=column.help) for column in columns]
    body = [_row(row, look_of[row.name], forest, flips, columns) for row in view.rows]
    return _table("results", head, body)


def cost_table(view: RunView) -> Markup | None:
    """Every further number of a run: aggregate metrics of the benchmark, and the measured costs."""
    columns = [column for column in _further(view) if _has_values(column, view.rows)]
    if not columns:
        return None
    look_of = looks(row.name for row in view.rows)
    head = [_head("method", "name"), *(_head(column.title, title=column.help) for column in columns)]
    body = [
        element("tr", _name(row, look_of[row.name]), *(_number(column, row) for column in columns)) for row in view.rows
    ]
    return _table("further", head, body)


def _table(css: str, head: Sequence[Markup], body: Sequence[Markup]) -> Markup:
    table = element("table", element("thead", element("tr", *head)), element("tbody", *body), class_=css)
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label="table, scrolls sideways")


def _has_values(column: Column, rows: Sequence[MethodRow]) -> bool:
    return any(column.value(row) is not None for row in rows)


def _columns(view: RunView) -> list[Column]:
    flops = formats.flops_unit(row.budget.get("prefill_tflops") for row in view.rows)
    return [
        *_token_columns(view),
        Column("needed kept %", lambda row: row.needed_recall, formats.percent, "needed patches that survive, mean"),
        Column(
            "needed merged %",
            lambda row: row.needed_carried,
            formats.percent,
            "needed patches that some surviving token is made of, for methods that merge, mean",
        ),
        Column(f"prefill {flops.name}", lambda row: _scaled(row.budget.get("prefill_tflops"), flops.per_tflop), _three),
        Column(
            "prefill ms",
            lambda row: row.efficiency.get("prefill_ms"),
            _three,
            "measured, per sample, vision tower included",
        ),
        Column("speed-up", lambda row: row.efficiency.get("speedup_prefill"), _times, "of the prefill, measured"),
    ]


def _token_columns(view: RunView) -> list[Column]:
    counts = [[row.budget.get(key) for key in ("input", "final", "layer_mean")] for row in view.rows]
    if all(len(set(found)) == 1 for found in counts):
        return [Column("visual tokens", lambda row: row.budget.get("input"), formats.tokens, "the same in every layer")]
    return [
        Column("tokens in", lambda row: row.budget.get("input"), formats.tokens, "visual tokens that enter layer 0"),
        Column("out", lambda row: row.budget.get("final"), formats.tokens, "visual tokens that leave the last layer"),
        Column("mean", lambda row: row.budget.get("layer_mean"), formats.tokens, "visual tokens, mean over layers"),
    ]


_EFFICIENCY_TITLES = {
    "vision_ms": "vision ms",
    "pruner_ms": "pruner ms",
    "counted_prefill_tflops": "counted prefill TFLOPs",
    "prefill_ms_p10": "prefill ms, 10%",
    "prefill_ms_p90": "prefill ms, 90%",
    "decode_tokens_per_s": "decoded tokens/s",
    "decode_tokens_per_s_p10": "decoded tokens/s, 10%",
    "decode_tokens_per_s_p90": "decoded tokens/s, 90%",
    "kv_cache_mib": "KV cache MiB",
    "peak_memory_mib": "peak memory MiB",
    "batch_size": "timed batch",
}


def _further(view: RunView) -> list[Column]:
    extra = dict.fromkeys(key for row in view.rows for key in row.extra)
    found = [
        Column("scored", lambda row: float(row.n), formats.count),
        Column("errors", lambda row: float(row.errors), formats.count),
        Column("unread", lambda row: float(row.unparsed), formats.count, "outputs without a readable answer"),
        Column("split", _split, formats.count, "answered in smaller batches, because a batch did not fit into memory"),
        Column("same output", lambda row: row.same_output, formats.count, "outputs equal to the baseline's"),
        Column("equal-FLOPs tokens", lambda row: row.budget.get("flops"), formats.tokens),
    ]
    found += [Column(formats.one_line(key), lambda row, key=key: row.extra.get(key), _three) for key in extra]  # type: ignore[misc]
    found += [
        Column(title, lambda row, key=key: row.efficiency.get(key), _three)  # type: ignore[misc]
        for key, title in _EFFICIENCY_TITLES.items()
    ]
    return found


def _split(row: MethodRow) -> float | None:
    return float(row.split) if row.split else None


def _three(value: float) -> str:
    return formats.significant(value)


def _times(value: float) -> str:
    return f"{value:.2f}×"


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _head(heading: str, css: str | None = None, *, title: str = "") -> Markup:
    return element("th", heading, scope="col", class_=css, title=title or None)


def _row(row: MethodRow, look: Look, forest: Forest, flips: FlipScale | None, columns: Sequence[Column]) -> Markup:
    found = verdict(row)
    cells = [_name(row, look), _accuracy(row)]
    cells += [_difference(row, found)] if forest.paired else []
    cells.append(element("td", forest.row(row, look), class_="graphic"))
    if flips is not None:
        cells += [_p(row, row.p_value), _p(row, row.p_holm), element("td", _flips(row, flips), class_="graphic")]
    cells += [_number(column, row) for column in columns]
    return element("tr", *cells, class_=f"row-{found.name.lower()}")


def _name(row: MethodRow, look: Look) -> Markup:
    return element("th", element("span", glyph(look), element("bdi", row.name), class_="method"), scope="row")


def _accuracy(row: MethodRow) -> Markup:
    interval = None
    if row.ci_low is not None and row.ci_high is not None:
        interval = element("small", f" {formats.percent(row.ci_low)}–{formats.percent(row.ci_high)}")
    return element("td", element("b", formats.percent(row.accuracy)), interval, data_v=_sortable(row.accuracy))


def _difference(row: MethodRow, found: Verdict) -> Markup:
    mark, interval = _MARKS.get(found), None
    sign = None if mark is None else element("span", f" {mark}", class_=found.name.lower(), title=found.value)
    if row.delta_low is not None and row.delta_high is not None:
        interval = element("small", f" {_signed(row.delta_low)} … {_signed(row.delta_high)}")
    points = _dash(row) if row.delta is None else _signed(row.delta)
    return element("td", element("b", points), interval, sign, data_v=_sortable(row.delta))


def _p(row: MethodRow, p: float | None) -> Markup:
    return element("td", _dash(row) if p is None else formats.p_text(p), data_v=_sortable(p))


def _signed(points: float) -> str:
    return formats.signed(points).replace("-", "−")


def _dash(row: MethodRow) -> str:
    return "" if row.is_baseline else "–"


def _flips(row: MethodRow, scale: FlipScale) -> Markup | None:
    bar = None if row.is_baseline else flip_bar(row, scale, ROW_HEIGHT / 2, 10)
    if bar is None:
        return None
    zero = rule(scale.middle, 0, scale.middle, ROW_HEIGHT, ink=True, width=0.8)
    return strip([zero, bar], _FLIP_WIDTH, ROW_HEIGHT, f"{row.broken} broken, {row.fixed} fixed")


def _number(column: Column, row: MethodRow) -> Markup:
    value = column.value(row)
    return element("td", "–" if value is None else column.text(value), data_v=_sortable(value))


def _sortable(value: float | None) -> str | None:
    return None if value is None else f"{value:.9g}"
