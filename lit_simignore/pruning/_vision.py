"""Rules that read the vision tower: every image is looked at by itself, with its share of the sample's budget."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_simignore.pruning.base import CountPruner, Features
from lit_simignore.types import Selection

_TOKEN_AXIS = {
    "visual": 0,
    "vision_cls_attention": 1,
    "vision_keys": 1,
    "vision_hidden": 0,
    "vision_last_keys": 0,
    "joint_visual": 0,
}
_PER_IMAGE = ("vision_cls_hidden", "vision_last_cls_key", "vision_last_cls_query")


@dataclass(kw_only=True)
class VisionPruner(CountPruner):
    """Base of the rules that decide image by image, before the decoder. Subclasses implement :meth:`choose_image`.

    The releases know one image, or give all images of a batch the same number of tokens. Here a sample's budget is
    shared out over its images in proportion to their tokens (largest remainders first), so ``num_keep`` is always
    the number of the whole sample. Where the family gives no grids, all tokens count as one image. A budget of all
    tokens leaves them untouched: nothing is merged.
    """

    @abstractmethod
    def choose_image(self, features: Features, num_keep: int | None) -> Selection:
        """Decide for one image.

        Args:
            features: of this image alone.
            num_keep: rows to return, 1 to I - 1; ``None`` where the rule finds its own count.
        """

    def choose(self, features: Features) -> Selection:
        slices = image_slices(features)
        sizes = [where.stop - where.start for where in slices]
        has_count = any(getattr(self, name) is not None for name in self.budget_fields)
        shares = share_out(self.count_of(sum(sizes)), sizes) if has_count else [None] * len(sizes)
        if len(slices) == 1:
            return self._choose_some(features, shares[0])
        parts = [
            self._choose_some(one_image(features, where, number), num_keep)
            for number, (where, num_keep) in enumerate(zip(slices, shares, strict=True))
        ]
        return _join(parts, slices, features.visual)

    def _choose_some(self, features: Features, num_keep: int | None) -> Selection:
        total = features.visual.shape[0]
        everything = torch.arange(total, device=features.visual.device)
        if num_keep == 0 or total == 0:
            return Selection(kept=everything[:0])
        if num_keep is not None and num_keep >= total:
            return Selection(kept=everything)
        return self.choose_image(features, num_keep)


def image_slices(features: Features) -> list[slice]:
    """Where every image's tokens lie; one slice for all where the grids do not account for every token."""
    total = features.visual.shape[0]
    sizes = [rows * columns for rows, columns in features.grids]
    if not sizes or sum(sizes) != total:
        return [slice(0, total)]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def share_out(num_keep: int, sizes: Sequence[int]) -> list[int]:
    """Split ``num_keep`` in proportion to ``sizes``; what rounding leaves goes to the largest remainders."""
    total = sum(sizes)
    num_keep = min(num_keep, total)
    shares = [num_keep * size // total if total else 0 for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(num_keep * sizes[i] % total) if total else 0, i))
    for i in by_remainder[: num_keep - sum(shares)]:
        shares[i] += 1
    return shares


def one_image(features: Features, where: slice, number: int) -> Features:
    """The part of ``features`` that belongs to image ``number``, whose tokens are ``where``."""
    changes: dict[str, Tensor] = {}
    for name, axis in _TOKEN_AXIS.items():
        value = getattr(features, name)
        if value is not None:
            changes[name] = value[(slice(None),) * axis + (where,)]
    for name in _PER_IMAGE:
        value = getattr(features, name)
        if value is not None:
            changes[name] = value[number : number + 1]
    return replace(features, grids=(features.grids[number],), **changes)  # type: ignore[arg-type]


def _join(parts: Sequence[Selection], slices: Sequence[slice], visual: Tensor) -> Selection:
    kept = torch.cat([part.kept + where.start for part, where in zip(parts, slices, strict=True)])
    scores = [part.scores for part in parts if part.scores is not None]
    joined = torch.cat(scores) if len(scores) == len(parts) else None
    if all(part.merged is None for part in parts):
        return Selection(kept=kept, scores=joined)
    rows, sources = [], []
    for part, where in zip(parts, slices, strict=True):
        rows.append(visual[where][part.kept] if part.merged is None else part.merged)
        carried = part.sources or tuple((index,) for index in part.kept.tolist())
        sources += [tuple(index + where.start for index in row) for row in carried]
    return Selection(kept=kept, scores=joined, merged=torch.cat(rows), sources=tuple(sources))
