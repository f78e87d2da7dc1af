"""One offline file that shows a run: ``report.html``, drawn from the run folder alone.

The page loads nothing: its policy allows its own style sheet and script by their hashes, images as data URIs, and
nothing else. Whatever comes from data or models passes :mod:`lit_simignore.report.markup`, which escapes it; none of it
gets into the script or the style sheet.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_simignore.report import notes
from lit_simignore.report.controls import controls, pager
from lit_simignore.report.curve import curve, time_cost, token_cost
from lit_simignore.report.document import asset, document, replace_file
from lit_simignore.report.drawing import picture
from lit_simignore.report.facts import facts_section
from lit_simignore.report.flow_section import flow_figures, flow_section
from lit_simignore.report.folder import RunFolder, read_folder
from lit_simignore.report.formats import plural
from lit_simignore.report.kinds import kinds_grid, kinds_of
from lit_simignore.report.markup import Markup, element
from lit_simignore.report.results import cost_table, results_table
from lit_simignore.report.samples import Gallery, build_gallery
from lit_simignore.report.summary import RunView
from lit_simignore.report.verdict import headline

REPORT_FILE = "report.html"
_ROWS_BESIDE = 12


def write_report(run_dir: Path | str) -> Path:
    """Draw the report of a run folder and put it there in one step, over an older one.

    The figures of an analysis are also written as SVG files, beside the arrays in ``flow/``.

    Args:
        run_dir: a run folder; only ``summary.json`` is indispensable.

    Returns:
        The path of ``report.html``.

    Raises:
        UserError: there is no readable ``summary.json``.
    """
    run_dir = Path(run_dir)
    folder = read_folder(run_dir)
    if folder.flow is not None:
        for name, (_, drawn) in flow_figures(folder.flow).items():
            replace_file(run_dir / "flow" / f"{name}.svg", drawn)
    return replace_file(run_dir / REPORT_FILE, render_page(folder))


def render_page(folder: RunFolder) -> str:
    """The report as text."""
    gallery = build_gallery(folder)
    flow, maps = (None, None) if folder.flow is None else flow_section(folder, folder.flow)
    if maps is not None:
        gallery.pictures.update(maps.pictures)
        gallery.columns |= maps.columns
    body = [
        gallery.definitions(),
        None if maps is None else maps.definitions(),
        element(
            "main",
            _header(folder.view),
            _results(folder.view),
            _figures(folder.view),
            flow,
            _samples(folder, gallery),
            facts_section(folder.view, folder.config),
        ),
    ]
    title = " · ".join(filter(None, [folder.view.fact("model"), folder.view.fact("benchmark"), "lit_simignore"]))
    return document(title, body, asset("page.css"), asset("page.js"))


def _header(view: RunView) -> Markup:
    title = " on ".join(filter(None, [view.fact("model"), view.fact("benchmark")])) or "A run"
    facts = [view.fact("name"), plural(view.num_samples, "sample"), view.fact("protocol"), view.fact("created")[:19]]
    state = None if view.complete else element("span", "incomplete", class_="chip warn")
    return element(
        "header",
        element("p", "lit_simignore", class_="eyebrow"),
        element("h1", element("bdi", title), state),
        element("p", *_dotted(facts), class_="facts-line"),
        element("p", headline(view), class_="finding"),
        *(element("p", line, class_="note warn") for line in notes.warnings(view)),
    )


def _dotted(facts: Sequence[str]) -> list[Markup]:
    return [element("span", element("bdi", fact)) for fact in facts if fact]


def _results(view: RunView) -> Markup:
    further = cost_table(view) if view.rows else None
    return element(
        "section",
        results_table(view) if view.rows else element("p", "No method has been run yet.", class_="empty"),
        *(element("p", line, class_="note") for line in notes.explanations(view)),
        element("details", element("summary", "More numbers"), further) if further else None,
        id="results",
    )


def _figures(view: RunView) -> Markup | None:
    figures = []
    costs = {"Accuracy against visual tokens": token_cost(view), "Accuracy against time": time_cost(view)}
    for title, cost in costs.items():
        if cost is not None:
            parts, height = curve(view, cost)
            figures.append(_figure(title, picture([parts], 560, height, title)))
    if kinds_of(view):
        wide = len(figures) != 1 or len(view.rows) > _ROWS_BESIDE
        parts, width, height = kinds_grid(view, 1230 if wide else 560)
        title = "Accuracy by kind of question"
        figures.append(_figure(title, picture([parts], width, height, title), wide=wide or width > 640, grid=True))
    if not figures:
        return None
    caption = (
        "Hollow marker: not distinguishable from the baseline. Bars and grey band: 95% interval. "
        "Dashed line: baseline. Points of equal cost are set side by side."
    )
    boxes = element("div", *figures, class_="figures")
    return element("section", boxes, element("p", caption, class_="note"), id="figures")


def _figure(title: str, drawn: Markup, *, wide: bool = False, grid: bool = False) -> Markup:
    scroll = element("div", drawn, class_="scroll", tabindex=0, role="region", aria_label=title)
    css = f"figure-box{' wide' if wide else ''}{' grid' if grid else ''}"
    return element("div", element("h2", title), scroll, class_=css)


def _samples(folder: RunFolder, gallery: Gallery) -> Markup:
    remarks = [folder.problem, folder.media.problem if gallery.cards else ""]
    if gallery.left_out:
        remarks.append(f"{plural(gallery.left_out, 'more sample')} left out to keep this file small.")
    return element(
        "section",
        element("h2", "Samples"),
        *(element("p", remark, class_="note") for remark in remarks if remark),
        controls(folder.view, gallery.kinds) if gallery.cards else None,
        element("div", *gallery.cards, id="cards"),
        pager() if gallery.cards else None,
        id="samples",
    )
