"""The figures of a run as whole SVG pictures: for the report, for a README, for a tracker."""

from __future__ import annotations

from collections.abc import Mapping

from lit_simignore.report.curve import curve, time_cost, token_cost
from lit_simignore.report.drawing import picture, shifted, words
from lit_simignore.report.flips import flips_panel
from lit_simignore.report.formats import plural
from lit_simignore.report.kinds import kinds_grid, kinds_of
from lit_simignore.report.markup import Markup
from lit_simignore.report.summary import RunView, read_summary
from lit_simignore.report.verdict import headline

_MARGIN = 20.0


def headline_svg(summary: Mapping[str, object]) -> str:
    """One picture of a run's result: accuracy against visual tokens, and fixed against broken answers with their p.

    Args:
        summary: the contents of ``summary.json``.

    Returns:
        A complete SVG document on paper of its own, which reads on light and dark pages.

    Raises:
        UserError: ``summary`` has no list of methods.
    """
    view = read_summary(summary)
    left, left_height = _curve_parts(view)
    right, right_height = flips_panel(view)
    title = " on ".join(filter(None, [view.fact("model"), view.fact("benchmark")]))
    title = ", ".join(filter(None, [title, plural(view.num_samples, "sample")]))
    width, top = 1100.0, 62.0
    parts = [
        words(_MARGIN + 4, 30, title, size=16, bold=True),
        words(_MARGIN + 4, 49, "hollow marker: not distinguishable from the baseline; bars: 95% interval", muted=True),
        shifted([left], _MARGIN, top),
        shifted([right], _MARGIN + 590, top),
    ]
    return str(picture(parts, width, top + max(left_height, right_height) + 14, headline(view), card=True))


def _curve_parts(view: RunView) -> tuple[Markup, float]:
    cost = token_cost(view)
    if cost is None:
        return words(280, 150, "no token counts for every method", anchor="middle", muted=True), 300.0
    return curve(view, cost)


def tokens_svg(summary: Mapping[str, object]) -> Markup | None:
    """Accuracy against visual tokens; ``None`` where no definition of the count is known for every scored method."""
    view = read_summary(summary)
    cost = token_cost(view)
    if cost is None:
        return None
    parts, height = curve(view, cost)
    return picture([parts], 560, height, f"Accuracy against {cost.label}")


def time_svg(summary: Mapping[str, object]) -> Markup | None:
    """Accuracy against measured prefill time; ``None`` where fewer than two methods were timed."""
    view = read_summary(summary)
    cost = time_cost(view)
    if cost is None:
        return None
    parts, height = curve(view, cost)
    return picture([parts], 560, height, f"Accuracy against {cost.label}")


def kinds_svg(summary: Mapping[str, object]) -> Markup | None:
    """Accuracy by kind of question; ``None`` where there are not two kinds."""
    view = read_summary(summary)
    if not kinds_of(view):
        return None
    parts, width, height = kinds_grid(view, 560)
    return picture([parts], width, height, "Accuracy by kind of question, and difference from the baseline")
