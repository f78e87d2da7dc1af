"""Masks of decoder layers behind a stage inside the decoder: what the layers share no longer fits them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

from lit_simignore.surgery.calls import cache_name
from lit_simignore.surgery.masks import gather_mask
from lit_simignore.surgery.rows import ColumnMap

_CACHE = cache_name(create_causal_mask)


def stage_prefill_mask(
    mask: Any, columns: ColumnMap, hidden: Tensor, cache: Cache | None, config: Any, layer_idx: int
) -> Any:
    """The mask of a layer behind a stage, at prefill.

    Args:
        mask: what the decoder made for the slots before the stage: ``None``, 2-D (flash), 4-D, or a block mask.
        columns: the slots that the stage left, of those before it.
        hidden: ``(B, n, D)`` the rows that are left.
        cache: the cache, if any.
        config: the decoder's.
        layer_idx: which layer's cache length counts.
    """
    if isinstance(mask, Tensor) and mask.ndim == 4:
        return gather_mask(mask, columns)
    if columns.all_valid and (mask is None or isinstance(mask, Tensor)):
        return None
    if isinstance(mask, Tensor):
        return columns.valid.to(device=mask.device, dtype=mask.dtype)
    return _causal(hidden, columns.valid, cache, config, layer_idx)


def stage_decode_mask(mask: Any, columns: ColumnMap, hidden: Tensor, cache: Cache, config: Any, layer_idx: int) -> Any:
    """The mask of a layer behind a stage, at a later step.

    Args:
        mask: what the decoder made for the slots before the stage and everything after the prompt.
        columns: as at prefill, from the cache.
        hidden: ``(B, q, D)`` the new rows.
        cache: the cache.
        config: the decoder's.
        layer_idx: which layer's cache length counts.
    """
    num_new = hidden.shape[1]
    if mask is None and columns.all_valid and num_new == 1:
        return None
    if isinstance(mask, Tensor) and mask.ndim == 4:
        return _later_columns(mask, columns, int(cache.get_mask_sizes(num_new, layer_idx)[0]))
    if isinstance(mask, Tensor):
        return torch.cat([columns.valid.to(mask), mask[:, columns.length :]], dim=1)
    later = int(cache.get_seq_length(layer_idx)) - columns.width + num_new
    valid = torch.cat([columns.valid, columns.valid.new_ones(hidden.shape[0], later)], dim=1)
    return _causal(hidden, valid, cache, config, layer_idx)


def _later_columns(mask: Tensor, columns: ColumnMap, target: int) -> Tensor:
    """Columns ``[index; everything after the prompt]`` of a 4-D mask, cut or padded to ``target`` slots."""
    batch = columns.index.shape[0]
    tail = torch.arange(columns.length, mask.shape[-1], device=mask.device).expand(batch, -1)
    chosen = torch.cat([columns.index.to(mask.device), tail], dim=1)
    mask = mask.expand(batch, -1, -1, -1)
    mask = mask.gather(3, chosen[:, None, None, :].expand(-1, mask.shape[1], mask.shape[2], -1))
    nothing = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    off = F.pad(~columns.valid.to(mask.device), (0, tail.shape[1]), value=False)
    mask = mask.masked_fill(off[:, None, None, :], nothing)
    return F.pad(mask, (0, target - mask.shape[-1]), value=nothing)


def _causal(hidden: Tensor, valid: Tensor, cache: Cache | None, config: Any, layer_idx: int) -> Any:
    return create_causal_mask(
        config=config,
        inputs_embeds=hidden,
        attention_mask=valid.long(),
        layer_idx=layer_idx,
        **{_CACHE: cache},
    )
