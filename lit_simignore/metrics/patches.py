"""How much of what the answer needs is still there after pruning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_simignore.types import NeededPatches, UserError


def needed_recall(
    kept: Sequence[int] | Tensor,
    needed: Sequence[NeededPatches],
    grids: Sequence[tuple[int, int]],
) -> float | None:
    """Fraction of the needed image area that lies under kept visual tokens, 0 to 1.

    Args:
        kept: ``(K,)`` indices of the kept visual tokens: images concatenated, row-major within each image's grid.
        needed: the patches that the answer depends on, on the grid of the data's author.
        grids: rows and columns of visual tokens for every image of the sample, in prompt order.

    Returns:
        Mean over the needed patches of the share of the patch that kept tokens cover. On equal grids this is the
        number of needed patches that are kept over the number needed. ``None`` when nothing is needed or the model
        has no grid. Both grids are taken to span the whole image (a resize without crop or padding).

    Raises:
        UserError: an index outside its grid, or a needed image that the sample does not have.
    """
    wanted = [entry for entry in needed if entry.indices]
    if not wanted or not grids:
        return None
    masks = _kept_masks(kept, grids)
    covered, count = 0.0, 0
    for entry in wanted:
        if not 0 <= entry.image < len(masks):
            raise UserError(f"needed patches name image {entry.image}, but the sample has {len(masks)} image(s)")
        covered += _covered(masks[entry.image], entry)
        count += len(entry.indices)
    return covered / count


def needed_cover(needed: Sequence[NeededPatches], grids: Sequence[tuple[int, int]]) -> Tensor | None:
    """``(I,)`` float64 share, 0 to 1, of every visual token's area that the needed patches cover.

    The heat of a map times this, over the map's whole heat, is the share of heat on what the answer needs; even heat
    has the mean of this. On equal grids it is 1 on the needed patches and 0 elsewhere.

    Args:
        needed: as in :func:`needed_recall`.
        grids: as there.

    Returns:
        ``None`` when nothing is needed or the model has no grid.

    Raises:
        UserError: a patch outside its grid, or a needed image that the sample does not have.
    """
    wanted = [entry for entry in needed if entry.indices]
    if not wanted or not grids:
        return None
    covers = [torch.zeros(grid, dtype=torch.float64) for grid in grids]
    for entry in wanted:
        if not 0 <= entry.image < len(grids):
            raise UserError(f"needed patches name image {entry.image}, but the sample has {len(grids)} image(s)")
        (rows, cols), (own_rows, own_cols) = grids[entry.image], entry.grid
        mask = torch.zeros(own_rows * own_cols, dtype=torch.float64)
        mask[_checked_indices(entry)] = 1
        share = _overlap(rows, own_rows) @ mask.reshape(entry.grid) @ _overlap(cols, own_cols).T
        covers[entry.image] = torch.maximum(covers[entry.image], share)
    return torch.cat([cover.flatten() for cover in covers])


def carried_tokens(stages: Sequence[tuple[Sequence[int], Sequence[Sequence[int]] | None]]) -> list[int] | None:
    """Visual tokens that some surviving row is made of: itself, or what merging rules added to it.

    Args:
        stages: in the order in which they ran, the original indices of the tokens that were kept, and for merging rules
            the original indices of the tokens that every kept row carries.

    Returns:
        Ascending original indices; ``None`` where no stage merged anything.
    """
    if all(sources is None for _, sources in stages):
        return None
    inside: dict[int, set[int]] = {}
    for kept, sources in stages:
        groups = [[token] for token in kept] if sources is None else sources
        # what an earlier stage merged into a token is carried on with it
        inside = {
            token: set().union(*(inside.get(part, {part}) for part in group))
            for token, group in zip(kept, groups, strict=True)
        }
    return sorted(set().union(*inside.values()))


def _kept_masks(kept: Sequence[int] | Tensor, grids: Sequence[tuple[int, int]]) -> list[Tensor]:
    """One ``(rows, cols)`` float64 mask per image, 1 where the token is kept."""
    sizes = [rows * cols for rows, cols in grids]
    flat = torch.zeros(sum(sizes), dtype=torch.float64)
    indices = torch.as_tensor(kept, dtype=torch.int64).reshape(-1).cpu()
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < flat.numel():
        raise UserError(
            f"expected kept indices in 0..{flat.numel() - 1} for grids {list(grids)}; "
            f"got {int(indices.min())}..{int(indices.max())}"
        )
    flat[indices] = 1.0
    return [part.reshape(grid) for part, grid in zip(flat.split(sizes), grids, strict=True)]


def _covered(mask: Tensor, needed: NeededPatches) -> float:
    """Sum over the needed patches of the share of the patch that is kept."""
    rows, cols = needed.grid
    indices = _checked_indices(needed)
    share = _overlap(rows, mask.shape[0]) @ mask @ _overlap(cols, mask.shape[1]).T
    return float(share.reshape(-1)[indices].sum())


def _checked_indices(needed: NeededPatches) -> Tensor:
    indices, last = torch.tensor(needed.indices), needed.grid[0] * needed.grid[1] - 1
    if int(indices.min()) < 0 or int(indices.max()) > last:
        raise UserError(f"needed patches must lie in 0..{last} on grid {needed.grid}; got {needed.indices}")
    return indices


def _overlap(num_from: int, num_to: int) -> Tensor:
    """``(num_from, num_to)`` share of each of ``num_from`` equal stretches of 0..1 that each of ``num_to`` covers.

    Ends are compared as whole multiples of ``1 / (num_from * num_to)``, so that equal grids give the identity exactly.
    """
    start = torch.arange(num_from, dtype=torch.float64)[:, None] * num_to
    other = torch.arange(num_to, dtype=torch.float64)[None, :] * num_from
    common = torch.minimum(start + num_to, other + num_from) - torch.maximum(start, other)
    return common.clamp_min(0) / num_to
