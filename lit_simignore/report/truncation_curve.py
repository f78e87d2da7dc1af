"""Accuracy when all visual tokens are dropped before a layer, and the cliff: where the curve stops falling."""

from __future__ import annotations

from lit_simignore.report.drawing import rule, words
from lit_simignore.report.flow_folder import Truncated
from lit_simignore.report.layer_lines import Frame, band, frame, grid
from lit_simignore.report.markup import Markup, element, join
from lit_simignore.report.palette import MUTED, Look


def truncation_figure(found: Truncated, width: float = 560, height: float = 330) -> tuple[Markup, float]:
    """Draw the curve; bars are 95% intervals of the paired difference from the accuracy with all tokens."""
    baseline = 100 * found.baseline
    lows = [baseline + 100 * point.low for point in found.curve]
    highs = [min(baseline + 100 * point.high, 100.0) for point in found.curve]
    layers = [point.layer for point in found.curve]
    values = [100 * point.value for point in found.curve]
    axes = frame(layers, [baseline, *values, *lows, *highs], ["all tokens"], width, height)
    parts = [
        grid(axes, "accuracy (%)"),
        _cliff(found, axes),
        band(axes, max(baseline - 100 * found.tolerance, 0.0), baseline),
        rule(axes.across.start, axes.up.place(baseline), axes.right, axes.up.place(baseline), ink=True, dash="5 4"),
        words(axes.right + 8, axes.up.place(baseline) + 4, "all tokens", muted=True),
        *(_whisker(axes, *ends) for ends in zip(layers, lows, highs, strict=True)),
        _curve(axes, layers, values),
    ]
    return join(parts), height


def _curve(axes: Frame, layers: list[int], values: list[float]) -> Markup:
    look = Look(0)
    places = [(axes.across.place(layer), axes.up.place(value)) for layer, value in zip(layers, values, strict=True)]
    line = element(
        "polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places), fill="none",
        class_=f"{look.css_class} stroke", stroke=look.colour, stroke_width=2,
    )  # fmt: skip
    marks = [
        element("g", element("title", f"dropped before layer {layer}: {value:.1f}%"), look.marker(x, y, 4.4))
        for (x, y), layer, value in zip(places, layers, values, strict=True)
    ]
    return join([line, *marks])


def _whisker(axes: Frame, layer: int, low: float, high: float) -> Markup:
    x, bottom, top = axes.across.place(layer), axes.up.place(low), axes.up.place(high)
    look, caps = Look(0), "".join(f"M{x - 3:.1f} {y:.1f}H{x + 3:.1f}" for y in (bottom, top))
    return element(
        "path",
        d=f"M{x:.1f} {bottom:.1f}V{top:.1f}{caps}",
        class_=f"{look.css_class} stroke",
        stroke=look.colour,
        stroke_width=1.3,
        stroke_opacity=0.6,
        fill="none",
    )


def _cliff(found: Truncated, axes: Frame) -> Markup | None:
    """A line at the cliff, and its interval as a bracket above the axis, open where the interval has no end."""
    if found.cliff is None:
        return None
    x, y = axes.across.place(found.cliff), axes.bottom - 9
    ends = [axes.across.place(found.cliff if found.low is None else found.low)]
    ends.append(axes.across.end if found.high is None else axes.across.place(found.high))
    closed = ends[:1] if found.high is None else ends
    caps = "".join(f"M{end:.1f} {y - 5}V{y + 5}" for end in closed)
    path = f"M{ends[0]:.1f} {y}H{ends[1]:.1f}{caps}"
    right = x + 190 < axes.right
    text = words(
        x + (8 if right else -8),
        axes.bottom - 20,
        cliff_text(found),
        anchor="start" if right else "end",
        bold=True,
        halo=True,
    )
    bracket = element("path", d=path, class_="inkline", stroke=MUTED, stroke_width=2, fill="none")
    return join([rule(x, axes.up.end, x, axes.bottom, ink=True, width=1.4), bracket, text])


def cliff_text(found: Truncated) -> str:
    """The cliff in words."""
    if found.cliff is None:
        return "no cliff"
    low = "?" if found.low is None else f"{found.low}"
    return f"cliff: layer {found.cliff} (95%: {low} to {'beyond' if found.high is None else found.high})"
