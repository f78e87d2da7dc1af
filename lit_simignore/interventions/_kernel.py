"""Attention of one decoder layer as an intervention meets it: what the kernel is given, and what is done around it.

The kernel (SDPA, flash, whatever the model was loaded with) stays, and no map over all queries and keys is ever made.
What a kernel cannot be told, a few query rows with other logits, is computed beside it from those rows alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

ROWS_AT_ONCE = 64
"""Query rows whose logits over all keys exist at the same time when rows are computed beside the kernel."""

Kernel: TypeAlias = "Callable[[Tensor, Tensor, Tensor], Tensor]"
"""Query ``(B, H, Q, d)``, key ``(B, G, K, d)`` and value ``(B, G, K, e)`` to outputs ``(B, Q, H, e)``. It applies the
layer's own mask and scaling."""


@dataclass(frozen=True, slots=True, eq=False)
class RowEdit:
    """Other attention logits for some query rows.

    Args:
        rows: ``(B, Q)`` bool, the query rows that are edited.
        change: given float32 logits ``(B, H, R, K)`` before masking and the query rows ``(R,)`` int64 that they belong
            to, the new logits. It is asked for whole rows of the batch; what it says of rows outside ``rows`` is
            ignored. Must not modify its argument.
    """

    rows: Tensor
    change: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class KernelInputs:
    """What one layer's attention is computed from. H query heads, G key heads (G divides H), K keys.

    Args:
        query: ``(B, H, Q, d)`` queries after rotation.
        key: ``(B, G, K, d)`` keys after rotation, cached ones included.
        value: ``(B, G, K, e)``.
        row_edits: rows that attend by other logits, applied in order.
        gain: ``(B or 1, H)`` factor of every head's output, ``None`` for one everywhere.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    row_edits: tuple[RowEdit, ...] = ()
    gain: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LayerContext:
    """Where an intervention acts: one layer, in one prefill or one later step.

    Slots are columns of the sequence as this layer sees it, after whatever was pruned before. The prompt takes the
    first P of the K key slots (in a prefill P = Q, and query row i is slot i); what follows was generated, or is empty.

    Args:
        layer_idx: 0-based decoder layer.
        num_layers: decoder layers of the model.
        visual: ``(B, P)`` bool, the prompt's visual tokens.
        alive: ``(B, P)`` bool, False for padding.
        scaling: factor of the logits.
        prefill: True while the prompt itself is read; False for everything that continues a cache.
        mask: as the kernel gets it: ``None`` (plainly causal), 2-D padding ``(B, K)``, or 4-D bool or additive
            ``(B or 1, 1 or H, Q, K)``.
        causal: whether ``None`` and 2-D masks mean causal attention.
        memory: what this intervention noted about this layer in this generation, empty in a prefill. Tensors have the
            batch first, because beams choose among them; everything else is kept as it is. It is what the trace shows.
            A layer may be computed twice (gradient checkpointing): whoever finds an entry uses it.
    """

    layer_idx: int
    num_layers: int
    visual: Tensor
    alive: Tensor
    scaling: float
    prefill: bool = True
    mask: Tensor | None = None
    causal: bool = True
    memory: dict[str, Any] = field(default_factory=dict)

    def sees(self, rows: Tensor, num_queries: int, num_keys: int) -> Tensor | None:
        """``(B or 1, 1 or H, R, K)`` bool: which keys the query ``rows`` ``(R,)`` attend to; ``None`` for all."""
        if self.mask is not None and self.mask.ndim == 4:
            part = self.mask[:, :, rows, :num_keys]
            return part if part.dtype == torch.bool else part > torch.finfo(part.dtype).min / 2
        seen = None
        if self.causal and num_queries > 1:
            first = 0 if self.prefill else num_keys - num_queries
            seen = (torch.arange(num_keys, device=rows.device) <= (rows + first)[:, None])[None, None]
        if self.mask is not None:
            padding = self.mask[:, None, None, :num_keys].bool()
            seen = padding if seen is None else seen & padding
        return seen

    def hide(self, logits: Tensor, rows: Tensor, num_queries: int) -> Tensor:
        """``logits`` ``(B, H, R, K)`` of the query ``rows`` with what they do not attend to at the lowest value."""
        lowest = torch.finfo(logits.dtype).min
        mask = self.mask
        if mask is not None and mask.ndim == 4 and mask.dtype != torch.bool:
            return (logits + mask[:, :, rows, : logits.shape[-1]].to(logits.dtype)).clamp(min=lowest)
        seen = self.sees(rows, num_queries, logits.shape[-1])
        return logits if seen is None else logits.masked_fill(~seen, lowest)


def row_logits(query: Tensor, key: Tensor, scaling: float, rows: Tensor) -> Tensor:
    """``(B, H, R, K)`` float32 attention logits of the query ``rows`` ``(R,)``, before masking.

    Args:
        query: ``(B, H, Q, d)``.
        key: ``(B, G, K, d)``; its heads are not repeated in memory.
        scaling: factor of the logits.
        rows: int64 query rows.
    """
    groups = key.shape[1]
    asked = query[:, :, rows].float().unflatten(1, (groups, query.shape[1] // groups))
    return torch.einsum("bghrd,bgkd->bghrk", asked, key.float()).flatten(1, 2) * scaling


def mix_values(probabilities: Tensor, value: Tensor) -> Tensor:
    """``(B, R, H, e)`` float32 outputs of rows that attend by ``probabilities`` ``(B, H, R, K)``."""
    groups = value.shape[1]
    grouped = probabilities.unflatten(1, (groups, probabilities.shape[1] // groups))
    return torch.einsum("bghrk,bgke->brghe", grouped, value.float()).flatten(2, 3)


def attend(kernel: Kernel, inputs: KernelInputs, context: LayerContext) -> Tensor:
    """Outputs ``(B, Q, H, e)`` of the layer's attention, in the kernel's dtype.

    Args:
        kernel: the layer's own, with its mask and scaling.
        inputs: what the interventions left.
        context: where this is.
    """
    output = kernel(inputs.query, inputs.key, inputs.value)
    if inputs.row_edits:
        output = _with_edited_rows(output, inputs, context)
    if inputs.gain is not None:
        output = output * inputs.gain[:, None, :, None].to(output.dtype)
    return output


def _with_edited_rows(output: Tensor, inputs: KernelInputs, context: LayerContext) -> Tensor:
    edited = torch.stack([edit.rows for edit in inputs.row_edits]).any(dim=0)
    num_queries = edited.shape[1]
    # one row needs no look at the device: decoding stays free of synchronisation
    rows = torch.arange(1, device=edited.device) if num_queries == 1 else edited.any(dim=0).nonzero()[:, 0]
    for chunk in rows.split(ROWS_AT_ONCE):
        logits = row_logits(inputs.query, inputs.key, context.scaling, chunk)
        for edit in inputs.row_edits:
            logits = torch.where(edit.rows[:, None, chunk, None], edit.change(logits, chunk), logits)
        mixed = mix_values(context.hide(logits, chunk, num_queries).softmax(dim=-1), inputs.value)
        mixed = torch.where(edited[:, chunk, None, None], mixed.to(output.dtype), output[:, chunk])
        output = output.index_copy(1, chunk, mixed)
    return output
