"""Attention masks in the formats that transformers hands around, before and after columns are chosen.

2-D ``(B, N)`` is a padding mask (1 = real token). 4-D ``(B or 1, 1 or H, Q, K)`` is bool (True = attend) or additive
(0 = attend, very negative = not). A dict maps a layer type to a 4-D mask. ``None`` means plainly causal.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_simignore.surgery.rows import ColumnMap
from lit_simignore.types import UserError


def alive_columns(mask: Any, batch: int, length: int, device: torch.device) -> Tensor:
    """``(B, N)`` bool, False for padding, read off a prefill mask of any format.

    In a 4-D mask a real token attends to itself and padding does not; this holds for block-diagonal masks of packed
    sequences too, where the last row would show only the last block.
    """
    mask = _one_of(mask)
    if mask is None:
        return torch.ones(batch, length, dtype=torch.bool, device=device)
    if mask.ndim == 2:
        return mask[:, -length:].to(device).bool()
    diagonal = attends(mask)[:, 0].diagonal(dim1=-2, dim2=-1)[:, :length]
    return diagonal.to(device).expand(batch, length)


def attends(mask: Tensor) -> Tensor:
    """A 4-D mask as bool, True where attention is allowed."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def prefill_mask(mask: Any, columns: ColumnMap, *, cached: bool) -> Any:
    """The mask for the chosen columns, in the format of ``mask``.

    Args:
        mask: the mask of the whole prompt.
        columns: the columns that stay.
        cached: whether keys are being cached. Without a cache, gapped positions and no mask would be read as
            several packed sequences, so a mask is always given then.
    """
    if isinstance(mask, dict):
        return {kind: prefill_mask(value, columns, cached=cached) for kind, value in mask.items()}
    if mask is None or (isinstance(mask, Tensor) and mask.ndim == 2):
        return None if columns.all_valid and cached else columns.valid.long()
    if not isinstance(mask, Tensor):
        raise UserError(
            f"pruning expects a 2-D padding mask or a 4-D tensor; got {type(mask).__name__}: pass the 2-D mask, or "
            "load the model with attn_implementation='sdpa'"
        )
    return gather_mask(mask, columns)


def gather_mask(mask: Tensor, columns: ColumnMap) -> Tensor:
    """Rows and columns of a 4-D prefill mask. A static cache's spare columns are re-appended as not attended."""
    batch, width = columns.index.shape
    index, valid = columns.index.to(mask.device), columns.valid.to(mask.device)
    num_keys, heads = mask.shape[-1], mask.shape[1]
    mask = mask.expand(batch, -1, -1, -1)
    mask = mask.gather(2, index[:, None, :, None].expand(-1, heads, -1, num_keys))
    mask = mask.gather(3, index[:, None, None, :].expand(-1, heads, width, -1))
    nothing = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    mask = mask.masked_fill(~valid[:, None, None, :], nothing)
    spare = num_keys - width if num_keys > columns.length else 0
    return F.pad(mask, (0, spare), value=nothing) if spare else mask


def hidden_mask(mask: Any, visible: Tensor) -> Any:
    """The prefill mask with the columns outside ``visible`` ``(B, N)`` hidden as keys; no column is dropped."""
    if isinstance(mask, dict):
        return {kind: hidden_mask(value, visible) for kind, value in mask.items()}
    if mask is None or (isinstance(mask, Tensor) and mask.ndim == 2):
        return visible.long()
    if not isinstance(mask, Tensor):
        raise UserError(
            f"masking expects a 2-D padding mask or a 4-D tensor; got {type(mask).__name__}: pass the 2-D mask, or "
            "load the model with attn_implementation='sdpa'"
        )
    hidden = F.pad(~visible, (0, mask.shape[-1] - visible.shape[1]), value=False)
    nothing = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    return mask.masked_fill(hidden[:, None, None, :], nothing)


def decode_mask(mask: Any, columns: ColumnMap, num_new: int, cached: int, capacity: int | None) -> Tensor | None:
    """The 2-D mask of a later step: which cached slots are real, then everything after the prompt.

    Args:
        mask: what the caller gave: the 2-D mask of the original length, ``None``, or the 4-D mask (or dict) that
            ``generate`` makes for static caches out of the original columns, which is wrong for shortened ones.
        columns: the map made at prefill.
        num_new: columns of this step.
        cached: slots in the cache; read only where ``mask`` is ``None`` and ``capacity`` is.
        capacity: slots of a static cache, ``None`` for a growing one.

    Returns:
        ``(B, width + later)`` int64, or ``None`` where every slot is real.
    """
    valid = columns.valid.long()
    if isinstance(mask, Tensor) and mask.ndim == 2:
        if mask.shape[1] < columns.length:
            raise UserError(
                f"attention_mask must cover the whole conversation (at least {columns.length} columns, the original "
                f"prompt); got {mask.shape[1]}: append to the mask of the first call"
            )
        return torch.cat([valid, mask[:, columns.length :].to(valid)], dim=1)
    if mask is None and columns.all_valid:
        return None
    later = (capacity - columns.width) if capacity is not None else cached - columns.width + num_new
    return torch.cat([valid, valid.new_ones(valid.shape[0], later)], dim=1)


def _one_of(mask: Any) -> Tensor | None:
    if isinstance(mask, dict):
        mask = mask.get("full_attention", next(iter(mask.values())))
    if mask is not None and not isinstance(mask, Tensor):
        raise UserError(
            f"pruning expects a 2-D padding mask or a 4-D tensor; got {type(mask).__name__}: pass the 2-D mask, or "
            "load the model with attn_implementation='sdpa'"
        )
    return mask
