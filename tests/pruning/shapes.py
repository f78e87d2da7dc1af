"""A decoder's shape as budgets need it, with a cost that a test can compute in its head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Shape:
    """Cost of a layer is the square of its visual tokens."""

    num_layers: int
    num_visual: int

    def flops_tokens(self, visual_per_layer: Sequence[float]) -> float:
        return (sum(count**2 for count in visual_per_layer) / len(visual_per_layer)) ** 0.5
