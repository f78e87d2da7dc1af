"""Oracle: painting both grids on a fine canvas and counting pixels."""

from __future__ import annotations

import random

import pytest
import torch

from lit_simignore.metrics.patches import carried_tokens, needed_cover, needed_recall
from lit_simignore.types import NeededPatches, UserError


def _painted_recall(kept: list[int], needed: list[NeededPatches], grids: list[tuple[int, int]]) -> float:
    """Every image is a canvas that both grids divide evenly; count the needed pixels under kept tokens."""
    covered = total = 0.0
    for entry in needed:
        rows, cols = grids[entry.image]
        offset = sum(r * c for r, c in grids[: entry.image])
        height, width = entry.grid[0] * rows, entry.grid[1] * cols
        for index in entry.indices:
            top, left = divmod(index, entry.grid[1])
            pixels = [
                (y * rows // height * cols + x * cols // width) + offset in kept
                for y in range(top * rows, (top + 1) * rows)
                for x in range(left * cols, (left + 1) * cols)
            ]
            covered += sum(pixels) / len(pixels)
            total += 1
    return covered / total


def test_recall_agrees_with_counting_pixels_on_random_grids() -> None:
    generator = random.Random(0)
    for _ in range(60):
        grids = [(generator.randint(1, 6), generator.randint(1, 6)) for _ in range(generator.randint(1, 3))]
        tokens = sum(rows * cols for rows, cols in grids)
        kept = sorted(generator.sample(range(tokens), generator.randint(0, tokens)))
        needed = []
        for image in range(len(grids)):
            grid = (generator.randint(1, 5), generator.randint(1, 5))
            size = grid[0] * grid[1]
            indices = tuple(sorted(generator.sample(range(size), generator.randint(1, size))))
            needed.append(NeededPatches(grid, indices, image))
        assert needed_recall(kept, needed, grids) == pytest.approx(_painted_recall(kept, needed, grids), abs=1e-12)


def test_on_equal_grids_recall_is_a_ratio_of_counts() -> None:
    needed = [NeededPatches((12, 12), (0, 5, 100, 143))]
    assert needed_recall(torch.tensor([0, 100, 101]), needed, [(12, 12)]) == 0.5
    assert needed_recall(range(144), needed, [(12, 12)]) == 1.0
    assert needed_recall([], needed, [(12, 12)]) == 0.0


def test_a_finer_grid_of_the_model_counts_partly_covered_patches() -> None:
    needed = [NeededPatches((2, 2), (0,))]
    assert needed_recall([0, 1, 4], needed, [(4, 4)]) == 0.75


def test_nothing_needed_or_no_grid_gives_no_number() -> None:
    assert needed_recall([0], [], [(2, 2)]) is None
    assert needed_recall([0], [NeededPatches((2, 2), ())], [(2, 2)]) is None
    assert needed_recall([0], [NeededPatches((2, 2), (0,))], []) is None


def test_cover_is_the_share_of_a_token_that_needed_patches_paint() -> None:
    generator = random.Random(1)
    for _ in range(20):
        grids = [(generator.randint(1, 6), generator.randint(1, 6)) for _ in range(2)]
        grid = (generator.randint(1, 6), generator.randint(1, 6))
        size = grid[0] * grid[1]
        indices = tuple(sorted(generator.sample(range(size), generator.randint(1, size))))
        cover = needed_cover([NeededPatches(grid, indices, 1)], grids)
        assert cover is not None
        (rows, cols), side = grids[1], 60  # every grid of up to 6 divides 60
        painted = torch.zeros(side, side)
        for index in indices:
            high, wide = side // grid[0], side // grid[1]
            top, left = index // grid[1] * high, index % grid[1] * wide
            painted[top : top + high, left : left + wide] = 1
        high, wide = side // rows, side // cols
        means = painted.unfold(0, high, high).unfold(1, wide, wide).mean(dim=(2, 3)).flatten()
        first = grids[0][0] * grids[0][1]
        assert not cover[:first].any()
        assert cover[first:].tolist() == pytest.approx(means.tolist(), abs=1e-6)


def test_two_needed_entries_of_one_image_are_joined_and_nothing_needed_has_no_cover() -> None:
    both = [NeededPatches((2, 2), (0,)), NeededPatches((2, 2), (0, 3))]
    assert needed_cover(both, [(2, 2)]).tolist() == [1, 0, 0, 1]  # type: ignore[union-attr]
    assert needed_cover([], [(2, 2)]) is None and needed_cover(both, []) is None
    with pytest.raises(UserError, match="image 1"):
        needed_cover([NeededPatches((2, 2), (0,), image=1)], [(2, 2)])


def test_indices_outside_the_grids_are_refused() -> None:
    with pytest.raises(UserError, match=r"0\.\.3"):
        needed_recall([4], [NeededPatches((2, 2), (0,))], [(2, 2)])
    with pytest.raises(UserError, match="image 1"):
        needed_recall([0], [NeededPatches((2, 2), (0,), image=1)], [(2, 2)])
    with pytest.raises(UserError, match="needed patches"):
        needed_recall([0], [NeededPatches((2, 2), (4,))], [(2, 2)])


def test_a_row_carries_what_it_was_made_of_through_all_stages() -> None:
    merged = ([1, 4], [(0, 1, 3), (4, 5)])
    assert carried_tokens([merged]) == [0, 1, 3, 4, 5]
    assert carried_tokens([merged, ([4], None)]) == [4, 5]
    assert carried_tokens([([0, 1, 4], None), ([1, 4], [(0, 1), (4,)])]) == [0, 1, 4]
    # the second merge takes token 1 with all that the first put into it, and not what was lost before
    assert carried_tokens([merged, ([4], [(1, 4)])]) == [0, 1, 3, 4, 5]
    assert carried_tokens([merged, ([], None)]) == []


def test_a_row_that_is_no_patch_carries_none() -> None:
    assert carried_tokens([([2, 7], [(), (7, 8)])]) == [7, 8]


def test_without_merging_there_is_nothing_to_carry() -> None:
    assert carried_tokens([([1, 4], None), ([4], None)]) is None
    assert carried_tokens([]) is None
