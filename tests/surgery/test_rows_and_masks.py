"""Choosing columns of batches and masks, against loops over rows and columns."""

from __future__ import annotations

import pytest
import torch

from lit_simignore.surgery.layer_masks import stage_decode_mask
from lit_simignore.surgery.masks import alive_columns, decode_mask, gather_mask, hidden_mask, prefill_mask
from lit_simignore.surgery.rows import compose, gather_positions, gather_rows, hide_columns, keep_columns, scatter_rows
from lit_simignore.types import UserError


def random_keep(seed=0, batch=4, length=9):
    keep = torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) > 0.4
    keep[:, -1] = True
    return keep


@pytest.mark.parametrize("seed", range(5))
def test_kept_columns_end_up_on_the_right_in_order(seed):
    keep = random_keep(seed)
    columns = keep_columns(keep)
    for row in range(4):
        assert columns.index[row][columns.valid[row]].tolist() == keep[row].nonzero()[:, 0].tolist()
        assert bool((columns.valid[row].int().diff() >= 0).all()), "padding must be on the left"
    assert columns.width == int(keep.sum(1).max()) and columns.length == 9
    assert columns.all_valid == bool(columns.valid.all())


def test_hiding_keeps_every_column_in_place():
    keep = random_keep()
    columns = hide_columns(keep)
    assert columns.index.tolist() == [list(range(9))] * 4 and torch.equal(columns.valid, keep)


@pytest.mark.parametrize("seed", range(5))
def test_scattering_undoes_gathering_with_zeros_in_between(seed):
    keep = random_keep(seed)
    values = torch.randn(4, 9, 3)
    columns = keep_columns(keep)
    restored = scatter_rows(gather_rows(values, columns.index), columns)
    assert torch.equal(restored, values * keep[..., None])


@pytest.mark.parametrize("seed", range(5))
def test_two_choices_compose_to_one(seed):
    first = keep_columns(random_keep(seed))
    second = keep_columns(random_keep(seed + 50, length=first.width) & first.valid)
    both = compose(first, second)
    values = torch.randn(4, 9, 2)
    step_by_step = gather_rows(gather_rows(values, first.index), second.index)
    assert torch.equal(gather_rows(values, both.index)[both.valid], step_by_step[second.valid])
    assert torch.equal(scatter_rows(step_by_step, both), scatter_rows(scatter_rows(step_by_step, second), first))
    assert both.length == 9


@pytest.mark.parametrize("shape", [(1, 9), (4, 9), (3, 1, 9), (3, 4, 9)])
def test_positions_of_any_rank_are_gathered_by_row(shape):
    positions = torch.randint(0, 50, shape)
    columns = keep_columns(random_keep())
    gathered = gather_positions(positions, columns.index)
    wide = positions.expand(*shape[:-2], 4, 9)
    for row in range(4):
        assert torch.equal(gathered[..., row, :], wide[..., row, :][..., columns.index[row]])


def causal(alive, additive):
    seen = torch.ones(9, 9).tril().bool() & alive[:, None, None, :]
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min) if additive else seen


@pytest.mark.parametrize("additive", [True, False])
def test_padding_is_read_off_every_format(additive):
    alive = torch.ones(4, 9, dtype=torch.bool)
    alive[1, :3] = False
    alive[2, 6:] = False
    device = torch.device("cpu")
    assert torch.equal(alive_columns(causal(alive, additive), 4, 9, device), alive)
    assert torch.equal(alive_columns({"full_attention": causal(alive, additive)}, 4, 9, device), alive)
    assert torch.equal(alive_columns(alive.long(), 4, 9, device), alive)
    assert bool(alive_columns(None, 4, 9, device).all())


def test_padding_is_read_off_packed_sequences():
    blocks = torch.block_diag(torch.ones(4, 4), torch.ones(5, 5)).tril().bool()[None, None]
    assert bool(alive_columns(blocks, 1, 9, torch.device("cpu")).all())


@pytest.mark.parametrize("additive", [True, False])
@pytest.mark.parametrize("spare", [0, 3])
def test_a_mask_is_cut_by_rows_and_columns(additive, spare):
    keep = random_keep()
    columns = keep_columns(keep)
    mask = causal(torch.ones(4, 9, dtype=torch.bool), additive)
    nothing = torch.finfo(torch.float32).min if additive else False
    mask = torch.nn.functional.pad(mask, (0, spare), value=nothing)
    cut = gather_mask(mask, columns)
    # a static cache's mask keeps the width of the cache
    assert cut.shape == (4, 1, columns.width, 9 + spare if spare else columns.width)
    for row in range(4):
        for query in range(columns.width):
            for key in range(columns.width):
                expected = mask[row, 0, columns.index[row, query], columns.index[row, key]]
                expected = expected if columns.valid[row, key] else nothing
                assert cut[row, 0, query, key] == expected
    assert spare == 0 or bool((cut[..., columns.width :] == nothing).all())


def test_without_a_cache_a_mask_is_always_given():
    """Gapped positions and no mask would be read as several packed sequences."""
    full = keep_columns(torch.ones(2, 5, dtype=torch.bool))
    assert prefill_mask(None, full, cached=True) is None
    assert prefill_mask(None, full, cached=False).tolist() == [[1] * 5] * 2
    ragged = keep_columns(torch.tensor([[True, False, True], [True, True, True]]))
    assert prefill_mask(None, ragged, cached=True).tolist() == [[0, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("additive", [True, False])
def test_hidden_columns_are_hidden_as_keys_only(additive):
    visible = random_keep()
    mask = causal(torch.ones(4, 9, dtype=torch.bool), additive)
    hidden = hidden_mask(mask, visible)
    nothing = torch.finfo(torch.float32).min if additive else False
    for row in range(4):
        for key in range(9):
            expected = mask[row, 0, :, key] if visible[row, key] else torch.full((9,), nothing)
            assert torch.equal(hidden[row, 0, :, key], expected)
    assert torch.equal(hidden_mask(None, visible), visible.long())


def test_a_later_mask_is_the_valid_slots_and_everything_after_the_prompt():
    keep = torch.tensor([[True, False, True, True], [True, False, False, True]])
    columns = keep_columns(keep)
    given = torch.tensor([[1, 1, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1]])
    assert decode_mask(given, columns, 1, 4, None).tolist() == [[1, 1, 1, 0, 1], [0, 1, 1, 1, 1]]
    assert decode_mask(None, columns, 1, 4, None).tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]
    assert decode_mask(None, columns, 1, 0, 7).shape == (2, 7)
    with pytest.raises(UserError, match="whole conversation"):
        decode_mask(given[:, :3], columns, 1, 4, None)


def test_a_flash_mask_behind_a_stage_stays_two_dimensional():
    columns = keep_columns(torch.tensor([[True, False, True, True], [True, False, False, True]]))
    given = torch.ones(2, 6, dtype=torch.long)
    later = stage_decode_mask(given, columns, torch.zeros(2, 1, 3), None, None, 2)
    assert later.tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]


def test_a_block_mask_is_refused_in_one_line():
    with pytest.raises(UserError, match="got object"):
        prefill_mask(object(), keep_columns(random_keep()), cached=True)
    with pytest.raises(UserError, match="got object"):
        alive_columns(object(), 4, 9, torch.device("cpu"))
