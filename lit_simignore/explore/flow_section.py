"""Where answers come from, as markup: maps over the image with one slider for all layers, shares of attention."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lit_simignore.attribution.shares import Part
from lit_simignore.explore.desk import Answered
from lit_simignore.explore.grid import grid_entry
from lit_simignore.explore.shelf import Held
from lit_simignore.report.drawing import picture
from lit_simignore.report.heat import colour_bar, heat_picture, sprite, sprite_definition
from lit_simignore.report.layer_lines import Level, Line, line_figure
from lit_simignore.report.markup import Markup, element
from lit_simignore.report.media import MediaEntry
from lit_simignore.report.palette import Look, glyph, looks
from lit_simignore.surgery.flow import Flow

_PARTS = {
    Part.VISUAL: "image",
    Part.USER: "user text",
    Part.SYSTEM: "system text",
    Part.OUTPUT: "output so far",
}
"""In the order of their colours, which are those of the report."""
_NOTES = (
    "Attention of the tokens that predict the answer, mean over heads and answer tokens, read in one more pass over "
    "prompt and answer. Maps are scaled to the brightest token of their layer."
)


def flow_section(shown: Sequence[Answered], held: Held) -> Markup | None:
    """Maps and shares of every answer whose flow was asked; ``None`` if it was not.

    Args:
        shown: the answers, the baseline's first.
        held: the image.
    """
    if not any(answered.flow is not None or answered.no_flow for answered in shown):
        return None
    look_of = dict(zip(shown, looks(["baseline", *(answered.name for answered in shown[1:])]).values(), strict=True))
    known = [(answered, answered.flow) for answered in shown if answered.flow is not None]
    return element(
        "section",
        element("h3", "Where the answer looks"),
        *(
            element("p", f"{answered.name}: {answered.no_flow}", class_="missing")
            for answered in shown
            if answered.no_flow
        ),
        _slider(known[0][1]) if known else None,
        _maps(known, held, look_of),
        element("div", *(_shares(answered, flow) for answered, flow in known), class_="figures"),
        element("p", _NOTES, class_="note") if known else None,
        id="flow",
    )


def _middle(flow: Flow) -> int:
    return len(flow.layers) // 2


def _slider(flow: Flow) -> Markup:
    middle = _middle(flow)
    layers = element("input", type="range", id="layer", min=0, max=len(flow.layers) - 1, value=middle, step=1)
    return element(
        "div",
        element("label", "Decoder layer ", layers),
        element("output", middle, id="layer-name", for_="layer"),
        element("span", "dark: none ", colour_bar(), " bright: the layer's most", class_="ramp-line"),
        class_="layers",
    )


def _maps(known: Sequence[tuple[Answered, Flow]], held: Held, look_of: dict[Answered, Look]) -> Markup | None:
    panels = []
    for answered, flow in known:
        entry = grid_entry(answered.call)
        if entry is None:
            continue
        look = look_of[answered]
        panels.append(_map(answered, "attention", flow.attention.mean(dim=1), flow, entry, held, look))
        if flow.cam is not None:
            panels.append(_map(answered, "LLaVA-CAM", flow.cam, flow, entry, held, look))
    return element("div", *panels, class_="panels") if panels else None


def _map(
    answered: Answered, kind: str, values: Tensor, flow: Flow, entry: MediaEntry, held: Held, look: Look
) -> Markup:
    """One map ``(N, I)`` over the image, and the image's share of attention in the layer that is shown."""
    found = sprite(values.reshape(len(values), entry.rows, entry.cols).numpy())
    middle = _middle(flow)
    lines = [
        element(
            "p",
            f"image gets {share:.0%} of the attention",
            class_="note at-layer",
            data_at=index,
            hidden=index != middle,
        )
        for index, share in enumerate(flow.shares[:, Part.VISUAL].tolist())
    ]
    head = element("span", glyph(look), element("bdi", answered.name), class_="method")
    label = f"{answered.name}: {kind} over the image"
    return element(
        "figure",
        element(
            "svg", element("defs", sprite_definition(found)), class_="offstage", width=0, height=0, aria_hidden="true"
        ),
        element("figcaption", head, element("span", kind)),
        heat_picture(held.picture, found, middle, label),
        *(lines if kind == "attention" else ()),
        class_="panel",
    )


def _shares(answered: Answered, flow: Flow) -> Markup:
    percent = 100 * flow.shares
    lines = [
        Line(name, Look(index), percent[:, part].tolist())
        for index, (part, name) in enumerate(_PARTS.items())
        if float(percent[:, part].max()) > 0.5
    ]
    even = 100 * float(flow.even[:, Part.VISUAL].mean())
    level = Level(f"image, if attention were even: {even:.0f}%", even)
    parts, height = line_figure(flow.layers, lines, "attention (% of a query's attention)", level=level)
    image = percent[:, Part.VISUAL]
    title = f"looks at the image most in layer {flow.layers[int(image.argmax())]} ({float(image.max()):.0f}%)"
    title = f"{answered.name} {title}"
    drawn = picture([parts], 560, height, title)
    scroll = element("div", drawn, class_="scroll", tabindex=0, role="region", aria_label=title)
    return element("div", element("h3", element("bdi", title)), scroll, class_="figure-box")
