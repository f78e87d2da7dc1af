"""Later steps on a shortened cache: the caller computed mask and positions for the whole prompt; rewrite them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from lit_simignore.surgery.masks import decode_mask
from lit_simignore.surgery.rows import ColumnMap
from lit_simignore.types import UserError


def later_inputs(inputs: dict[str, Any], cache: Cache, columns: ColumnMap, batch: int, num_new: int) -> dict[str, Any]:
    """Arguments for a step after the prefill, never waiting for the device.

    Args:
        inputs: keyword arguments of the model's forward.
        cache: the cache that holds the shortened prompt.
        columns: how it was shortened.
        batch: rows of this step.
        num_new: columns of this step.
    """
    if columns.index.shape[0] != batch:
        raise UserError(
            f"the cache holds {columns.index.shape[0]} pruned prompts; the call has {batch} rows: start a new cache"
        )
    static = bool(cache.is_compileable)
    mask = inputs.get("attention_mask")
    if static and num_new > 1 and batch > 1 and not (isinstance(mask, Tensor) and mask.ndim == 2):
        raise UserError(
            "several new tokens at once for a batch on a static cache hide which of them are padding; "
            "use the default (dynamic) cache for a second turn"
        )
    capacity = cache.get_max_length() if static else None
    cached = 0 if static else cache.get_seq_length(0)
    changed: dict[str, Any] = {"attention_mask": decode_mask(mask, columns, num_new, cached, capacity)}
    if columns.shift is not None:
        changed["position_ids"] = _positions(inputs, cache, columns, num_new)
    return {**inputs, **changed}


def _positions(inputs: dict[str, Any], cache: Cache, columns: ColumnMap, num_new: int) -> Tensor:
    """Positions of the new tokens, moved down by what was dropped before them."""
    positions = inputs.get("position_ids")
    if positions is None:
        positions = torch.arange(num_new, device=columns.index.device)[None] + cache.get_seq_length()
    assert columns.shift is not None
    return positions - columns.shift.to(positions.device)
