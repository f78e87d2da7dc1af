"""Pieces that every figure is made of: text, rules, and the frame that makes markup a picture of its own."""

from __future__ import annotations

from collections.abc import Iterable

from lit_simignore.report.markup import Markup, element, join
from lit_simignore.report.palette import INK, MUTED, PAPER, RULE

FONT = "Inter, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"
SIZE = 12.0


def words(
    x: float,
    y: float,
    text: object,
    *,
    size: float = SIZE,
    anchor: str = "start",
    muted: bool = False,
    bold: bool = False,
    halo: bool = False,
    css: str = "",
) -> Markup:
    """One line of text with its base line at ``y``; ``halo`` keeps it readable over lines."""
    return element(
        "text",
        text,
        x=x,
        y=y,
        class_=f"{'muted' if muted else 'ink'}{' halo' if halo else ''}{' ' + css if css else ''}",
        font_size=size,
        font_weight=600 if bold else None,
        text_anchor=None if anchor == "start" else anchor,
        fill=MUTED if muted else INK,
        stroke=PAPER if halo else None,
        stroke_width=3.5 if halo else None,
        stroke_linejoin="round" if halo else None,
        paint_order="stroke" if halo else None,
    )


def rule(
    x1: float, y1: float, x2: float, y2: float, *, ink: bool = False, width: float = 1.0, dash: str | None = None
) -> Markup:
    """A straight line: of the frame or the grid, or of the data's own ink."""
    return element(
        "line",
        x1=x1,
        y1=y1,
        x2=x2,
        y2=y2,
        class_="inkline" if ink else "rule",
        stroke=MUTED if ink else RULE,
        stroke_width=width,
        stroke_dasharray=dash,
    )


def picture(parts: Iterable[Markup], width: float, height: float, label: str, *, card: bool = False) -> Markup:
    """A whole SVG element. ``card`` puts it on paper of its own, for places with a background of unknown colour."""
    paper = None
    if card:
        size = {"width": width - 1, "height": height - 1}
        paper = element("rect", x=0.5, y=0.5, **size, rx=10, fill=PAPER, stroke=RULE)
    return element(
        "svg",
        element("title", label),
        paper,
        join(parts),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        class_="figure",
        role="img",
        font_family=FONT,
    )


def shifted(parts: Iterable[Markup], x: float, y: float) -> Markup:
    """The parts, moved."""
    return element("g", join(parts), transform=f"translate({x:g} {y:g})")
