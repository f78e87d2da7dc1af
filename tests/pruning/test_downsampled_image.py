"""Which grid the smaller picture has, and which tokens stand for it. What they hold is tested with a tower."""

from __future__ import annotations

import pytest
import torch

from lit_simignore.pruning.base import Features
from lit_simignore.pruning.downsampled_image import DownsampledImage
from lit_simignore.types import UserError
from tests.pruning.shapes import Shape


def features(*grids: tuple[int, int]) -> Features:
    total = sum(rows * columns for rows, columns in grids)
    return Features(visual=torch.zeros(total, 2), text=torch.zeros(0, 2), grids=grids)


@pytest.mark.parametrize(
    ("ratio", "grid", "smaller"),
    [
        (0.25, (24, 24), (12, 12)),
        (128 / 576, (24, 24), (11, 11)),
        (192 / 576, (24, 24), (13, 13)),
        (64 / 576, (24, 24), (8, 8)),
        (1.0, (24, 24), (24, 24)),
        (1 / 576, (24, 24), (1, 1)),
        (0.25, (10, 20), (5, 10)),
        (0.3, (1, 10), (1, 3)),
        (0.1, (3, 8), (1, 2)),
    ],
)
def test_the_smaller_picture_is_the_largest_of_the_same_shape(ratio, grid, smaller) -> None:
    assert DownsampledImage(keep_ratio=ratio).smaller_grid(*grid) == smaller


def test_kept_tokens_are_the_middles_of_cells_that_cover_the_picture() -> None:
    found = DownsampledImage(keep_ratio=0.25).choose(features((4, 6), (2, 2)))
    assert found.kept.tolist() == [0, 2, 4, 12, 14, 16, 24]
    assert found.sources is not None
    assert found.sources[0] == (0, 1, 6, 7)
    assert sorted(place for group in found.sources for place in group) == list(range(28))
    assert found.merged is None


def test_a_budget_is_a_fraction_of_the_prompt_s_tokens() -> None:
    shape = Shape(num_layers=4, num_visual=576)
    spent = DownsampledImage().with_budget("layer_mean", 128, shape)
    assert spent == DownsampledImage(keep_ratio=128 / 576)
    assert len(spent.choose(features((24, 24))).kept) == 121
    assert DownsampledImage().with_budget("final", 900, shape) == DownsampledImage(keep_ratio=1.0)
    with pytest.raises(UserError, match="at least 1 visual token"):
        DownsampledImage().with_budget("final", 0, shape)
    with pytest.raises(UserError, match="depends on the decoder and the prompt"):
        DownsampledImage().with_budget("final", 64)


def test_what_is_too_small_is_refused() -> None:
    with pytest.raises(UserError, match=r"leaves no patch of 24 x 24; ask for 0\.001736 or more"):
        DownsampledImage(keep_ratio=0.001).choose(features((24, 24)))
    with pytest.raises(UserError, match="needs the patch grid"):
        DownsampledImage().choose(Features(visual=torch.zeros(5, 2), text=torch.zeros(0, 2)))
