"""DART: keep a few pivot tokens and, for every pivot, the visual tokens that duplicate it least."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_simignore.pruning._features import TEXT_ROWS, needed
from lit_simignore.pruning._similarity import check_choice
from lit_simignore.pruning.base import CountPruner, Features, Need
from lit_simignore.types import Selection, UserError


@dataclass(kw_only=True)
class DART(CountPruner):
    """Before layer ``layer_idx``: duplication, not importance, decides.

    Pivots are the visual and the text tokens (after the image) whose keys in layer ``layer_idx - 1`` have the
    largest L1 norm over all heads. Every pivot in turn takes, of the visual tokens that are neither pivots nor taken,
    those with the LOWEST cosine to it, between hidden states passed through the decoder's final norm. Visual pivots
    and taken tokens stay, with their positions. No attention map is read.

    Args:
        layer_idx: 0-based first layer that sees fewer tokens.
        num_keep: visual tokens kept.
        keep_ratio: fraction kept.
        pivot_visual: visual pivots; they count towards the budget and always stay.
        pivot_text: text pivots.
        quota: ``exact`` meets the budget, the pivots that go first taking one token more where it does not divide;
            ``floor`` lets every pivot take ``int(budget / number of pivots)`` tokens on top of the visual pivots.
        pivot_order: ``norm``: visual pivots by falling norm, then text pivots; ``set``: as CPython iterates a set of
            their places in the prompt.
        text: which text rows can be pivots: ``after_image`` is every token behind the last visual token;
            ``prompt``, ``question`` and ``options`` go by the prompt's spans.

    Reference:
        Wen et al., "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More", EMNLP
        2025, arXiv:2502.11494; section and equation not verified. The original repository was not at hand;
        ``preset("released")`` is what public ports do (ModelTC/LightCompress at 9701d035).

        Deviations of the default from the ports: there the order of a Python set of integers decides who picks first,
        and the floored quota plus the pivots misses the budget by a few tokens; the default keeps neither accident.
        Text pivots are taken from any scope of text here, behind the image alone there.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.TEXT, Need.LAYER_KEYS, Need.FINAL_NORM})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"released": {"layer_idx": 2, "keep_ratio": 1 - 0.778, "quota": "floor", "pivot_order": "set"}}
    )

    layer_idx: int = 2
    pivot_visual: int = 4
    pivot_text: int = 4
    quota: str = "exact"
    pivot_order: str = "norm"
    text: str = "after_image"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("DART", "text", self.text, TEXT_ROWS)
        check_choice("DART", "quota", self.quota, ("exact", "floor"))
        check_choice("DART", "pivot_order", self.pivot_order, ("norm", "set"))
        if min(self.pivot_visual, self.pivot_text) < 0 or self.pivot_visual + self.pivot_text == 0:
            raise UserError(
                f"DART needs at least one pivot; got pivot_visual={self.pivot_visual}, pivot_text={self.pivot_text}"
            )

    def choose(self, features: Features) -> Selection:
        """Keep pivots and what duplicates them least; all tokens where the budget allows it."""
        total = features.visual.shape[0]
        num_keep = self.count_of(total)
        if num_keep >= total:
            return Selection(kept=torch.arange(total, device=features.visual.device))
        visual = _largest(needed(self, features, "layer_keys"), min(self.pivot_visual, num_keep))
        text = _largest(needed(self, features, "text_keys"), self.pivot_text)
        order = self._order(features, visual, text)
        quotas = self._quotas(total, num_keep, len(visual), len(order))
        taken = _take_least_similar(self._similarity(features, visual, text)[order], visual, quotas)
        return Selection(kept=torch.cat([visual, taken]).sort().values)

    def _similarity(self, features: Features, visual: Tensor, text: Tensor) -> Tensor:
        """``(P, I)`` cosine of every pivot (visual ones first) to every visual token."""
        rows = F.normalize(needed(self, features, "normed_visual").detach().float(), dim=-1)
        words = F.normalize(needed(self, features, "normed_text").detach().float(), dim=-1)
        return torch.cat([rows[visual], words[text]]) @ rows.T

    def _order(self, features: Features, visual: Tensor, text: Tensor) -> list[int]:
        count = len(visual) + len(text)
        if self.pivot_order == "norm":
            return list(range(count))
        columns = needed(self, features, "visual_columns")[visual].tolist()
        columns += needed(self, features, "text_columns")[text].tolist()
        return [columns.index(column) for column in set(columns)]

    def _quotas(self, total: int, num_keep: int, num_visual: int, num_pivots: int) -> list[int]:
        if self.quota == "floor":
            budget = total * self.keep_ratio if self.keep_ratio is not None else num_keep
            return [int(budget / max(1, num_pivots))] * num_pivots
        share, extra = divmod(num_keep - num_visual, max(1, num_pivots))
        return [share + (place < extra) for place in range(num_pivots)]


def _largest(keys: Tensor, count: int) -> Tensor:
    """The ``count`` tokens of ``keys`` ``(G, n, d)`` with the largest L1 norm over all heads, descending."""
    norms = keys.detach().float().abs().sum(dim=(0, 2))
    return torch.argsort(norms, descending=True, stable=True)[:count]


def _take_least_similar(similarity: Tensor, barred: Tensor, quotas: list[int]) -> Tensor:
    """Let every row of ``similarity`` ``(P, I)`` in turn take its lowest free columns; ``barred`` are never free."""
    blocked = torch.zeros_like(similarity[0]).index_fill(0, barred, torch.inf)
    free = similarity.shape[1] - len(barred)
    taken = [barred[:0]]
    for row, quota in zip(similarity, quotas, strict=True):
        count = min(quota, free)
        picked = torch.argsort(row + blocked, stable=True)[:count]
        blocked = blocked.index_fill(0, picked, torch.inf)
        free -= count
        taken.append(picked)
    return torch.cat(taken)
