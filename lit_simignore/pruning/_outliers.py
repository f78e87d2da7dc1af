"""What PruMerge and PruMerge+ share: outlying attention, and merging neighbours into the patches that stay."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_simignore.pruning._features import Features, needed
from lit_simignore.pruning._merging import membership, merged_selection
from lit_simignore.types import Selection, UserError


def cls_attention(method: object, features: Features) -> Tensor:
    """``(I,)`` class-token attention of the vision tower's last layer as one head of full width.

    Softmax over class token and patches; the class token's own share is dropped, nothing is normalised again.
    """
    query = needed(method, features, "vision_last_cls_query").detach().float()
    own = needed(method, features, "vision_last_cls_key").detach().float()
    keys = needed(method, features, "vision_last_keys").detach().float()
    if query.shape[0] != 1 or own.shape[0] != 1:
        raise UserError(
            f"{type(method).__name__} reads one class token per image: got {query.shape[0]} for one grid; "
            "several images need Features.grids that account for every visual token"
        )
    logits = torch.cat([own, keys]) @ query.squeeze(0) / math.sqrt(keys.shape[1])
    return logits.softmax(dim=0)[1:]


def num_outliers(attention: Tensor) -> int:
    """Patches above ``Q3 + 1.5 (Q3 - Q1)``, at least one. Percentiles are interpolated linearly."""
    quartiles = torch.quantile(attention, attention.new_tensor([0.25, 0.75]))
    bound = quartiles[1] + 1.5 * (quartiles[1] - quartiles[0])
    return max(1, int((attention > bound).sum()))


def merge_neighbours(
    *,
    kept: Tensor,
    attention: Tensor,
    keys: Tensor,
    hidden: Tensor,
    project: Callable[[Tensor], Tensor],
    neighbours: int,
    placement: str,
) -> Selection:
    """Add the attention-weighted neighbours to every kept patch, and make one row of the rest.

    Args:
        kept: ``(K,)`` patches that stay, K < I, in the order of the rows under ``placement="appended"``.
        attention: ``(I,)`` weights.
        keys: ``(I, C)`` neighbourhood is the cosine of these.
        hidden: ``(I, C)`` rows to merge.
        project: turns merged rows into visual tokens.
        neighbours: most similar patches merged into each kept one, itself excluded.
        placement: see :mod:`lit_simignore.pruning._merging`.

    Returns:
        K + 1 rows.
    """
    itself = membership(kept, attention.shape[0])
    near = itself | _nearest(keys.detach().float(), kept, neighbours)
    rest = ~itself.any(dim=0)
    weights = torch.cat([torch.where(itself, 1.0, near * attention), (rest * attention).unsqueeze(0)])
    rows = weights @ hidden.float()
    slot = torch.where(rest, attention, -torch.inf).argmax().view(1)
    carries = torch.cat([near, rest.unsqueeze(0)])
    return merged_selection(torch.cat([kept, slot]), project(rows.to(hidden.dtype)), carries, placement, attention)


def _nearest(keys: Tensor, kept: Tensor, neighbours: int) -> Tensor:
    """``(K, I)`` bool: the patches most similar to every kept one, itself excluded."""
    unit = F.normalize(keys, dim=-1)
    cosine = (unit[kept] @ unit.T).scatter(1, kept.unsqueeze(1), -torch.inf)
    nearest = cosine.topk(min(neighbours, unit.shape[0] - 1), dim=1).indices
    return torch.zeros_like(cosine, dtype=torch.bool).scatter(1, nearest, True)
