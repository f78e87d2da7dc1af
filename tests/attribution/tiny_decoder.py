"""A two-layer decoder written out with whole attention maps, for gradients that autograd can check."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

HEADS, GROUPS, WIDTH, VOCABULARY, LAYERS = 4, 2, 16, 11, 2
HEAD_DIM = WIDTH // HEADS


@dataclass
class Run:
    """What one pass computed, layer by layer.

    Maps ``(H, L, L)``, values ``(G, L, d)``, mixed values ``(L, H, d)`` and features in front of the MLP ``(L, C)``;
    logits ``(L, V)``.
    """

    attention: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    mixed: list[Tensor] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.zeros(0))


class TinyDecoder(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) / shape[-1] ** 0.5)

        self.qkv = nn.ParameterList([weight((HEADS + 2 * GROUPS) * HEAD_DIM, WIDTH) for _ in range(LAYERS)])
        self.out = nn.ParameterList([weight(WIDTH, WIDTH) for _ in range(LAYERS)])
        self.up = nn.ParameterList([weight(2 * WIDTH, WIDTH) for _ in range(LAYERS)])
        self.down = nn.ParameterList([weight(WIDTH, 2 * WIDTH) for _ in range(LAYERS)])
        self.head = weight(VOCABULARY, WIDTH)

    def forward(self, rows: Tensor) -> Run:
        """``rows`` ``(L, C)``."""
        run, length = Run(), len(rows)
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        for layer in range(LAYERS):
            heads = (rows @ self.qkv[layer].T).unflatten(1, (-1, HEAD_DIM)).transpose(0, 1)
            query, key, value = heads.split([HEADS, GROUPS, GROUPS])
            logits = query @ key.repeat_interleave(HEADS // GROUPS, 0).transpose(1, 2) * HEAD_DIM**-0.5
            attention = logits.masked_fill(later, -torch.inf).softmax(-1)
            mixed = (attention @ value.repeat_interleave(HEADS // GROUPS, 0)).transpose(0, 1)
            rows = rows + mixed.flatten(1) @ self.out[layer].T
            features = rows / rows.square().mean(-1, keepdim=True).sqrt()
            rows = rows + (features @ self.up[layer].T).relu() @ self.down[layer].T
            run.attention.append(attention)
            run.values.append(value)
            run.mixed.append(mixed)
            run.features.append(features)
        run.logits = rows @ self.head.T
        return run


def embeddings(length: int = 14, seed: int = 1) -> Tensor:
    return torch.randn(length, WIDTH, generator=torch.Generator().manual_seed(seed))
