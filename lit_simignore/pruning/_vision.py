"""Rules that read the vision tower: every image is looked at by itself, with its share of the sample's budget."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lit_simignore.pruning.base import CountPruner, Features
from lit_simignore.types import Selection

_TOKEN_AXIS = {
    "visual": 0,
    "tiles": 0,
    "vision_attention": 1,
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
    the number of the whole sample. Tiles of an image, which the tower encodes one by one, count as images, and tokens
    that show nothing (ends of rows) are the first to go. Where neither tiles nor grids are known, all tokens count as
    one image. A budget of all tokens leaves them untouched: nothing is merged.
    """

    @abstractmethod
    def choose_image(self, features: Features, num_keep: int | None) -> Selection:
        """Decide for one image.

        Args:
            features: of this image alone.
            num_keep: rows to return, 1 to I - 1; ``None`` where the rule finds its own count.
        """

    def choose(self, features: Features) -> Selection:
        images, blank = image_tokens(features)
        sizes = [len(tokens) for tokens in images]
        has_count = any(getattr(self, name) is not None for name in self.budget_fields)
        num_keep = self.count_of(features.visual.shape[0]) if has_count else None
        shares = [None] * len(sizes) if num_keep is None else share_out(num_keep, sizes)
        if len(images) == 1 and not len(blank):
            return self._choose_some(features, shares[0])
        parts = [
            self._choose_some(one_image(features, tokens, number), share)
            for number, (tokens, share) in enumerate(zip(images, shares, strict=True))
        ]
        spare = blank[: max(0, (num_keep or 0) - sum(sizes))]
        parts.append(Selection(kept=torch.arange(len(spare), device=spare.device)))
        return _join(parts, [*images, spare], features)

    def _choose_some(self, features: Features, num_keep: int | None) -> Selection:
        total = features.visual.shape[0]
        everything = torch.arange(total, device=features.visual.device)
        if num_keep == 0 or total == 0:
            return Selection(kept=everything[:0])
        if num_keep is not None and num_keep >= total:
            return Selection(kept=everything)
        return self.choose_image(features, num_keep)


def image_tokens(features: Features) -> tuple[list[Tensor], Tensor]:
    """Which tokens every image (or tile) has, ascending; and those that show nothing.

    One image for all tokens where neither tiles nor grids account for every one.
    """
    total, device = features.visual.shape[0], features.visual.device
    everything = torch.arange(total, device=device)
    if features.tiles is not None:
        tiles = features.tiles.to(device)
        numbers = range(int(tiles.max()) + 1 if total else 0)
        return [(tiles == number).nonzero()[:, 0] for number in numbers], (tiles < 0).nonzero()[:, 0]
    sizes = [rows * columns for rows, columns in features.grids]
    if not sizes or sum(sizes) != total:
        return [everything], everything[:0]
    return list(everything.split(sizes)), everything[:0]


def share_out(num_keep: int, sizes: Sequence[int]) -> list[int]:
    """Split ``num_keep`` in proportion to ``sizes``; what rounding leaves goes to the largest remainders."""
    total = sum(sizes)
    num_keep = min(num_keep, total)
    shares = [num_keep * size // total if total else 0 for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(num_keep * sizes[i] % total) if total else 0, i))
    for i in by_remainder[: num_keep - sum(shares)]:
        shares[i] += 1
    return shares


def one_image(features: Features, tokens: Tensor, number: int) -> Features:
    """The part of ``features`` that belongs to image ``number``, which has ``tokens``."""
    changes: dict[str, Any] = {}
    for name, axis in _TOKEN_AXIS.items():
        value = getattr(features, name)
        if value is not None:
            changes[name] = value.index_select(axis, tokens.to(value.device))
    for name in _PER_IMAGE:
        value = getattr(features, name)
        if value is not None:
            changes[name] = value[number : number + 1]
    changes["grids"] = (features.grids[number],) if number < len(features.grids) else ()
    return replace(features, **changes)


def _join(parts: Sequence[Selection], images: Sequence[Tensor], features: Features) -> Selection:
    """One selection of all images, in the order of the sequence, in which tiles may lie between each other."""
    kept, order = torch.cat([tokens[part.kept] for part, tokens in zip(parts, images, strict=True)]).sort()
    scores = _join_scores(parts, images, features.visual.shape[0])
    if all(part.merged is None for part in parts):
        return Selection(kept=kept, scores=scores)
    rows, sources = [], []
    for part, tokens in zip(parts, images, strict=True):
        rows.append(features.visual[tokens][part.kept] if part.merged is None else part.merged)
        carried, names = part.sources or tuple((index,) for index in part.kept.tolist()), tokens.tolist()
        sources += [tuple(names[index] for index in row) for row in carried]
    in_order = tuple(sources[place] for place in order.tolist())
    return Selection(kept=kept, scores=scores, merged=torch.cat(rows)[order], sources=in_order)


def _join_scores(parts: Sequence[Selection], images: Sequence[Tensor], total: int) -> Tensor | None:
    """``(I,)``, tokens that show nothing at the lowest; ``None`` where one of the images has no scores."""
    shown = [(part.scores, tokens) for part, tokens in zip(parts[:-1], images[:-1], strict=True)]
    found = [(values, tokens) for values, tokens in shown if values is not None]
    if not found or len(found) < len(shown):
        return None
    scores = torch.cat([values for values, _ in found])
    return scores.min().repeat(total).index_copy(0, torch.cat([tokens for _, tokens in found]), scores)
