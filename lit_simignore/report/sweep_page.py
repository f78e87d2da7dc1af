"""One offline page over all runs of a sweep, finished or not."""

from __future__ import annotations

from lit_simignore.report import formats
from lit_simignore.report.document import asset, document
from lit_simignore.report.drawing import picture
from lit_simignore.report.formats import percent, plural, signed
from lit_simignore.report.markup import Markup, element
from lit_simignore.report.sweep_coordinates import HEIGHT as COORDINATES_HEIGHT
from lit_simignore.report.sweep_coordinates import coordinates
from lit_simignore.report.sweep_curve import HEIGHT, WIDTH, flops_curve, time_curve
from lit_simignore.report.sweep_table import sweep_table
from lit_simignore.report.sweep_view import NAMED_BY_METHOD, SweepJob, SweepRow, SweepView, shown
from lit_simignore.report.verdict import Verdict, verdict

_MOST_UNFINISHED = 200


def render_sweep_page(view: SweepView) -> str:
    """The page as text."""
    results = sweep_table(view) if view.rows else element("p", "No job has results yet.", class_="empty")
    body = element(
        "main",
        _header(view),
        _coordinates(view),
        _curves(view),
        element("section", element("h2", "Every method of every job"), results, *_notes(view), id="results"),
        _unfinished(view),
        _settings(view),
    )
    title = f"{view.name} · sweep · lit_simignore"
    return document(title, [body], asset("page.css", "sweep.css"), asset("page.js", "sweep.js"))


def state_line(view: SweepView) -> str:
    """``10 of 12 jobs complete, 1 failed, 1 not run yet``."""
    states = [job.state for job in view.jobs] + ["not run yet"] * (view.total - len(view.jobs))
    others = [f"{states.count(state)} {state}" for state in dict.fromkeys(states) if state != "complete"]
    return ", ".join([f"{view.complete} of {plural(view.total, 'job')} complete", *others])


def finding(view: SweepView) -> str:
    """What came out, in a few short sentences."""
    rows = view.compared
    if not rows:
        return "Nothing is compared with the untouched model yet."
    kinds = [verdict(row.row) for row in rows]
    tested = sum(kind is not Verdict.UNTESTED for kind in kinds)
    words = {Verdict.BETTER: "better", Verdict.UNCLEAR: "not distinguishable", Verdict.WORSE: "worse"}
    counts = ", ".join(f"{kinds.count(kind)} {word}" for kind, word in words.items())
    best = max(rows, key=lambda row: row.row.accuracy or 0.0)
    sentences = [
        f"Against the untouched model, at p < 0.05 after Holm over {plural(tested, 'comparison')}: {counts}.",
        f"Highest accuracy: {_described(best, view)}.",
    ]
    sound = [row for row in rows if verdict(row.row) in (Verdict.BETTER, Verdict.UNCLEAR) and row.tflops is not None]
    if sound and view.one_place:
        cheapest = min(sound, key=lambda row: (row.tflops or 0.0, -(row.row.accuracy or 0.0)))
        sentences.append(f"Fewest FLOPs without being found worse: {_described(cheapest, view)}.")
    return " ".join(sentences)


def _described(row: SweepRow, view: SweepView) -> str:
    keys = [key for key in view.varied if key in row.values and key not in NAMED_BY_METHOD]
    values = ", ".join(f"{key}={shown(row.values[key])}" for key in keys)
    base = next((each.tflops for each in view.rows if each.row.is_baseline and each.where == row.where), None)
    cost = "" if not base or row.tflops is None else f", at {percent(row.tflops / base, 0)}% of the FLOPs"
    points = "" if row.row.delta is None else f" ({signed(row.row.delta)} points)"
    return f"{row.row.name}, {percent(row.row.accuracy)}%{points}{cost}" + (f", with {values}" if values else "")


def _header(view: SweepView) -> Markup:
    facts = [view.facts.get(key, "") for key in ("model", "benchmark", "protocol")]
    if "num_samples" in view.facts:
        facts.append(f"{view.facts['num_samples']} samples per job")
    state = None if view.complete == view.total else element("span", "unfinished", class_="chip warn")
    line = [element("span", element("bdi", fact)) for fact in facts if fact]
    return element(
        "header",
        element("p", "lit_simignore · sweep", class_="eyebrow"),
        element("h1", element("bdi", view.name), state),
        element("p", *line, class_="facts-line"),
        element("p", f"{state_line(view)}.", class_="note"),
        element("p", finding(view), class_="finding"),
    )


def _coordinates(view: SweepView) -> Markup | None:
    drawn = coordinates(view)
    if drawn is None:
        return None
    parts, width = drawn
    title = "From parameters to accuracy"
    scroll = element(
        "div", picture([parts], width, COORDINATES_HEIGHT, title), class_="scroll", tabindex=0, role="region",
        aria_label=f"{title}; the table below holds the same numbers",
    )  # fmt: skip
    help_text = (
        "One line per method and job, in the colour of its method; a hollow end is not distinguishable from the "
        "untouched model."
    )
    how = element("span", " Draw along an axis to pick a range, click it to let go.", class_="scripted-only")
    controls = element(
        "p",
        element("output", id="picked", aria_live="polite"),
        element("button", "show all", type="button", id="unpick", hidden=True),
        class_="picking",
    )
    box = element("div", element("h2", title), controls, scroll, class_="figure-box wide coords")
    return element("section", box, element("p", help_text, how, class_="note"), id="coordinates")


def _curves(view: SweepView) -> Markup | None:
    boxes = []
    for title, parts in (
        ("Accuracy against FLOPs", flops_curve(view)),
        ("Accuracy against measured time", time_curve(view)),
    ):
        if parts is not None:
            drawn = element("div", picture([parts], WIDTH, HEIGHT, title), class_="scroll")
            boxes.append(element("div", element("h2", title), drawn, class_="figure-box"))
    if not boxes:
        return None
    caption = (
        "Dashed: the Pareto front, which nothing beats in accuracy without costing more; pale points are not on it. "
        "It joins measured values, so neighbours within each other's interval (bars) may change places. "
        "Hollow: not distinguishable from the untouched model (black circle)."
    )
    figures = element("div", *boxes, class_="figures")
    return element("section", figures, element("p", caption, class_="note"), id="figures")


def _notes(view: SweepView) -> list[Markup]:
    lines = [
        "▲ better, ▼ worse, ○ not distinguishable from the untouched model: exact paired test on the same samples, "
        "p < 0.05 after Holm's correction for all comparisons in this table.",
    ]
    if any(row.milliseconds is not None for row in view.rows):
        lines.append(
            "Times are of the timing pass of each job. Jobs that ran side by side slow each other down; the share of "
            "the untouched model's time in the same job, taken in turns with it, is less touched by that."
        )
    if not view.one_place:
        lines.append("The jobs are of several models or benchmarks: costs and fronts mix them.")
    return [element("p", line, class_="note") for line in lines]


def _unfinished(view: SweepView) -> Markup | None:
    jobs = [job for job in view.jobs if job.state != "complete"]
    if not jobs:
        return None
    rows = [_unfinished_row(job) for job in jobs[:_MOST_UNFINISHED]]
    head = element("tr", *(element("th", word, scope="col", class_="name") for word in ("job", "state", "values", "")))
    table = element("table", element("thead", head), element("tbody", *rows), class_="unfinished")
    more = len(jobs) - len(rows)
    return element(
        "section",
        element("h2", "Jobs that are not complete"),
        element("div", table, class_="scroll", tabindex=0, role="region", aria_label="jobs, scrolls sideways"),
        element("p", f"{more} more are not shown.", class_="note") if more else None,
        id="unfinished",
    )


def _unfinished_row(job: SweepJob) -> Markup:
    values = " ".join(f"{key}={shown(value)}" for key, value in job.values.items())
    cells = [element("td", element("bdi", text)) for text in (job.state, values, job.note)]
    return element("tr", element("th", job.name, scope="row"), *cells)


def _settings(view: SweepView) -> Markup | None:
    pairs = {**view.facts, **view.constants}
    if not pairs:
        return None
    rows = [
        element("div", element("dt", formats.one_line(key)), element("dd", element("bdi", shown(value))))
        for key, value in pairs.items()
    ]
    return element("section", element("h2", "The same in all jobs"), element("dl", *rows), id="settings")
