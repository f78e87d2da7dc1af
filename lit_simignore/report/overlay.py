"""Kept and dropped visual tokens over an image: dropped patches dimmed and hatched, kept ones clear and outlined."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from lit_simignore.report.markup import Markup, element, join
from lit_simignore.report.media import MediaEntry, Picture

_DIM = "#111a24"
_Corner = tuple[int, int]


def split_kept(kept: Sequence[int], entries: Sequence[MediaEntry]) -> list[set[int]] | None:
    """Give every image its share of the kept indices, counted from 0 within the image.

    Args:
        kept: indices into the visual tokens of a sample, images concatenated, row-major within each.
        entries: the images in that order.

    Returns:
        One set per image; ``None`` if an index is no token of any image: then the grids are not those of the tokens.
    """
    shares: list[set[int]] = []
    start = 0
    for entry in entries:
        shares.append({index - start for index in kept if start <= index < start + entry.num_tokens})
        start += entry.num_tokens
    return shares if sum(map(len, shares)) == len(set(kept)) else None


def outline_path(cells: Collection[int], rows: int, cols: int) -> str:
    """The outline of a set of grid cells as SVG path data in units of cells, clockwise, holes included.

    Args:
        cells: row-major indices into the grid.
        rows: rows of the grid.
        cols: columns of the grid.
    """
    inside = {(index // cols, index % cols) for index in cells if 0 <= index < rows * cols}
    edges: dict[_Corner, list[_Corner]] = defaultdict(list)
    for row, col in sorted(inside):
        if (row - 1, col) not in inside:
            edges[col, row].append((col + 1, row))
        if (row, col + 1) not in inside:
            edges[col + 1, row].append((col + 1, row + 1))
        if (row + 1, col) not in inside:
            edges[col + 1, row + 1].append((col, row + 1))
        if (row, col - 1) not in inside:
            edges[col, row + 1].append((col, row))
    return "".join(_drawn(loop) for loop in _loops(edges))


def _loops(edges: dict[_Corner, list[_Corner]]) -> Iterable[list[_Corner]]:
    """Chain unit edges into closed loops; every edge is used once."""
    while edges:
        start = next(iter(edges))
        loop, corner = [start], _next(edges, start)
        while corner != start:
            loop.append(corner)
            corner = _next(edges, corner)
        yield loop


def _next(edges: dict[_Corner, list[_Corner]], corner: _Corner) -> _Corner:
    ends = edges[corner]
    end = ends.pop()
    if not ends:
        del edges[corner]
    return end


def _drawn(loop: Sequence[_Corner]) -> str:
    """Path data of one loop: straight runs are one step, the last step is left to ``z``."""
    steps: list[tuple[str, int]] = []
    for (x, y), (next_x, next_y) in zip(loop, loop[1:], strict=False):
        letter, step = ("h", next_x - x) if next_y == y else ("v", next_y - y)
        if steps and steps[-1][0] == letter and (steps[-1][1] > 0) == (step > 0):
            steps[-1] = (letter, steps[-1][1] + step)
        else:
            steps.append((letter, step))
    return f"M{loop[0][0]} {loop[0][1]}" + "".join(f"{letter}{step}" for letter, step in steps) + "z"


def hatch_id(cols: int) -> str:
    """Name of the hatching for grids of that many columns."""
    return f"hatch{cols}"


def definitions(pictures: Iterable[Picture], columns: Iterable[int]) -> Markup:
    """The hidden element that holds every image once, and a hatching for every width of grid."""
    parts = [
        element("image", id=f"i{p.key}", href=p.uri, width=p.width, height=p.height, preserveAspectRatio="none")
        for p in pictures
    ]
    parts += [_hatch(cols) for cols in sorted(set(columns))]
    return element("svg", element("defs", join(parts)), class_="offstage", width=0, height=0, aria_hidden="true")


def _hatch(cols: int) -> Markup:
    # About 34 lines over the width, however fine the grid.
    gap = cols / 34
    return element(
        "pattern",
        element("rect", width=gap, height=gap, fill=_DIM, fill_opacity=0.7),
        element("rect", width=f"{gap:.3f}", height=f"{gap * 0.22:.3f}", fill="#fff", fill_opacity=0.3),
        id=hatch_id(cols),
        width=f"{gap:.3f}",
        height=f"{gap:.3f}",
        patternUnits="userSpaceOnUse",
        patternTransform="rotate(-45)",
    )


def token_picture(picture: Picture, entry: MediaEntry, kept: Collection[int] | None, label: str) -> Markup:
    """One image with its tokens.

    Args:
        picture: the image, defined once per page by :func:`definitions`.
        entry: its grid; the grid covers the image from edge to edge.
        kept: kept indices within this image; ``None`` draws the image alone.
        label: what a screen reader says.
    """
    cols = entry.cols or 1
    height = cols * picture.height / picture.width
    scale = cols / picture.width
    parts = [element("use", href=f"#i{picture.key}", transform=f"scale({scale:.6g})")]
    if kept is not None and entry.num_tokens:
        dropped = [index for index in range(entry.num_tokens) if index not in kept]
        if dropped:
            stretch = height / entry.rows
            parts.append(_dropped(dropped, entry, stretch))
    css = "tokens pixels" if picture.width <= 160 else "tokens"
    return element("svg", *parts, viewBox=f"0 0 {cols} {height:.6g}", class_=css, role="img", aria_label=label)


def _dropped(dropped: Sequence[int], entry: MediaEntry, stretch: float) -> Markup:
    return element(
        "path",
        d=outline_path(dropped, entry.rows, entry.cols),
        class_="dropped",
        fill=f"url(#{hatch_id(entry.cols)})",
        fill_rule="evenodd",
        transform=None if abs(stretch - 1) < 1e-6 else f"scale(1 {stretch:.6g})",
    )
