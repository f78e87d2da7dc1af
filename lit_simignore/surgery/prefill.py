"""The stage before the decoder: shorten (or mask) everything that the decoder is called with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lit_simignore.surgery.calls import cache_in
from lit_simignore.surgery.choose import Chosen
from lit_simignore.surgery.masks import hidden_mask, prefill_mask
from lit_simignore.surgery.prompt import Slots
from lit_simignore.surgery.rows import ColumnMap, gather_positions, gather_rows, hide_columns, keep_columns
from lit_simignore.types import UserError

KNOWN_INPUTS = frozenset({"inputs_embeds", "attention_mask", "position_ids", "input_ids", "labels"})


def shortened_inputs(
    chosen: Chosen, slots: Slots, inputs: dict[str, Any], *, renumber: bool, known: frozenset[str] = frozenset()
) -> tuple[dict[str, Any], ColumnMap]:
    """The decoder's arguments with only the kept columns, left-padded, and where these came from.

    Args:
        chosen: what stays.
        slots: the whole prompt.
        inputs: keyword arguments of the decoder's forward.
        renumber: whether positions are closed up.
        known: further arguments with one entry per column, which the family shortens.

    Raises:
        UserError: an argument has one entry per column and is known neither here nor to the family.
    """
    _check_inputs(inputs, slots.visual.shape[1], known)
    columns = keep_columns(chosen.keep)
    positions = _positions(chosen, inputs)
    if renumber:
        dropped = dropped_before(slots.alive, chosen.keep)
        columns, positions = replace(columns, shift=dropped[:, -1:]), closed_up(positions, dropped)
    cached = cache_in(inputs) is not None
    changed = {
        "inputs_embeds": gather_rows(chosen.rows, columns.index),
        "position_ids": gather_positions(positions, columns.index).masked_fill(~columns.valid, 0),
        "attention_mask": prefill_mask(inputs.get("attention_mask"), columns, cached=cached),
    }
    return {**inputs, **changed}, columns


def masked_inputs(
    chosen: Chosen, slots: Slots, inputs: dict[str, Any], *, renumber: bool
) -> tuple[dict[str, Any], ColumnMap]:
    """The decoder's arguments with the other visual tokens hidden from attention; the length stays.

    Hidden tokens are still computed and keep their place, as in the released Simignore.
    """
    columns = hide_columns(chosen.keep)
    changed: dict[str, Any] = {"attention_mask": hidden_mask(inputs.get("attention_mask"), chosen.keep)}
    if renumber:
        dropped = dropped_before(slots.alive, chosen.keep)
        columns = replace(columns, shift=dropped[:, -1:])
        changed["position_ids"] = closed_up(_positions(chosen, inputs), dropped)
    if chosen.merged:
        changed["inputs_embeds"] = chosen.rows
    return {**inputs, **changed}, columns


def dropped_before(alive: Tensor, keep: Tensor) -> Tensor:
    """``(B, n)`` int64, how many real slots up to and including each one are dropped."""
    return (alive & ~keep).long().cumsum(dim=1)


def closed_up(positions: Tensor, dropped: Tensor) -> Tensor:
    """Positions ``(B or 1, n)`` without the gaps of ``dropped`` ``(B, n)`` slots.

    Raises:
        UserError: positions with height and width have no order in which to close up.
    """
    if positions.ndim != 2:
        raise UserError(
            "positions='renumber' is undefined for positions with height and width; use positions='original'"
        )
    return (positions - dropped.to(positions.device)).clamp(min=0)


def _positions(chosen: Chosen, inputs: dict[str, Any]) -> Tensor:
    """``(..., B or 1, N)`` rotary positions of the whole prompt, as the decoder itself would make them."""
    positions = inputs.get("position_ids")
    if positions is None:
        return torch.arange(chosen.keep.shape[1], device=chosen.keep.device)[None]
    return positions


def _check_inputs(inputs: dict[str, Any], length: int, known: frozenset[str]) -> None:
    for name, value in inputs.items():
        per_column = isinstance(value, Tensor) and value.ndim >= 2 and value.shape[1] == length
        if per_column and name not in KNOWN_INPUTS | known:
            raise UserError(
                f"the decoder is given {name!r} of shape {tuple(value.shape)}, one entry per token, which pruning does "
                "not know how to shorten; leave it out, or use apply='mask'"
            )
