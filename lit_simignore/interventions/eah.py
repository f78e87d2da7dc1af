"""EAH: the head with the most vision sinks lends its attention map to all heads of a shallow layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_simignore.interventions._sinks import DIVISORS, ROWS, column_means, sink_counts
from lit_simignore.interventions.base import (
    AttentionIntervention,
    KernelInputs,
    LayerContext,
    as_indices,
    check_choice,
    check_layers,
    check_number,
    check_whole,
)
from lit_simignore.types import UserError

NO_HEAD = -1
"""The winner where nothing is broadcast: no image, or no sink in any head."""


@dataclass(kw_only=True)
class EAH(AttentionIntervention):
    """Give all heads of a layer the attention map of the head with the most vision sinks; each keeps its values.

    A vision sink is a visual token whose mean attention from other tokens exceeds ``threshold``. The choice is made
    for every sample by itself, in the prefill; a sample without visual tokens, or without a sink in any head, is left
    alone. Having one map for all heads is having one query and one key for all, so the kernel stays and no map is
    made; the choice itself holds ``chunk`` rows of it.

    Args:
        layer_idx: 0-based decoder layer, or several. The paper's "layer 2" is 1.
        threshold: mean attention above which a visual token is a sink; see ``relative``.
        relative: the threshold counts in 1 / L, with L the sample's tokens in this layer, so that it means the same
            for every prompt length and after pruning: 1.25 is the paper's 0.002 at LLaVA's L = 625. False takes
            ``threshold`` as it is.
        rows: queries that the mean is taken over: all, image, or after_image (text behind the first visual token).
        divisor: rows divides by the number of those queries that see the token; constant and released by what the
            paper and the released code divide by.
        ties: among heads with equally many sinks, mass takes the one with more attention on the image, first the
            lowest; mass falls back on the lowest.
        num_heads: how many heads get the map, those with the fewest sinks first; null gives it to all. Heads that share
            a key get it together, so it is a multiple of how many do.
        head_zero: whether head 0 may win. False: where it has the most sinks, nothing happens.
        decode: reuse the head of the prefill in every later step, or off. Off makes results depend on caching.
        chunk: query rows whose attention is held at once while the head is chosen.

    Its memory of a layer, and hence the trace, holds ``winning_head`` ``(B,)`` int64 (-1 where nothing happens) and
    ``sink_counts`` ``(B, H)``.

    Reference:
        "Seeing Clearly by Layer Two" (EAH), arXiv:2411.09968, published as EVAS (EMNLP 2025).
        ``preset("paper")`` is the formula as printed: layer index 1, 0.002, image rows, divided by last minus first
        visual column (575 for LLaVA-1.5). ``preset("released")`` is what the authors' code runs: layer index 15,
        0.0008, all rows, divisor 647 - j for columns 36..610 (here: of the sample's own image), the lowest of equal
        heads, nothing where that is head 0, and later steps untouched. The paper does not speak of later steps; its
        preset leaves them alone too. Not taken over from the release: it edits the first sample of a batch only,
        looks at 32 heads whatever the model has, and fails on prompts shorter than 611 tokens.
        The default corrects: the true number of rows, a threshold that scales with length, head 0 like any other.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "paper": {
                "threshold": 0.002, "relative": False, "rows": "image", "divisor": "constant", "decode": "off",
            },
            "released": {
                "layer_idx": 15, "threshold": 0.0008, "relative": False, "divisor": "released", "ties": "first",
                "head_zero": False, "decode": "off",
            },
        }
    )  # fmt: skip

    layer_idx: int | Sequence[int] = 1
    threshold: float = 1.25
    relative: bool = True
    rows: str = "all"
    divisor: str = "rows"
    ties: str = "mass"
    num_heads: int | None = None
    head_zero: bool = True
    decode: str = "reuse"
    chunk: int = 256

    def __post_init__(self) -> None:
        as_indices("EAH", "layer_idx", self.layer_idx)
        check_number("EAH", "threshold", self.threshold, 0)
        check_choice("EAH", "rows", self.rows, ROWS)
        check_choice("EAH", "divisor", self.divisor, DIVISORS)
        check_choice("EAH", "ties", self.ties, ("mass", "first"))
        check_choice("EAH", "decode", self.decode, ("reuse", "off"))
        check_whole("EAH", "chunk", self.chunk, 1)
        if self.num_heads is not None:
            check_whole("EAH", "num_heads", self.num_heads, 1)

    def layers(self, num_layers: int) -> tuple[int, ...]:
        return check_layers("EAH", as_indices("EAH", "layer_idx", self.layer_idx), num_layers)

    def edit(self, inputs: KernelInputs, context: LayerContext) -> KernelInputs:
        """The same map for all heads, or for some, once a head was chosen.

        Raises:
            UserError: the layer has fewer heads than ``num_heads``, or shares keys between more.
        """
        memory = context.memory
        if context.prefill and "winning_head" not in memory:
            memory["winning_head"], memory["sink_counts"] = self.choose(inputs.query, inputs.key, context)
            memory["acts"] = bool((memory["winning_head"] != NO_HEAD).any())  # known here, so no step need ask again
        acts = memory.get("acts", False) and (context.prefill or self.decode == "reuse")
        if not acts:
            return inputs
        if self.num_heads is None:
            return broadcast_head(inputs, memory["winning_head"])
        takers = fewest_sinks(memory["sink_counts"], self.num_heads, inputs.key.shape[1])
        return broadcast_head(inputs, memory["winning_head"], takers)

    @torch.no_grad()
    def choose(self, query: Tensor, key: Tensor, context: LayerContext) -> tuple[Tensor, Tensor]:
        """The winning head ``(B,)`` int64, :data:`NO_HEAD` where there is none, and the sink counts ``(B, H)`` int64.

        Args:
            query: ``(B, H, P, d)`` of a prefill, after rotation.
            key: ``(B, G, K, d)``.
            context: a prefill's.
        """
        means = column_means(query, key, context, rows=self.rows, divisor=self.divisor, chunk=self.chunk)
        threshold = torch.full((len(means),), self.threshold, device=means.device)
        if self.relative:
            threshold = threshold / context.alive.sum(dim=1).clamp(min=1)
        counts = sink_counts(means, context.visual, threshold)
        mass = means.sum(dim=-1) if self.ties == "mass" else None
        return choose_head(counts, mass, head_zero=self.head_zero), counts


def choose_head(counts: Tensor, mass: Tensor | None = None, *, head_zero: bool = True) -> Tensor:
    """``(B,)`` int64 head with the most sinks, :data:`NO_HEAD` where no head has one.

    Args:
        counts: ``(B, H)`` int64 sinks of every head.
        mass: ``(B, H)`` attention on the image; the largest wins among heads with equal counts, the lowest head among
            those. ``None``: the lowest head of equal count.
        head_zero: False: a sample that head 0 wins has no winner.
    """
    most = counts.amax(dim=1, keepdim=True)
    ranked = counts if mass is None else mass.masked_fill(counts < most, -torch.inf)
    winner = ranked.argmax(dim=1)
    nothing = most[:, 0] == 0
    if not head_zero:
        nothing = nothing | (winner == 0)
    return winner.masked_fill(nothing, NO_HEAD)


def fewest_sinks(counts: Tensor, num_heads: int, num_groups: int) -> Tensor:
    """``(B, H)`` bool, the ``num_heads`` heads with the fewest sinks; of equal ones the lowest.

    Args:
        counts: ``(B, H)`` int64 sinks of every head.
        num_heads: how many.
        num_groups: key heads; query heads that share one are taken together, by the sum of their sinks.

    Raises:
        UserError: there are fewer heads, or ``num_heads`` would cut a group.
    """
    there = counts.shape[1]
    shared = there // num_groups
    if num_heads > there or num_heads % shared:
        raise UserError(
            f"EAH.num_heads must be a multiple of {shared} (heads that share a key) up to {there} here; got {num_heads}"
        )
    order = counts.unflatten(1, (num_groups, shared)).sum(dim=2).argsort(dim=1, stable=True)
    chosen = torch.zeros(len(counts), num_groups, dtype=torch.bool, device=counts.device)
    chosen.scatter_(1, order[:, : num_heads // shared], True)
    return chosen.repeat_interleave(shared, dim=1)


def broadcast_head(inputs: KernelInputs, head: Tensor, takers: Tensor | None = None) -> KernelInputs:
    """All heads of a sample with the query and key, and hence the attention map, of head ``head`` ``(B,)``.

    Samples whose head is :data:`NO_HEAD` keep their own bits, and so do heads outside ``takers`` ``(B, H)`` bool, which
    are whole groups of those that share a key.
    """
    num_heads, num_groups = inputs.query.shape[1], inputs.key.shape[1]
    shared = num_heads // num_groups
    group = torch.where(head == NO_HEAD, head, head // shared)
    groups = None if takers is None else takers[:, ::shared]
    return replace(
        inputs, query=_take_heads(inputs.query, head, takers), key=_take_heads(inputs.key, group, groups)
    )


def _take_heads(states: Tensor, head: Tensor, takers: Tensor | None) -> Tensor:
    """``states`` ``(B, H, n, d)`` with every head's (taker's) place taken by ``head`` ``(B,)``, where that is one."""
    own = torch.arange(states.shape[1], device=states.device)
    head = head.to(states.device)[:, None]
    source = torch.where(head == NO_HEAD, own, head)
    if takers is not None:
        source = torch.where(takers.to(states.device), source, own)
    return states.gather(1, source[:, :, None, None].expand_as(states))
