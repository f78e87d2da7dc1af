from __future__ import annotations

import pytest
import torch

from lit_simignore.attribution.shares import NO_PART, Part, attention_shares, layer_shares, parts_of
from lit_simignore.types import UserError
from tests.attribution.tiny_decoder import TinyDecoder, embeddings


def visual_at(length: int, *images: slice) -> torch.Tensor:
    visual = torch.zeros(length, dtype=torch.bool)
    for image in images:
        visual[image] = True
    return visual


def test_parts_are_system_image_user_and_output() -> None:
    alive = torch.ones(14, dtype=torch.bool)
    alive[:2] = False
    parts = parts_of(visual_at(14, slice(4, 6), slice(8, 10)), 12, alive)
    assert parts.tolist() == [NO_PART] * 2 + [0] * 2 + [1] * 2 + [2] * 2 + [1] * 2 + [2] * 2 + [3] * 2


def test_a_prompt_without_image_is_the_users_alone() -> None:
    assert parts_of(visual_at(5), 4).tolist() == [2, 2, 2, 2, 3]


def test_shares_of_every_row_and_head_sum_to_one_and_are_the_sums_of_their_columns() -> None:
    attention = TinyDecoder()(embeddings()).attention[1].detach()
    parts = parts_of(visual_at(14, slice(3, 8)), 12)
    shares = attention_shares(attention, parts)
    assert shares.shape == (4, 14, 4)
    assert torch.allclose(shares.sum(-1), torch.ones(4, 14), atol=1e-6)
    for part in Part:
        for head in range(4):
            for row in range(14):
                columns = [column for column in range(14) if int(parts[column]) == part]
                expected = sum(float(attention[head, row, column]) for column in columns)
                assert abs(float(shares[head, row, part]) - expected) < 1e-6


def test_layers_may_have_different_lengths() -> None:
    """Behind a stage that drops tokens, keys and parts are fewer; shares still sum to 1."""
    full = torch.randn(4, 2, 14).softmax(-1)
    short = torch.randn(4, 2, 9).softmax(-1)
    table = layer_shares([(full, parts_of(visual_at(14, slice(3, 8)), 12)), (short, parts_of(visual_at(9), 7))])
    assert table.shape == (2, 4)
    assert torch.allclose(table.sum(1), torch.ones(2), atol=1e-6)
    assert float(table[1, Part.VISUAL]) == 0
    assert torch.allclose(table[0, Part.VISUAL], full[..., 3:8].sum(-1).mean(), atol=1e-6)


def test_half_precision_attention_still_sums_to_one() -> None:
    attention = torch.randn(4, 3, 600).softmax(-1)
    shares = attention_shares(attention.half(), parts_of(visual_at(600, slice(30, 590)), 598))
    assert torch.allclose(shares.sum(-1), torch.ones(4, 3), atol=2e-3)


def test_parts_of_another_length_are_refused() -> None:
    with pytest.raises(UserError, match="one per column"):
        attention_shares(torch.zeros(2, 3, 5), torch.zeros(4, dtype=torch.long))
