"""How methods are told apart: by colour (Okabe and Ito's, safe for colour-blind readers), marker and dash at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lit_simignore.report.markup import Markup, element, short
from lit_simignore.report.summary import BASELINE

INK = "#1b2430"
MUTED = "#5d6977"
RULE = "#d8dee5"
FAINT = "#eef1f5"
PAPER = "#ffffff"
GAIN = "#0072B2"
LOSS = "#D55E00"

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6A00")
"""Okabe-Ito without black (the baseline's) and with its yellow darkened, which is unreadable on white."""
DASHES = (None, "6 3", "2 3", "8 3 2 3", "12 4")
_SHAPES: tuple[tuple[tuple[float, float], ...], ...] = (
    ((-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)),
    ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    ((0, -1.2), (1.15, 0.8), (-1.15, 0.8)),
    ((0, 1.2), (1.15, -0.8), (-1.15, -0.8)),
    (
        *((-0.4, -1.15), (0.4, -1.15), (0.4, -0.4), (1.15, -0.4), (1.15, 0.4), (0.4, 0.4)),
        *((0.4, 1.15), (-0.4, 1.15), (-0.4, 0.4), (-1.15, 0.4), (-1.15, -0.4), (-0.4, -0.4)),
    ),
    ((0, -1.2), (1.14, -0.37), (0.7, 0.97), (-0.7, 0.97), (-1.14, -0.37)),
    ((-0.6, -1.04), (0.6, -1.04), (1.2, 0), (0.6, 1.04), (-0.6, 1.04), (-1.2, 0)),
    ((1.2, 0), (-0.8, 1.15), (-0.8, -1.15)),
)
_BUDGET_FIELDS = frozenset({"num_keep", "keep_ratio", "min_similarity", "similarity_mass", "budget"})


@dataclass(frozen=True, slots=True)
class Look:
    """The look of one series. ``index`` is ``None`` for the baseline."""

    index: int | None

    @property
    def colour(self) -> str:
        """Colour on light paper."""
        return INK if self.index is None else COLOURS[self.index % len(COLOURS)]

    @property
    def css_class(self) -> str:
        """Class by which a style sheet may replace the colour (dark scheme)."""
        return "sb" if self.index is None else f"s{self.index % len(COLOURS)}"

    @property
    def dash(self) -> str | None:
        """Dash pattern of the line through the series."""
        return None if self.index is None else DASHES[self.index % len(DASHES)]

    def marker(self, x: float, y: float, radius: float, *, hollow: bool = False) -> Markup:
        """The marker at a place; ``hollow`` fills it with paper."""
        common = {
            "class_": f"{self.css_class} {'hollow' if hollow else 'solid'}",
            "fill": PAPER if hollow else self.colour,
            "stroke": self.colour,
            "stroke_width": radius * 0.3,
        }
        if self.index is None:
            return element("circle", cx=x, cy=y, r=radius, **common)
        corners = _SHAPES[self.index % len(_SHAPES)]
        points = "L".join(f"{short(x + radius * dx)} {short(y + radius * dy)}" for dx, dy in corners)
        return element("path", d=f"M{points}z", stroke_linejoin="round", **common)


def series_of(name: str) -> str:
    """The name of a method without its budget: ``simignore@64+eah`` -> ``simignore+eah``.

    Settings stand after ``@``; a bare number is a budget, and so is any ``FIELD=`` or ``PART.FIELD=`` of a budget.
    """
    return "+".join(_without_budget(term) for term in name.split("+"))


def _without_budget(term: str) -> str:
    method, *settings = term.split("@")
    return "@".join([method, *(setting for setting in settings if not _is_budget(setting))])


def _is_budget(setting: str) -> bool:
    key, equals, _ = setting.partition("=")
    return not equals or key.split(".")[-1] in _BUDGET_FIELDS


def looks(names: Iterable[str]) -> Mapping[str, Look]:
    """A look for every method; methods that differ only in their budget share one."""
    series: dict[str, int] = {}
    found: dict[str, Look] = {}
    for name in names:
        if name == BASELINE:
            found[name] = Look(None)
        else:
            found[name] = Look(series.setdefault(series_of(name), len(series)))
    return found


def glyph(look: Look) -> Markup:
    """The marker as a small picture to stand before a method's name."""
    return element(
        "svg", look.marker(7, 7, 4.6), class_="glyph", viewBox="0 0 14 14", width=14, height=14, aria_hidden="true"
    )
