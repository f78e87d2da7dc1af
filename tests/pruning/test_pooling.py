"""Average pooling of the patch grid, against torch's own and against counting."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lit_simignore.pruning._cells import counted_cells, owners, regular_cells
from lit_simignore.pruning.base import Features
from lit_simignore.pruning.pooling import Pooling
from lit_simignore.types import UserError

WIDTH = 5


def features(*grids: tuple[int, int], dtype: torch.dtype = torch.float32) -> Features:
    total = sum(rows * columns for rows, columns in grids)
    rows = torch.randn(total, WIDTH, generator=torch.Generator().manual_seed(3)).to(dtype)
    return Features(visual=rows, text=rows[:0], grids=grids)


@pytest.mark.parametrize(
    ("grid", "smaller"),
    [((24, 24), (12, 12)), ((24, 24), (8, 8)), ((6, 4), (3, 2)), ((4, 12), (2, 6)), ((5, 5), (1, 1))],
)
def test_where_cells_divide_the_grid_it_is_average_pooling(grid: tuple[int, int], smaller: tuple[int, int]) -> None:
    given = features(grid)
    picture = given.visual.T.reshape(1, WIDTH, *grid)
    kernel = (grid[0] // smaller[0], grid[1] // smaller[1])
    expected = F.avg_pool2d(picture, kernel).flatten(2)[0].T
    found = Pooling(num_keep=smaller[0] * smaller[1]).choose(given)
    assert found.merged is not None
    assert torch.allclose(found.merged, expected, atol=1e-6)


@pytest.mark.parametrize("grid", [(6, 9), (9, 6), (1, 7), (7, 1), (4, 4)])
def test_every_number_of_cells_can_be_had_and_every_patch_is_in_one_of_them(grid: tuple[int, int]) -> None:
    rows, columns = grid
    for count in range(1, rows * columns + 1):
        cells = counted_cells(rows, columns, count)
        places = [cell.places(columns) for cell in cells]
        assert len(cells) == count
        assert sorted(place for group in places for place in group) == list(range(rows * columns))
        middles = [cell.middle(columns) for cell in cells]
        assert middles == sorted(set(middles))
        assert all(middle in group for middle, group in zip(middles, places, strict=True))
        assert all(owners(cells, rows, columns)[place] == i for i, group in enumerate(places) for place in group)


def test_cells_are_near_squares_of_near_equal_size() -> None:
    for count in (64, 100, 128, 192, 300):
        sides = [(cell.bottom - cell.top, cell.right - cell.left) for cell in counted_cells(24, 24, count)]
        assert all(max(lengths) - min(lengths) <= 1 for lengths in zip(*sides, strict=True))
        assert all(max(pair) <= 2 * min(pair) for pair in sides)


def test_regular_cells_are_a_grid() -> None:
    cells = regular_cells(4, 6, 2, 3)
    assert [cell.places(6) for cell in cells][:2] == [(0, 1, 6, 7), (2, 3, 8, 9)]
    assert [cell.middle(6) for cell in cells] == [0, 2, 4, 12, 14, 16]


@pytest.mark.parametrize("num_keep", [2, 7, 13, 29])
def test_rows_are_the_means_of_their_sources_image_by_image(num_keep: int) -> None:
    given = features((3, 5), (4, 4))
    found = Pooling(num_keep=num_keep).choose(given)
    assert found.merged is not None
    assert found.sources is not None
    assert len(found.kept) == num_keep
    assert sorted(place for group in found.sources for place in group) == list(range(31))
    for row, group in zip(found.merged, found.sources, strict=True):
        assert torch.allclose(row, given.visual[list(group)].mean(dim=0), atol=1e-6)
        assert max(group) < 15 or min(group) >= 15, "a cell lies in one image"


def test_half_precision_is_averaged_in_single() -> None:
    given = features((24, 24), dtype=torch.float16)
    found = Pooling(num_keep=1).choose(given).merged
    assert found is not None
    assert found.dtype == torch.float16
    assert torch.equal(found[0], given.visual.float().mean(dim=0).half())


def test_gradients_reach_every_token() -> None:
    given = features((4, 4))
    given.visual.requires_grad_(True)
    merged = Pooling(num_keep=4).choose(given).merged
    assert merged is not None
    merged.sum().backward()
    assert torch.allclose(given.visual.grad, torch.full_like(given.visual, 0.25))


def test_without_the_whole_grid_there_is_nothing_to_pool() -> None:
    for grids in ((), ((2, 3),)):
        given = Features(visual=torch.zeros(9, WIDTH), text=torch.zeros(0, WIDTH), grids=grids)
        with pytest.raises(UserError, match="needs the whole patch grid"):
            Pooling(num_keep=4).choose(given)
