"""Cut a patch grid into rectangular cells that share no patch and leave none out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cell:
    """Rows ``top`` to ``bottom - 1`` and columns ``left`` to ``right - 1`` of a grid."""

    top: int
    bottom: int
    left: int
    right: int

    def places(self, columns: int) -> tuple[int, ...]:
        """Row-major indices in a grid of ``columns`` columns, ascending."""
        return tuple(
            row * columns + column
            for row in range(self.top, self.bottom)
            for column in range(self.left, self.right)
        )  # fmt: skip

    def middle(self, columns: int) -> int:
        """The place nearest to the cell's centre. Ascends over cells that are listed row by row."""
        return (self.top + self.bottom - 1) // 2 * columns + (self.left + self.right - 1) // 2


def regular_cells(rows: int, columns: int, height: int, width: int) -> list[Cell]:
    """``height`` x ``width`` cells of near-equal size, row-major."""
    return [
        Cell(top, bottom, left, right) for top, bottom in _cut(rows, height) for left, right in _cut(columns, width)
    ]


def counted_cells(rows: int, columns: int, num_cells: int) -> list[Cell]:
    """``num_cells`` near-square cells, 1 to ``rows * columns``: bands of near-equal height, each cut into columns.

    Cells are shared out evenly over the bands, so every number can be had; where they form a grid, it is that grid.
    """
    squares = round(math.sqrt(num_cells * rows / columns))
    num_bands = min(max(squares, math.ceil(num_cells / columns)), rows, num_cells)
    return [
        Cell(top, bottom, left, right)
        for (top, bottom), (first, last) in zip(_cut(rows, num_bands), _cut(num_cells, num_bands), strict=True)
        for left, right in _cut(columns, last - first)
    ]


def owners(cells: Sequence[Cell], rows: int, columns: int) -> list[int]:
    """The number of the cell that every place of the grid belongs to, row-major."""
    found = [0] * (rows * columns)
    for number, cell in enumerate(cells):
        for place in cell.places(columns):
            found[place] = number
    return found


def _cut(length: int, parts: int) -> list[tuple[int, int]]:
    """``parts`` stretches of near-equal length, as (begin, end)."""
    return [(i * length // parts, (i + 1) * length // parts) for i in range(parts)]
