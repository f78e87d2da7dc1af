"""CDPruner: a subset that is diverse and relevant to the question at once (a determinantal point process)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_simignore.pruning._features import needed
from lit_simignore.pruning._similarity import check_choice
from lit_simignore.pruning.base import CountPruner, Features, Need
from lit_simignore.types import Selection

_NO_VARIANCE = 1e-6


@dataclass(kw_only=True)
class CDPruner(CountPruner):
    """Greedy maximum of ``det(K_S)`` with the kernel ``K_ij = r_i cos(v_i, v_j) r_j`` over the visual tokens ``v``.

    The relevance ``r`` is MINUS the mean cosine between a patch and the question's segments, both in the joint space of
    the vision tower and its text tower, brought to 0..1 by ``(r - min + 1e-6) / (max - min)``. (The release negates
    it; so does this class.) The greedy step takes the token with the largest residual variance. All images of a sample
    compete.

    Args:
        num_keep: visual tokens kept per sample.
        keep_ratio: fraction kept.
        relevance_range: take min and max of the relevance over this ``sample``, or over the whole ``batch``.

    Reference:
        Zhang et al., "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs",
        NeurIPS 2025, arXiv:2506.10967; section and equation not verified. Release: Theia-4869/CDPruner at 9541616c.

        Deviations: the release takes min and max over the batch, so a sample's tokens depend on its neighbours
        (``preset("released")``); where more tokens are asked for than the features have rank, the release runs into
        NaN and returns fewer, while here the remaining places go to the most relevant tokens. The release closes the
        positions up (also in the preset). It loads the CLIP text tower beside the model; no family here brings one, so
        inside ``attach`` the method is refused: embed patches (CLIP's post-layernorm and visual projection) and
        question (one row per segment of 77 tokens) yourself and call :meth:`choose` with ``Features(joint_visual=...,
        text_tower=...)``.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.TEXT_TOWER})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"released": {"num_keep": 64, "relevance_range": "batch", "positions": "renumber"}}
    )

    relevance_range: str = "sample"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("CDPruner", "relevance_range", self.relevance_range, ("sample", "batch"))

    def choose(self, features: Features) -> Selection:
        """Decide for one sample, its own relevances giving the range."""
        return self._choose([features])[0]

    def choose_batch(self, features: Sequence[Features]) -> list[Selection]:
        """Decide for all samples; under ``relevance_range="batch"`` their relevances share one range."""
        if self.relevance_range == "batch" and features:
            return self._choose(features)
        return super().choose_batch(features)

    def _choose(self, features: Sequence[Features]) -> list[Selection]:
        raw = [self._irrelevance(sample) for sample in features]
        low, high = torch.cat(raw).aminmax() if any(r.numel() for r in raw) else (0.0, 0.0)
        selections = []
        for sample, values in zip(features, raw, strict=True):
            relevance = (values - low + 1e-6) / torch.as_tensor(high - low).clamp_min(1e-6)
            chosen = greedy_dpp(sample.visual.detach().float(), relevance, self.count_of(values.shape[0]))
            selections.append(Selection(kept=chosen.sort().values, scores=relevance))
        return selections

    def _irrelevance(self, features: Features) -> Tensor:
        patches = F.normalize(needed(self, features, "joint_visual").detach().float(), dim=-1)
        segments = F.normalize(needed(self, features, "text_tower").detach().float(), dim=-1)
        return -(patches @ segments.T).mean(dim=1)


def greedy_dpp(rows: Tensor, relevance: Tensor, num_keep: int) -> Tensor:
    """Greedy MAP inference of a determinantal point process, by incremental Cholesky factors.

    Args:
        rows: ``(I, D)`` float features; their cosine is the similarity.
        relevance: ``(I,)`` factor of every row, >= 0.
        num_keep: at most I.

    Returns:
        ``(num_keep,)`` distinct int64 indices in the order of choice.
    """
    weighted = F.normalize(rows, dim=-1) * relevance.unsqueeze(1)
    variance = weighted.square().sum(dim=1)
    factors = weighted.new_zeros(num_keep, rows.shape[0])
    # Negative, so that a token without variance is chosen only when none with variance is left.
    fallback = relevance - relevance.max() - 1.0 if relevance.numel() else relevance
    free = torch.zeros_like(relevance)
    chosen = []
    for step in range(num_keep):
        latest = (torch.where(variance > _NO_VARIANCE, variance, fallback) + free).argmax().view(1)
        chosen.append(latest)
        free = free.index_fill(0, latest, -torch.inf)
        covariance = weighted @ weighted.index_select(0, latest).squeeze(0)
        explained = factors[:step].index_select(1, latest).squeeze(1) @ factors[:step]
        left = variance.index_select(0, latest)
        factor = (covariance - explained) / left.clamp_min(_NO_VARIANCE).sqrt()
        factors[step] = torch.where(left > _NO_VARIANCE, factor, torch.zeros_like(factor))
        variance = variance - factors[step].square()
    return torch.cat(chosen) if chosen else torch.zeros(0, dtype=torch.long, device=rows.device)
