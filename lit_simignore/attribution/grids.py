"""Values of visual tokens laid out as the images that they came from."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lit_simignore.types import UserError


def to_grids(values: Tensor, grids: Sequence[tuple[int, int]]) -> list[Tensor]:
    """``values`` ``(..., I)`` as one ``(..., rows, cols)`` per image.

    Args:
        values: one per visual token, images concatenated in prompt order, each row-major.
        grids: rows and columns of every image; they need be neither square nor equal.

    Raises:
        UserError: the grids do not hold I tokens.
    """
    sizes = [rows * cols for rows, cols in grids]
    if sum(sizes) != values.shape[-1]:
        shapes = ", ".join(f"{rows}x{cols}" for rows, cols in grids) or "none"
        raise UserError(f"expected grids of {values.shape[-1]} visual tokens in all; got {shapes} ({sum(sizes)})")
    parts = values.split(sizes, dim=-1)
    return [part.unflatten(-1, grid) for part, grid in zip(parts, grids, strict=True)]
