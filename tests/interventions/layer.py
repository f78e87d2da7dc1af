"""One layer of attention with random heads, as a model would hand it to an intervention; and the same layer naively.

Samples are made one by one and padded to a batch afterwards, so every test can compare with the sample alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_simignore.interventions.base import AttentionIntervention, KernelInputs, LayerContext, attend

SCALING = 0.25


@dataclass
class Prompt:
    """One unpadded sample: ``query`` (H, L, d), ``key`` and ``value`` (G, L, d), and its visual tokens ``(L,)``."""

    query: Tensor
    key: Tensor
    value: Tensor
    visual: Tensor

    @property
    def length(self) -> int:
        return len(self.visual)

    def maps(self) -> Tensor:
        """``(H, L, L)`` causal attention, written out."""
        heads, groups = len(self.query), len(self.key)
        key = self.key.repeat_interleave(heads // groups, dim=0)
        logits = self.query @ key.transpose(-1, -2) * SCALING
        later = torch.ones(self.length, self.length, dtype=torch.bool).triu(1)
        return logits.masked_fill(later, -torch.inf).softmax(-1)

    def outputs(self, maps: Tensor) -> Tensor:
        """``(L, H, d)`` by the attention ``maps`` (H, L, L)."""
        value = self.value.repeat_interleave(len(self.query) // len(self.value), dim=0)
        return (maps @ value).transpose(0, 1)


def prompt(
    length: int = 19,
    images: Sequence[slice] = (slice(3, 11),),
    heads: int = 4,
    groups: int = 2,
    seed: int = 0,
    dim: int = 8,
) -> Prompt:
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> Tensor:
        return 2 * torch.randn(count, length, dim, generator=generator)

    visual = torch.zeros(length, dtype=torch.bool)
    for image in images:
        visual[image] = True
    return Prompt(draw(heads), draw(groups), draw(groups), visual)


@dataclass
class Layer:
    """A batch of prompts in one layer, padded on one side, with the mask as a kernel of that kind would get it."""

    prompts: Sequence[Prompt]
    side: str = "left"
    mask_kind: str = "bool"
    length: int = 0
    memory: dict[str, Any] = field(default_factory=dict)
    layer_idx: int = 2
    num_layers: int = 4

    def __post_init__(self) -> None:
        self.length = max(self.length, *(each.length for each in self.prompts))
        self.alive = torch.stack([self.pad(torch.ones(each.length, dtype=torch.bool)) for each in self.prompts])

    def pad(self, values: Tensor, dim: int = 0) -> Tensor:
        """``values`` of one sample at the batch's length; what fills it up is loud, so that reading it is noticed."""
        missing = self.length - values.shape[dim]
        shape = [*values.shape[:dim], missing, *values.shape[dim + 1 :]]
        filler = torch.zeros(shape, dtype=torch.bool) if values.dtype == torch.bool else torch.full(shape, 7.0)
        parts = [filler, values] if self.side == "left" else [values, filler]
        return torch.cat(parts, dim=dim)

    def inputs(self) -> KernelInputs:
        def stack(name: str) -> Tensor:
            return torch.stack([self.pad(getattr(each, name), dim=1) for each in self.prompts])

        return KernelInputs(stack("query"), stack("key"), stack("value"))

    def attended(self) -> Tensor:
        """``(B, 1, L, L)`` bool."""
        causal = torch.ones(self.length, self.length, dtype=torch.bool).tril()
        return causal & self.alive[:, None, None, :]

    def mask(self) -> Tensor | None:
        if self.mask_kind == "none":
            return None
        if self.mask_kind == "padding":
            return self.alive.long()
        if self.mask_kind == "additive":
            return torch.zeros_like(self.attended(), dtype=torch.float32).masked_fill(
                ~self.attended(), torch.finfo(torch.float32).min
            )
        return self.attended()

    def context(self) -> LayerContext:
        visual = torch.stack([self.pad(each.visual) for each in self.prompts])
        return LayerContext(
            self.layer_idx, self.num_layers, visual, self.alive, SCALING, mask=self.mask(), memory=self.memory
        )

    def kernel(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # a query that sees nothing gives NaN in SDPA: padding looks at itself
        attended = self.attended() | torch.eye(self.length, dtype=torch.bool)
        return sdpa(query, key, value, attended)

    def run(self, part: AttentionIntervention) -> list[Tensor]:
        """``(L, H, d)`` outputs of every sample, its padding cut off."""
        context = self.context()
        output = attend(self.kernel, part.edit(self.inputs(), context), context)
        return [rows[alive] for rows, alive in zip(output, self.alive, strict=True)]

    def step(self, part: AttentionIntervention, new: Sequence[Prompt]) -> Tensor:
        """``(B, 1, H, d)`` outputs of the next token, given the samples with that token appended."""

        def stack(name: str, rows: slice) -> Tensor:
            return torch.stack(
                [
                    torch.cat([self.pad(getattr(each, name)[:, :-1], dim=1), getattr(each, name)[:, -1:]], dim=1)[
                        :, rows
                    ]
                    for each in new
                ]
            )

        everything = slice(None)
        inputs = KernelInputs(stack("query", slice(-1, None)), stack("key", everything), stack("value", everything))
        alive = torch.cat([self.alive, torch.ones(len(new), 1, dtype=torch.bool)], dim=1)[:, None, None]
        first = self.context()
        context = LayerContext(
            first.layer_idx,
            first.num_layers,
            first.visual,
            first.alive,
            SCALING,
            prefill=False,
            mask=alive,
            memory=self.memory,
        )

        def kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return sdpa(query, key, value, alive)

        return attend(kernel, part.edit(inputs, context), context)


def sdpa(query: Tensor, key: Tensor, value: Tensor, attended: Tensor) -> Tensor:
    output = F.scaled_dot_product_attention(query, key, value, attended, scale=SCALING, enable_gqa=True)
    return output.transpose(1, 2)
