from __future__ import annotations

import pytest
import torch

from lit_simignore.attribution.grids import to_grids
from lit_simignore.types import UserError


def test_images_of_any_shape_are_laid_out_row_by_row() -> None:
    values = torch.arange(2 * 10).reshape(2, 10)
    first, second = to_grids(values, [(2, 3), (4, 1)])
    assert first.shape == (2, 2, 3) and second.shape == (2, 4, 1)
    assert first[1].tolist() == [[10, 11, 12], [13, 14, 15]]
    assert second[0].tolist() == [[6], [7], [8], [9]]


def test_grids_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match="grids of 10 visual tokens in all; got 3x3"):
        to_grids(torch.zeros(10), [(3, 3)])
    with pytest.raises(UserError, match="got none"):
        to_grids(torch.zeros(10), [])
