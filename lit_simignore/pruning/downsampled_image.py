"""The control that looks at a smaller picture."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from lit_simignore.pruning._budget import check_budget, require_shape
from lit_simignore.pruning._cells import regular_cells
from lit_simignore.pruning.base import Features, Need, PrefillShape, Pruner, check_ratio
from lit_simignore.types import Selection, UserError


@dataclass(kw_only=True)
class DownsampledImage(Pruner):
    """The vision tower is shown a smaller picture: r x c patches instead of R x C, with ``r / R = c / C``.

    The model's own input picture (after the processor) is resized to r x c patches, bicubic with antialiasing, and the
    tower encodes it at that size with its position embeddings interpolated (bicubic). The decoder gets the tokens of
    the smaller picture and nothing else. Each of them takes the place of the middle token of the cell that it covers
    in the full grid, so that rotary positions span the same range; ``positions="renumber"`` closes them up, and the
    decoder then sees exactly what it would see had the prompt been written for the smaller picture.

    Where an image is cut into tiles, every tile is made smaller; of the tokens that end rows of stitched tiles those
    stay in whose row a token stays, and where the model cut padding away a cell's nearest remaining token stands for
    it. Where several patches make one visual token, r and c count tokens.

    Such a tower was trained at one resolution, so part of what is lost is lost to interpolated positions. Families of
    any resolution (Qwen-VL, Mistral 3) do not offer this: there a smaller picture is given to the processor.

    Args:
        keep_ratio: visual tokens of the smaller picture as a fraction of all, at most: r and c are whole numbers, so
            576 tokens at 0.25 are 12 x 12, and at 128 / 576 they are 11 x 11 = 121.

    Reference:
        Plain down-sampling beats many learned rules: VTC-Bench, arXiv:2510.07143. There the pictures are made smaller
        for models of any resolution; no released code is followed.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.RESIZED_IMAGE})
    budget_fields: ClassVar[tuple[str, ...]] = ("keep_ratio",)
    adaptive: ClassVar[bool] = True

    keep_ratio: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio("keep_ratio", self.keep_ratio)

    def smaller_grid(self, rows: int, columns: int) -> tuple[int, int]:
        """Patches of the smaller picture: the largest grid of the same shape with at most ``keep_ratio`` of them.

        Raises:
            UserError: not even one patch is allowed.
        """
        most = math.floor(self.keep_ratio * rows * columns + 1e-6)
        longer = max(rows, columns)
        for side in range(longer, 0, -1):
            height, width = max(1, round(rows * side / longer)), max(1, round(columns * side / longer))
            if height * width <= most:
                return height, width
        raise UserError(
            f"DownsampledImage(keep_ratio={self.keep_ratio:g}) leaves no patch of {rows} x {columns}; "
            f"ask for {1 / (rows * columns):.4g} or more"
        )

    def choose(self, features: Features) -> Selection:
        """One token per patch of the smaller picture, and the ends of its rows. What they hold is the tower's doing."""
        kept: list[int] = []
        sources: list[tuple[int, ...]] = []
        for grid, tokens in _pictures(features):
            for cell in regular_cells(*grid, *self.smaller_grid(*grid)):
                middle = divmod(cell.middle(grid[1]), grid[1])
                shown = [(_distance(place, middle, grid[1]), tokens[place]) for place in cell.places(grid[1])]
                alive = sorted((far, token) for far, token in shown if token >= 0)
                if alive:  # all of it may be padding, which the model cuts away
                    kept.append(alive[0][1])
                    sources.append(tuple(sorted(token for _, token in alive)))
        ends = _row_ends(features, set(kept))
        order = sorted(zip(kept + ends, sources + [(end,) for end in ends], strict=True))
        chosen = torch.tensor([token for token, _ in order], dtype=torch.long, device=features.visual.device)
        return Selection(kept=chosen, sources=tuple(carried for _, carried in order))

    def with_budget(self, definition: str, num_tokens: float, shape: PrefillShape | None = None) -> Pruner:
        """A copy whose picture has at most ``num_tokens`` tokens; the nearest smaller grid is what it spends.

        Raises:
            UserError: less than one token, or no ``shape``: the fraction depends on the number of visual tokens.
        """
        check_budget(definition, num_tokens)
        known = require_shape("DownsampledImage", definition, shape)
        if num_tokens < 1:
            raise UserError(
                f"DownsampledImage spends at least 1 visual token ({definition}); got a budget of {num_tokens:g}"
            )
        return replace(self, keep_ratio=min(1.0, num_tokens / known.num_visual))


def _pictures(features: Features) -> list[tuple[tuple[int, int], list[int]]]:
    """For every picture its grid, and the token at every place of it; -1 where padding was cut away."""
    total = features.visual.shape[0]
    if features.tiles is None or features.tile_places is None or features.tile_grid is None:
        if sum(rows * columns for rows, columns in features.grids) != total:
            raise UserError("DownsampledImage needs the patch grid of every image: let it run before other pruners")
        sizes = [rows * columns for rows, columns in features.grids]
        tokens = torch.arange(total).split(sizes)
        return [(grid, mine.tolist()) for grid, mine in zip(features.grids, tokens, strict=True)]
    rows, columns = features.tile_grid
    if features.num_input is not None:
        raise UserError("DownsampledImage needs every token of every picture: let it run before other pruners")
    tiles, places = features.tiles.tolist(), features.tile_places.tolist()
    tables = [[-1] * (rows * columns) for _ in range(max(tiles, default=-1) + 1)]
    for token, (tile, place) in enumerate(zip(tiles, places, strict=True)):
        if tile >= 0:
            tables[tile][place] = token
    return [((rows, columns), table) for table in tables]


def _row_ends(features: Features, kept: set[int]) -> list[int]:
    """Tokens that show nothing and end a row of stitched tiles of which a token is kept, or a whole picture."""
    if features.tiles is None or features.tile_places is None or features.tile_grid is None:
        return []
    tiles, places, columns = features.tiles.tolist(), features.tile_places.tolist(), features.tile_grid[1]
    ends, begin = [], 0
    for token, tile in enumerate(tiles):
        if tile >= 0:
            continue
        stretch = range(begin, token)
        # an overview, and tiles that no row end divides, come before the row in the same stretch
        lines = {(tiles[i], places[i] // columns) for i in stretch}
        several = {number for number, _ in lines if sum(other == number for other, _ in lines) > 1}
        row = [i for i in stretch if tiles[i] not in several] or stretch
        if any(i in kept for i in row):
            ends.append(token)
        begin = token + 1
    return ends


def _distance(place: int, middle: tuple[int, int], columns: int) -> int:
    row, column = divmod(place, columns)
    return (row - middle[0]) ** 2 + (column - middle[1]) ** 2
