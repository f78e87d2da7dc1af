"""The control that every rule must beat: a random set of the same size."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_simignore.pruning.base import Features, ScorePruner


@dataclass(kw_only=True)
class RandomTokens(ScorePruner):
    """Keep a uniformly random set of visual tokens.

    The set depends on ``seed`` and on the sample's key alone: never on the batch a sample sits in, on the device,
    or on torch's global state. Samples with different keys get independent sets; without keys (a model attached
    without spans) all samples share one set.

    Args:
        seed: another seed gives another, independent set for every sample.

    Reference:
        "Random tokens ignored" in Table 3 of arXiv:2412.09817 (Simignore), mean of ten unseeded draws there;
        a strong baseline by arXiv:2511.02650.
    """

    seed: int = 0

    def score(self, features: Features) -> Tensor:
        """``(I,)`` float64 uniform numbers on the device of the tokens, drawn on the CPU from seed and key."""
        digest = hashlib.sha256(f"{self.seed}\x1f{features.key}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        # float64: in float32 two of a few hundred tokens tie often enough to favour low indices
        numbers = torch.rand(features.visual.shape[0], generator=generator, dtype=torch.float64)
        return numbers.to(features.visual.device)
