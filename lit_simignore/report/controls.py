"""The controls over the samples: which samples, which methods, how large. The page's script works them."""

from __future__ import annotations

from collections.abc import Sequence

from lit_simignore.report.markup import Markup, element
from lit_simignore.report.palette import glyph, looks, series_of
from lit_simignore.report.summary import RunView

_METHODS_SWITCHED_ON = 8
_FILTERS = {
    "all": "all",
    "flipped": "flipped",
    "fixed": "fixed",
    "broken": "broken",
    "wrong": "wrong",
    "error": "errors",
}


def controls(view: RunView, kinds: Sequence[str]) -> Markup:
    """The form above the samples; without its script it stays hidden and every sample is shown."""
    segments = [element("legend", "show"), *(_radio(value, text) for value, text in _FILTERS.items())]
    options = [element("option", "every kind", value="")]
    options += [element("option", kind or "(none)", value=index) for index, kind in enumerate(kinds)]
    return element(
        "form",
        element("fieldset", *segments, class_="segments"),
        element("label", "kind ", element("select", *options, id="kind")) if len(kinds) > 1 else None,
        element("label", element("input", type="checkbox", id="overlay", checked=True), " kept tokens"),
        element("label", element("input", type="checkbox", id="large"), " large pictures"),
        element("fieldset", element("legend", "methods"), *_method_boxes(view), class_="methods"),
        element("output", id="found", aria_live="polite"),
        class_="controls",
        autocomplete="off",
    )


def _radio(value: str, text: str) -> Markup:
    box = element("input", type="radio", name="filter", value=value, checked=value == "all")
    return element("label", box, element("span", text, " ", element("small", data_count=value)))


def _method_boxes(view: RunView) -> list[Markup]:
    look_of, switched_on = looks(row.name for row in view.rows), _switched_on([row.name for row in view.rows])
    return [
        element(
            "label",
            element("input", type="checkbox", value=index, checked=row.name in switched_on),
            glyph(look_of[row.name]),
            element("bdi", row.name),
        )
        for index, row in enumerate(view.rows)
    ]


def _switched_on(names: Sequence[str]) -> set[str]:
    """All methods if they are few, else one of each series first."""
    firsts = {series_of(name): name for name in reversed(names)}
    order = [*reversed(firsts.values()), *(name for name in names if name not in firsts.values())]
    return set(order[:_METHODS_SWITCHED_ON])


def pager() -> Markup:
    """The buttons below the samples."""
    return element(
        "nav",
        element("button", "← earlier", type="button", id="earlier"),
        element("span", id="page"),
        element("button", "later →", type="button", id="later"),
        class_="pager",
        aria_label="pages of samples",
    )
