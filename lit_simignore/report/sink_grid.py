"""Layers by heads: which share of the visual tokens are sinks, darker for more."""

from __future__ import annotations

import numpy as np

from lit_simignore.report.drawing import SIZE, words
from lit_simignore.report.markup import Markup, element, join
from lit_simignore.report.palette import INK, PAPER, RULE

_LEFT, _TOP, _BOTTOM = 46.0, 34.0, 50.0
_NUMBERS_UP_TO = 16


def sink_figure(layers: np.ndarray, shares: np.ndarray, width: float = 560) -> tuple[Markup, float]:
    """Draw the grid, layer 0 at the top.

    Args:
        layers: ``(N,)``.
        shares: ``(N, H)``, 0 to 1.
        width: in pixels.
    """
    heads = shares.shape[1]
    cell = min((width - _LEFT - 12) / heads, 58.0)
    tall = min(max(260.0 / len(layers), 9.0), 30.0)
    parts = [
        words(6, 15, "visual tokens that are sinks (%), by layer (down) and head (across)", muted=True, size=SIZE - 0.5)
    ]
    every = max(1, int(np.ceil(heads / 16)))
    for head in range(0, heads, every):
        parts.append(words(_LEFT + (head + 0.5) * cell, _TOP - 5, f"{head}", anchor="middle", muted=True))
    step = max(1, int(np.ceil(13 / tall)))
    for row, layer in enumerate(layers.tolist()):
        y = _TOP + row * tall
        if row % step == 0:
            parts.append(words(_LEFT - 7, y + tall / 2 + 4, f"{layer}", anchor="end", muted=True))
        parts += [
            _cell(shares[row, head], _LEFT + head * cell, y, cell, tall, layer, head, heads) for head in range(heads)
        ]
    bottom = _TOP + len(layers) * tall
    parts.append(_scale(bottom + 14))
    return join(parts), bottom + _BOTTOM


def _cell(share: float, x: float, y: float, wide: float, tall: float, layer: int, head: int, heads: int) -> Markup:
    known = float(share) if np.isfinite(share) else 0.0
    label = element("title", f"layer {layer}, head {head}: {100 * known:.0f}% of the visual tokens are sinks")
    size = {"width": max(wide - 1.5, 1.0), "height": max(tall - 1.5, 1.0)}
    parts = [
        label,
        element("rect", x=x, y=y, **size, class_="cell-frame", fill=PAPER, stroke=RULE, stroke_width=0.6),
        element("rect", x=x, y=y, **size, class_="net", fill=INK, fill_opacity=round(0.9 * known, 3)),
    ]
    if heads <= _NUMBERS_UP_TO and tall >= 16:
        css = "onink" if known > 0.5 else ""
        text = words(x + wide / 2, y + tall / 2 + 4, f"{100 * known:.0f}", anchor="middle", size=11, css=css)
        parts.append(text)
    return element("g", join(parts))


def _scale(y: float) -> Markup:
    """What the shades mean."""
    parts = [words(_LEFT, y + 11, "0%", muted=True)]
    for step in range(11):
        parts.append(
            element(
                "rect",
                x=_LEFT + 24 + 13 * step,
                y=y,
                width=13,
                height=13,
                class_="net",
                fill=INK,
                fill_opacity=0.09 * step,
            )
        )
    parts.append(words(_LEFT + 24 + 13 * 11 + 6, y + 11, "100% of the visual tokens", muted=True))
    return join(parts)
