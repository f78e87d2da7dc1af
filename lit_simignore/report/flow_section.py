"""The part of the report that shows where answers come from: figures over all samples, then the samples with maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lit_simignore.report.drawing import picture
from lit_simignore.report.flow_folder import Averages, FlowView, Truncated
from lit_simignore.report.flow_samples import MAP_TITLES, FlowCards, build_cards
from lit_simignore.report.folder import RunFolder
from lit_simignore.report.formats import plural
from lit_simignore.report.heat import colour_bar
from lit_simignore.report.layer_lines import Level, Line, line_figure
from lit_simignore.report.markup import Markup, element
from lit_simignore.report.palette import Look
from lit_simignore.report.sink_grid import sink_figure
from lit_simignore.report.truncation_curve import cliff_text, truncation_figure

_PARTS = ("system text", "image", "user text", "output so far")
_IMAGE = 1


def flow_figures(view: FlowView) -> dict[str, tuple[str, Markup]]:
    """Whole SVG pictures by name, each with its title: for the page, and to be written beside the arrays."""
    found: dict[str, tuple[str, Markup]] = {}
    if view.averages is not None:
        found["shares"] = _shares(view.averages, view.queries)
        needed = _on_needed(view.averages)
        if needed is not None:
            found["needed"] = needed
    if view.truncated is not None:
        found["truncation"] = _truncation(view.truncated)
    if view.averages is not None:
        found["sinks"] = _sinks(view.averages)
    return found


def _shares(averages: Averages, queries: str) -> tuple[str, Markup]:
    mean, low, high = 100 * averages.shares
    lines = [
        Line(name, Look(index), mean[:, part].tolist(), low[:, part].tolist(), high[:, part].tolist())
        for index, (part, name) in enumerate(_order())
        if np.nanmax(mean[:, part], initial=0.0) > 0.005
    ]
    even = 100 * float(averages.even[:, _IMAGE].mean())
    level = Level(f"image, if attention were even: {even:.0f}%", even)
    parts, height = line_figure(averages.layers.tolist(), lines, "attention (% of a query's attention)", level=level)
    most, least = int(mean[:, _IMAGE].argmax()), int(mean[:, _IMAGE].argmin())
    of = "that predict the answer" if queries == "answer" else "that end the prompt"
    title = (
        f"Tokens {of} look at the image most in layer {averages.layers[most]} ({mean[most, _IMAGE]:.0f}%), "
        f"least in layer {averages.layers[least]} ({mean[least, _IMAGE]:.0f}%)"
    )
    return title, picture([parts], 560, height, title)


def _order() -> list[tuple[int, str]]:
    """The image first: it has the first colour and marker."""
    return [(part, _PARTS[part]) for part in (1, 2, 0, 3)]


def _on_needed(averages: Averages) -> tuple[str, Markup] | None:
    if averages.needed_area is None or averages.on_needed.shape[1] != len(MAP_TITLES):
        return None
    mean, low, high = 100 * averages.on_needed
    lines = [
        Line(name, Look(index), mean[index].tolist(), low[index].tolist(), high[index].tolist())
        for index, name in enumerate(MAP_TITLES.values())
    ]
    even = 100 * averages.needed_area
    level = Level(f"even heat: {even:.1f}%", even)
    parts, height = line_figure(averages.layers.tolist(), lines, "heat on what the answer needs (%)", level=level)
    best, layer = np.unravel_index(int(np.nanargmax(mean)), mean.shape)
    share, where = mean[best, layer], f"{lines[best].name} in layer {averages.layers[layer]}"
    title = f"{where} puts {share:.0f}% of its heat on what the answer needs, {share / even:.1f} times its area"
    return title, picture([parts], 560, height, title)


def _truncation(found: Truncated) -> tuple[str, Markup]:
    parts, height = truncation_figure(found)
    allowed = f"{100 * found.tolerance:g} points"
    if found.cliff is None:
        title = f"Dropping all visual tokens costs more than {allowed} before every layer that was tried"
    else:
        title = f"From layer {found.cliff} on, all visual tokens can go at a loss of at most {allowed} of accuracy"
    return title, picture([parts], 560, height, f"{title}; {cliff_text(found)}")


def _sinks(averages: Averages) -> tuple[str, Markup]:
    parts, height = sink_figure(averages.layers, averages.sinks)
    by_layer = np.nanmean(averages.sinks, axis=1)
    most = int(by_layer.argmax())
    share = f"{100 * by_layer[most]:.0f}% of the visual tokens of a head"
    title = f"Vision sinks are most common in layer {averages.layers[most]}: {share}"
    return title, picture([parts], 560, height, title)


def flow_section(folder: RunFolder, view: FlowView) -> tuple[Markup, FlowCards]:
    """The section, and what the page must define for it."""
    start = _first_layer(view)
    made = build_cards(folder, view, start)
    figures = [
        element("div", element("h3", title), element("div", drawn, class_="scroll", tabindex=0), class_="figure-box")
        for title, drawn in flow_figures(view).values()
    ]
    section = element(
        "section",
        element("h2", "Where the answers come from"),
        *(element("p", problem, class_="note warn") for problem in view.problems),
        element("div", *figures, class_="figures") if figures else None,
        *(element("p", line, class_="note") for line in _notes(view)),
        _slider(view, start) if made.cards else None,
        *made.cards,
        id="flow",
    )
    return section, made


def _first_layer(view: FlowView) -> int:
    """The slider starts where CAM is most on what the answers need, on average; in the middle where that is unknown."""
    if view.averages is not None and np.isfinite(view.averages.on_needed[0, :1]).any():
        return int(np.nanargmax(view.averages.on_needed[0, 0]))
    return len(view.samples[0].layers) // 2 if view.samples else 0


def _slider(view: FlowView, start: int) -> Markup:
    layers = view.samples[0].layers
    return element(
        "form",
        element(
            "label",
            "Decoder layer ",
            element("input", type="range", id="layer", min=0, max=len(layers) - 1, value=start, step=1),
        ),
        element("output", f"{layers[start]}", id="layer-name"),
        element(
            "span", *(element("i", str(layer), hidden=True) for layer in layers.tolist()), id="layer-names", hidden=True
        ),
        element("span", "dark: none ", colour_bar(), " bright: the layer's hottest token", class_="ramp-line"),
        class_="layers",
    )


def _notes(view: FlowView) -> Sequence[str]:
    found = []
    if view.averages is not None:
        number = plural(view.averages.num_samples, "sample")
        found.append(
            f"Means over {number}, of the untouched model and its own answers; bands: 95% over resampled scenes. "
            "A vision sink is a visual token that gets more than 1.25 / L of the attention of the tokens behind it, L "
            "being the length of the prompt with its answer."
        )
    if view.truncated is not None:
        certain, number = view.truncated.certain, plural(view.truncated.num_samples, "sample")
        sure = "no layer that was tried is certain" if certain is None else f"certain from layer {certain} on"
        found.append(
            f"Truncation: {number}; bars: 95% of the difference from all tokens on the same samples; grey: the loss "
            f"that is allowed; {sure}. Layer 0: no layer sees the image."
        )
    if view.samples:
        found.append(
            "Maps are scaled to the hottest token of their layer, layer by layer; arrays and figures lie in flow/ of "
            "the run. CAM of the last layer is zero by construction: no attention behind it carries an image anywhere."
        )
    return found
