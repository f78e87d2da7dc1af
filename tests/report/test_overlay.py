"""Kept and dropped tokens over an image, against a naive rasteriser."""

from __future__ import annotations

import random
import re

import pytest

from lit_simignore.report.media import MediaEntry
from lit_simignore.report.overlay import outline_path, split_kept


def _corners(path: str) -> list[list[tuple[int, int]]]:
    """Loops of a path of M, h, v and z steps."""
    loops = []
    for part in re.findall(r"M(\d+) (\d+)((?:[hv]-?\d+)*)z", path):
        x, y = int(part[0]), int(part[1])
        loop = [(x, y)]
        for letter, step in re.findall(r"([hv])(-?\d+)", part[2]):
            x, y = (x + int(step), y) if letter == "h" else (x, y + int(step))
            loop.append((x, y))
        loops.append(loop)
    return loops


def _is_inside(x: float, y: float, loops: list[list[tuple[int, int]]]) -> bool:
    """Even-odd rule with a ray to the right."""
    crossings = 0
    for loop in loops:
        for (x1, y1), (x2, y2) in zip(loop, [*loop[1:], loop[0]], strict=True):
            crossings += x1 == x2 and x1 > x and min(y1, y2) < y < max(y1, y2)
    return crossings % 2 == 1


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 7), (12, 12), (5, 9)])
def test_the_outline_encloses_exactly_the_cells(rows: int, cols: int, share: float) -> None:
    draw = random.Random(f"{rows} {cols} {share}")
    cells = {index for index in range(rows * cols) if draw.random() < share}
    path = outline_path(cells, rows, cols)
    assert re.fullmatch(r"(M\d+ \d+([hv]-?\d+)+z)*", path)
    loops = _corners(path)
    drawn = {row * cols + col for row in range(rows) for col in range(cols) if _is_inside(col + 0.5, row + 0.5, loops)}
    assert drawn == cells


def test_a_checkerboard_touches_only_at_corners_and_still_closes() -> None:
    cells = {row * 6 + col for row in range(6) for col in range(6) if (row + col) % 2}
    loops = _corners(outline_path(cells, 6, 6))
    assert {r * 6 + c for r in range(6) for c in range(6) if _is_inside(c + 0.5, r + 0.5, loops)} == cells


def test_a_whole_row_is_one_rectangle() -> None:
    assert outline_path(range(7, 14), 3, 7) == "M0 1h7v1h-7z"


def test_every_image_gets_its_share_of_the_kept_tokens() -> None:
    entries = [MediaEntry("a", 2, 3), MediaEntry("b", 1, 4), MediaEntry("c", 2, 2)]
    assert split_kept([0, 5, 6, 9, 10, 13], entries) == [{0, 5}, {0, 3}, {0, 3}]


@pytest.mark.parametrize("kept", [[14], [-1, 0], [3, 10**12]])
def test_indices_that_no_image_has_mean_that_the_grids_are_not_those_of_the_tokens(kept: list[int]) -> None:
    assert split_kept(kept, [MediaEntry("a", 2, 3), MediaEntry("b", 2, 4)]) is None
