"""Clusters of visual tokens over the picture, named by letters, and what the model answers without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np

from lit_simignore.report.formats import clean, one_line, shorten
from lit_simignore.report.markup import Markup, element, join
from lit_simignore.report.media import Picture
from lit_simignore.report.overlay import outline_path
from lit_simignore.report.palette import COLOURS

_MOST_ROWS = 8


def cluster_name(cluster: int) -> str:
    """A, B, C ..."""
    return ascii_uppercase[cluster % 26] * (1 + cluster // 26)


def cluster_picture(picture: Picture, labels: np.ndarray, rows: int, cols: int, label: str) -> Markup:
    """One image with its clusters outlined, tinted and lettered.

    Args:
        picture: the image, defined once per page.
        labels: ``(rows * cols,)`` cluster of every token.
        rows: rows of the grid.
        cols: columns of the grid.
        label: what a screen reader says.
    """
    height = cols * picture.height / picture.width
    stretch = height / rows
    parts = [element("use", href=f"#i{picture.key}", transform=f"scale({cols / picture.width:.6g})", class_="grey")]
    names = []
    for cluster in np.unique(labels).tolist():
        cells = np.flatnonzero(labels == cluster).tolist()
        colour = COLOURS[cluster % len(COLOURS)]
        path = outline_path(cells, rows, cols)
        parts.append(
            element(
                "path",
                d=path,
                class_="cluster",
                fill=colour,
                fill_opacity=0.42,
                fill_rule="evenodd",
                transform=f"scale(1 {stretch:.6g})",
            )
        )
        names += [_letter(cluster_name(cluster), cell, cols, stretch) for cell in _places(cells, cols)]
    css = "tokens pixels" if picture.width <= 160 else "tokens"
    return element("svg", *parts, *names, viewBox=f"0 0 {cols} {height:.6g}", class_=css, role="img", aria_label=label)


def _places(cells: Sequence[int], cols: int) -> list[int]:
    """A cell in the middle of each of a cluster's three largest connected pieces."""
    left, pieces = set(cells), []
    while left:
        piece, front = [], [left.pop()]
        while front:
            cell = front.pop()
            piece.append(cell)
            steps = [
                cell - cols,
                cell + cols,
                *([cell - 1] if cell % cols else []),
                *([cell + 1] if (cell + 1) % cols else []),
            ]
            for step in steps:
                if step in left:
                    left.remove(step)
                    front.append(step)
        pieces.append(piece)
    pieces.sort(key=lambda piece: (-len(piece), min(piece)))
    return [_middle(piece, cols) for piece in pieces[:3] if len(piece) > 1 or piece is pieces[0]]


def _middle(piece: Sequence[int], cols: int) -> int:
    y, x = np.mean([cell // cols for cell in piece]), np.mean([cell % cols for cell in piece])
    return min(piece, key=lambda cell: (cell // cols - y) ** 2 + (cell % cols - x) ** 2)


def _letter(name: str, cell: int, cols: int, stretch: float) -> Markup:
    size = max(cols / 14, 0.8)
    return element(
        "text", name, x=cell % cols + 0.5, y=f"{(cell // cols + 0.5) * stretch + size * 0.36:.3g}", class_="letter-on",
        font_size=f"{size:.3g}", text_anchor="middle",
    )  # fmt: skip


def ablation_table(ablation: Sequence[Mapping[str, Any]]) -> Markup:
    """What was answered without every cluster, and without those pairs that change more than their members do."""
    known = [item for item in ablation if isinstance(item.get("clusters"), list)]
    whole = [item for item in known if not item["clusters"]]
    single = [item for item in known if len(item["clusters"]) == 1]
    telling = {(cluster, str(item.get("verdict"))) for item in single for cluster in item["clusters"]}
    pairs = [
        item
        for item in known
        if len(item["clusters"]) > 1
        and item.get("verdict") in ("spy", "needed")
        and not any((cluster, item["verdict"]) in telling for cluster in item["clusters"])
    ]
    rows = [_row(item) for item in [*whole, *single, *pairs[:_MOST_ROWS]]]
    more = len(pairs) - _MOST_ROWS
    note = element("p", f"{more} more pairs flip the answer", class_="note") if more > 0 else None
    return join([element("table", element("tbody", *rows), class_="ablation"), note])


def _row(item: Mapping[str, Any]) -> Markup:
    clusters = [cluster for cluster in item["clusters"] if isinstance(cluster, int) and 0 <= cluster < 702]
    name = "all tokens" if not clusters else f"without {' and '.join(map(cluster_name, clusters))}"
    verdict = str(item.get("verdict") or "")
    mark = {"spy": "spy: now right", "needed": "needed: now wrong"}.get(verdict)
    return element(
        "tr",
        element("th", name),
        element("td", element("bdi", shorten(one_line(clean(item.get("output", ""))), 60) or "(nothing)")),
        element(
            "td", element("span", mark, class_=f"flip {'fixed' if verdict == 'spy' else 'broken'}") if mark else None
        ),
    )
