"""The oracle for interventions: attention written out in full, head by head, with the rule applied to its maps.

Everything here is done the slow way: whole maps of all heads, loops over samples, heads and columns, key heads
repeated. It is registered as an implementation of its own, so that the model around it is Hugging Face's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

NAME = "naive_oracle"


@dataclass
class Layer:
    """One layer's attention of one sample.

    Args:
        logits: ``(H, Q, K)`` float64, what is not seen at minus infinity.
        value: ``(H, K, e)``.
        visual: ``(P,)`` bool, the prompt's visual tokens that are left.
        real: ``(P,)`` bool, its columns that are left.
        prefill: whether the prompt is read.
        memory: of this sample and layer.
    """

    logits: Tensor
    value: Tensor
    visual: Tensor
    real: Tensor
    prefill: bool
    memory: dict[str, Any]


Rule = Callable[[Layer], Tensor]
"""The layer's maps ``(H, Q, K)``."""


@dataclass
class Naive:
    """What the oracle does in one generation.

    Args:
        visual: ``(B, N)`` bool.
        real: ``(B, N)`` bool.
        rules: by layer.
        hidden: by layer, columns ``(B, N)`` that are gone from that layer on.
    """

    visual: Tensor
    real: Tensor
    rules: Mapping[int, Rule]
    hidden: Mapping[int, Tensor] = field(default_factory=dict)
    memory: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)

    def gone(self, layer: int) -> Tensor:
        found = torch.zeros_like(self.visual)
        for first, columns in self.hidden.items():
            if first <= layer:
                found = found | columns
        return found


_NOW: list[Naive] = []


def naive_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    now, layer = _NOW[-1], int(module.layer_idx)  # type: ignore[arg-type]
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1).double(), value.repeat_interleave(repeats, 1).double()
    logits = query.double() @ key.transpose(-1, -2) * (kwargs.get("scaling") or query.shape[-1] ** -0.5)
    assert attention_mask is not None
    unseen = attention_mask[..., : key.shape[2]] < -1
    gone = now.gone(layer)
    prefill = query.shape[2] == now.visual.shape[1]
    outputs = []
    for row in range(len(query)):
        seen = ~unseen[row if len(unseen) > 1 else 0].expand_as(logits[row]).clone()
        seen[..., : gone.shape[1]] &= ~gone[row]
        maps = Layer(
            logits[row].masked_fill(~seen, -torch.inf),
            value[row],
            now.visual[row] & ~gone[row],
            now.real[row] & ~gone[row],
            prefill,
            now.memory.setdefault((layer, row), {}),
        )
        attention = now.rules[layer](maps) if layer in now.rules else maps.logits.softmax(-1)
        outputs.append((attention.nan_to_num(0) @ maps.value).transpose(0, 1))
    return torch.stack(outputs).to(query.dtype), None


AttentionInterface.register(NAME, naive_attention)
AttentionMaskInterface.register(NAME, eager_mask)


@contextmanager
def naively(
    model: Any, inputs: Mapping[str, Tensor], visual: Tensor, rules: Mapping[int, Rule], **more: Any
) -> Iterator[Naive]:
    """Within the block the decoder computes attention by the oracle."""
    decoder = model.get_decoder()
    before = decoder.config._attn_implementation
    _NOW.append(Naive(visual, inputs["attention_mask"].bool(), rules, **more))
    decoder.set_attn_implementation(NAME)
    try:
        yield _NOW[-1]
    finally:
        decoder.set_attn_implementation(before)
        _NOW.pop()


# -- rules


def broadcast_densest(layer: Layer, *, scale: float = 1.25) -> Tensor:
    """EAH as corrected: mean over the other rows that see a column, threshold in 1 / length, ties by mass."""
    maps = layer.logits.softmax(-1)
    if layer.prefill:
        best, columns, counts = None, layer.visual.nonzero()[:, 0].tolist(), []
        shown = maps.detach()
        rows = layer.real.nonzero()[:, 0].tolist()
        for head in range(len(maps)):
            count, mass = 0, 0.0
            for column in columns:
                others = [row for row in rows if row != column and layer.logits[head, row, column] > -torch.inf]
                mean = sum(float(shown[head, row, column]) for row in others) / len(others) if others else 0.0
                count += mean > scale / len(rows)
                mass += mean
            counts.append(count)
            if count and (best is None or (count, mass) > best[:2]):
                best = (count, mass, head)
        layer.memory |= {"head": None if best is None else best[2], "counts": counts}
    head = layer.memory["head"]
    return maps if head is None else maps[head].expand_as(maps)


def boost_image(layer: Layer, *, alpha: float = 0.2) -> Tensor:
    """PAI: the row that predicts the next token pays more to the image."""
    if not bool(layer.visual.any()):
        return layer.logits.softmax(-1)
    boosted = torch.zeros_like(layer.logits)
    rows = [int(layer.real.nonzero()[-1, 0])] if layer.prefill else range(layer.logits.shape[1])
    for row in rows:
        for column in layer.visual.nonzero()[:, 0].tolist():
            boosted[:, row, column] = alpha
    finite = layer.logits.masked_fill(layer.logits == -torch.inf, 0)
    return (layer.logits + boosted * finite.abs()).softmax(-1)


def ablate(layer: Layer, *, heads: Sequence[int], mode: str) -> Tensor:
    """Head ablation."""
    maps = layer.logits.softmax(-1)
    seen = layer.logits > -torch.inf
    for head in heads:
        if mode == "zero":
            maps[head] = 0
        elif mode == "uniform":
            maps[head] = seen[head] / seen[head].sum(-1, keepdim=True)
        elif bool(layer.visual.any()):
            first = int(layer.visual.nonzero()[0, 0])
            behind = torch.zeros(maps.shape[1], dtype=torch.bool)
            for row in range(maps.shape[1]):
                is_text = layer.prefill and not bool(layer.visual[row]) and bool(layer.real[row])
                behind[row] = not layer.prefill or (row > first and is_text)
            columns = torch.zeros(maps.shape[2], dtype=torch.bool)
            columns[: len(layer.visual)] = layer.visual
            maps[head] = layer.logits[head].masked_fill(behind[:, None] & columns[None], -torch.inf).softmax(-1)
    return maps
