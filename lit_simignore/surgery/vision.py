"""What rules may read inside the vision tower: it runs before the prompt is seen, so it is listened to and kept.

``generate`` encodes images before the model's forward is called, and forgets everything but the projected rows. What
the tower computed last, in this thread, belongs to the prefill that follows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lit_simignore.pruning.base import Features, Need
from lit_simignore.surgery.attention import Heads, install_tap
from lit_simignore.surgery.calls import Signature
from lit_simignore.surgery.drops import Drop
from lit_simignore.surgery.prompt import Slots
from lit_simignore.surgery.towers import Layout, Seen, VisionTower
from lit_simignore.types import UserError

ATTENTION_NEEDS = frozenset({Need.VISION_ATTENTION, Need.VISION_KEYS})
QUERIES_AT_ONCE = 256
"""Rows of attention that are held at a time where every patch is asked what it attends to."""
SAME_ROW = 0.05
"""Relative distance up to which two rows are one: projected alone, a row differs by the rounding of half precision."""

_SEEN: ContextVar[Seen | None] = ContextVar("lit_simignore_vision", default=None)


class VisionTaps:
    """Listens to the tower during one attachment."""

    def __init__(self, tower: VisionTower, needs: frozenset[Need]) -> None:
        self.tower, self.needs = tower, needs
        self._signature = Signature(tower.module)

    def install(self, note: Callable[[Any], None]) -> None:
        """Register the tower's hooks.

        Args:
            note: receives every handle (with ``remove()``) as soon as it exists.
        """
        note(self.tower.module.register_forward_pre_hook(self._begin, with_kwargs=True))
        note(self.tower.module.register_forward_hook(self._end))
        self.tower.install(note, _SEEN.get)
        wanted: dict[nn.Module, list[str]] = {}
        if self.needs & ATTENTION_NEEDS:
            wanted.setdefault(self.tower.attention, []).append("feature")
        if Need.VISION_LAST_QK in self.needs and self.tower.last_attention is not None:
            wanted.setdefault(self.tower.last_attention, []).append("last")
        for module, names in wanted.items():
            note(install_tap(module, _Listener(names)))

    def forget(self) -> None:
        """Let go of the last pass."""
        _SEEN.set(None)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _SEEN.set(Seen(self._signature.named(args, kwargs)))

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen = _SEEN.get()
        if seen is not None:
            seen.hidden = self.tower.rows(output)
            seen.finished = True

    def enrich(self, slots: Slots, embeds: Tensor) -> VisionFeatures:
        """What fills in the features of a prefill.

        Args:
            slots: the whole prompt.
            embeds: ``(B, N, D)`` rows that enter the decoder.

        Raises:
            UserError: the tower did not see this prefill's images, or saw others since, or they cannot be told apart.
        """
        seen, num_visual = _SEEN.get(), slots.visual.long().sum(dim=1).tolist()
        layout = None if seen is None or seen.hidden is None else self.tower.layout(seen)
        rows, total = 0 if layout is None else layout.picture.shape[0], sum(num_visual)
        if seen is None or layout is None or not rows or total % rows:
            raise UserError(
                f"the prompt has {total} visual tokens and the vision tower last made {rows}: give the images to the "
                "same call, as pixel_values, or take a rule that asks nothing of the vision tower"
            )
        features = VisionFeatures(self.tower, seen, layout, num_visual, total // rows, slots)
        if not features.made(embeds[slots.visual]):
            raise UserError(
                "the vision tower last encoded other images than those of this prompt: encode a prompt's images right "
                "before it, or give them to the same call, as pixel_values"
            )
        return features


class VisionFeatures:
    """Cuts what the tower computed into samples. Callable as ``surgery.choose.Place.enrich``."""

    def __init__(
        self, tower: VisionTower, seen: Seen, layout: Layout, num_visual: list[int], repeats: int, slots: Slots
    ) -> None:
        self.tower, self.seen, self.slots = tower, seen, slots
        assert seen.hidden is not None
        device = seen.hidden.device
        self.layout = Layout(layout.patches.to(device), layout.picture.to(device), layout.place.to(device))
        # beams repeat every sample's rows after its images were encoded once
        self.repeats = repeats
        self.samples = torch.arange(layout.picture.shape[0], device=device).split(num_visual[::repeats])
        self._patches = _flat(seen.hidden, tower.class_token)
        self._attention: Tensor | None = None

    def __call__(self, drop: Drop, features: Features, row: int, visual: Tensor, text: Tensor) -> Features:
        mine = self.samples[row // self.repeats]
        tokens = mine[self.slots.original[row, visual].to(mine.device)]
        needs, pictures = drop.needs, self._pictures(mine)
        found: dict[str, Any] = {"tiles": _numbered(self.layout.picture[tokens], pictures)}
        if Need.RESIZED_IMAGE in needs:
            found |= {"tile_places": self.layout.place[tokens], "tile_grid": self.tower.grid}
        if Need.VISION_HIDDEN in needs:
            found |= self._hidden(tokens, pictures)
        if Need.VISION_ATTENTION in needs:
            found["vision_attention"] = self._spread(self._attention_of_all(), tokens).sum(dim=1).T
        if Need.VISION_KEYS in needs:
            found["vision_keys"] = self._keys(tokens).detach()
        if Need.VISION_LAST_QK in needs:
            found |= self._last_rows(tokens, pictures)
        if Need.PROJECTOR in needs:
            found["project"] = self.tower.projector
        return replace(features, **found)

    def made(self, rows: Tensor) -> bool:
        """Whether a visual token of the prompt is what the tower's rows are projected to; waits for the device.

        Args:
            rows: ``(sum of visual tokens, D)`` of the whole call.
        """
        shown = (self.layout.picture >= 0).nonzero()[:1, 0]
        with torch.no_grad():
            made = self.tower.projector(self._combined(self._spread(self._patches, shown), 1)).float()
        first = rows.detach()[shown.to(rows.device)].to(made)
        return bool((made - first).norm() <= SAME_ROW * first.norm())

    def _pictures(self, tokens: Tensor) -> Tensor:
        """Ascending numbers of the pictures that the tokens show."""
        found = self.layout.picture[tokens].unique()
        return found[found >= 0]

    def _spread(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """``(n, m, ...)``: of ``rows`` ``(R, ...)`` those of every token's patches; zeros where it has none."""
        patches = self.layout.patches[tokens]
        alive = (patches >= 0).view(*patches.shape, *(1,) * (rows.ndim - 1))
        return rows[patches.clamp(min=0)] * alive.to(rows.dtype)

    def _combined(self, parts: Tensor, axis: int) -> Tensor:
        """What a token is made of, as the projector takes it: patches side by side, or their mean."""
        return parts.mean(dim=axis) if self.tower.averages else parts.flatten(axis)

    def _hidden(self, tokens: Tensor, pictures: Tensor) -> dict[str, Tensor | None]:
        rows = self._combined(self._spread(self._patches, tokens), 1)
        whole = self.tower.block.shape[1] == 1 and self.tower.class_token
        assert self.seen.hidden is not None
        return {"vision_hidden": rows, "vision_cls_hidden": self.seen.hidden[pictures, 0] if whole else None}

    def _keys(self, tokens: Tensor) -> Tensor:
        """``(H, n, d)`` keys of the layer that made the rows."""
        keys = torch.cat([_flat(heads.key.transpose(1, 2), self.tower.class_token) for heads in self._heads()])
        return self._combined(self._spread(keys, tokens).transpose(1, 2), 2).transpose(0, 1)

    def _heads(self) -> list[Heads]:
        """Queries and keys of the layer that made the rows, one picture after the other."""
        return self.seen.heads["feature"]

    def _attention_of_all(self) -> Tensor:
        """``(R, H)`` attention that every patch of the call gets; computed once for all samples."""
        if self._attention is None:
            parts = [_received(heads, self.tower.class_token) for heads in _by_picture(self._heads(), self._sizes())]
            self._attention = torch.cat(parts)
        return self._attention

    def _sizes(self) -> list[int]:
        return [size + self.tower.class_token for size in self.tower.sizes(self.seen)]

    def _last_rows(self, tokens: Tensor, pictures: Tensor) -> dict[str, Tensor]:
        (heads,) = self.seen.heads["last"]
        keys = heads.key.transpose(1, 2).flatten(2).detach()
        return {
            "vision_last_keys": self._spread(_flat(keys, self.tower.class_token), tokens)[:, 0],
            "vision_last_cls_key": keys[pictures, 0],
            "vision_last_cls_query": heads.query[pictures, :, 0].flatten(1).detach(),
        }


class _Listener:
    """Puts what a tapped module computed where the current pass of the tower is kept."""

    probing = False

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def observe(self, layer_idx: int, heads: Heads) -> None:
        seen = _SEEN.get()
        if seen is not None and not seen.finished:
            for name in self._names:
                seen.heads.setdefault(name, []).append(heads)


def _flat(rows: Tensor, class_token: bool) -> Tensor:
    """Patches of all pictures in one stream: ``(M, L, ...)`` to ``(R, ...)``; a stream of old stays."""
    return rows[:, int(class_token) :].flatten(0, 1) if rows.ndim > 2 else rows


def _numbered(picture: Tensor, pictures: Tensor) -> Tensor:
    """Numbers of pictures of the call, as numbers of pictures of the sample; -1 stays."""
    return torch.where(picture >= 0, torch.searchsorted(pictures, picture.clamp(min=0)), picture)


def _by_picture(calls: list[Heads], sizes: list[int]) -> list[Heads]:
    """One entry per picture, whether the module was asked for all at once, for each alone, or for one long stream."""
    if len(calls) == 1 and calls[0].query.shape[0] == len(sizes):
        heads = calls[0]
        masks = [None if heads.mask is None else heads.mask[i : i + 1] for i in range(len(sizes))]
        rows = [(heads.query[i : i + 1], heads.key[i : i + 1]) for i in range(len(sizes))]
    else:
        query, key = (torch.cat([getattr(heads, name) for heads in calls], dim=2) for name in ("query", "key"))
        rows = list(zip(query.split(sizes, dim=2), key.split(sizes, dim=2), strict=True))
        masks = [None] * len(sizes)
    scaling = calls[0].scaling
    return [Heads(query, key, mask, scaling, causal=False) for (query, key), mask in zip(rows, masks, strict=True)]


def _received(heads: Heads, class_token: bool) -> Tensor:
    """``(P, H)`` float32: attention of the class token on every patch; without one the mean over all patches."""
    if class_token:
        asked = torch.zeros(1, dtype=torch.long, device=heads.query.device)
        return heads.probabilities(0, asked)[:, 0, 1:].T
    total = heads.query.shape[2]
    asked = torch.arange(total, device=heads.query.device)
    parts = [heads.probabilities(0, some).sum(dim=1) for some in asked.split(QUERIES_AT_ONCE)]
    return torch.stack(parts).sum(dim=0).T / total
