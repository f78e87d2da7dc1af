"""What rules may read inside the vision tower: it runs before the prompt is seen, so it is listened to and kept.

``generate`` encodes images before the model's forward is called, and forgets everything but the projected rows. What
the tower computed last, in this thread, belongs to the prefill that follows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lit_simignore.pruning.base import Features, Need
from lit_simignore.surgery.attention import Heads, install_tap
from lit_simignore.surgery.drops import Drop
from lit_simignore.surgery.prompt import Slots
from lit_simignore.types import UserError

VISION_OFFERS = frozenset(
    {Need.VISION_CLS_ATTENTION, Need.VISION_KEYS, Need.VISION_HIDDEN, Need.VISION_LAST_QK, Need.PROJECTOR}
)
ATTENTION_NEEDS = frozenset({Need.VISION_CLS_ATTENTION, Need.VISION_KEYS})


@dataclass(frozen=True, slots=True, eq=False)
class VisionTower:
    """Where a family's vision tower keeps what rules read. Row 0 of every image is its class token.

    Args:
        module: the tower; its output has ``hidden_states``.
        feature_layer: index into those ``hidden_states`` that the visual tokens are made of.
        attention: the attention module of the layer that made them.
        last_attention: the attention module of the tower's last layer.
        projector: maps unprojected rows to visual tokens, each by itself.
    """

    module: nn.Module
    feature_layer: int
    attention: nn.Module
    last_attention: nn.Module
    projector: nn.Module


@dataclass(slots=True, eq=False)
class Captured:
    """One pass of the tower.

    Args:
        hidden: ``(M, 1 + P, C)`` rows that the visual tokens are made of, class token first; keeps gradients.
        heads: queries and keys, by the name of the layer: ``feature`` or ``last``.
        finished: True once the tower returned: a recomputation in the backward pass is not listened to.
    """

    hidden: Tensor | None = None
    heads: dict[str, Heads] = field(default_factory=dict)
    finished: bool = False


_CAPTURED: ContextVar[Captured | None] = ContextVar("lit_simignore_vision", default=None)


class VisionTaps:
    """Listens to the tower during one attachment."""

    def __init__(self, tower: VisionTower, needs: frozenset[Need]) -> None:
        self.tower, self.needs = tower, needs

    def install(self, note: Callable[[Any], None]) -> None:
        """Register the tower's hooks.

        Args:
            note: receives every handle (with ``remove()``) as soon as it exists.
        """
        note(self.tower.module.register_forward_pre_hook(_begin))
        note(self.tower.module.register_forward_hook(self._end))
        wanted: dict[nn.Module, list[str]] = {}
        if self.needs & ATTENTION_NEEDS:
            wanted.setdefault(self.tower.attention, []).append("feature")
        if Need.VISION_LAST_QK in self.needs:
            wanted.setdefault(self.tower.last_attention, []).append("last")
        for module, names in wanted.items():
            note(install_tap(module, _Listener(names)))

    def forget(self) -> None:
        """Let go of the last pass."""
        _CAPTURED.set(None)

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        captured = _CAPTURED.get()
        if captured is not None:
            captured.hidden = output.hidden_states[self.tower.feature_layer]
            captured.finished = True

    def enrich(self, num_visual: list[int], slots: Slots) -> VisionFeatures:
        """What fills in the features of a prefill.

        Args:
            num_visual: visual tokens of every row of the call, beams included.
            slots: the whole prompt.

        Raises:
            UserError: the tower did not see this prefill's images.
        """
        captured = _CAPTURED.get()
        rows = 0 if captured is None or captured.hidden is None else captured.hidden[:, 1:].flatten(0, 1).shape[0]
        total = sum(num_visual)
        if captured is None or not rows or total % rows:
            raise UserError(
                f"the prompt has {total} visual tokens and the vision tower last made {rows}: give the images to the "
                "same call, as pixel_values, or take a rule that reads no vision features"
            )
        return VisionFeatures(self.tower, captured, num_visual, total // rows, slots)


class VisionFeatures:
    """Cuts what the tower computed into samples. Callable as ``surgery.choose.Place.enrich``."""

    def __init__(
        self, tower: VisionTower, captured: Captured, num_visual: list[int], repeats: int, slots: Slots
    ) -> None:
        assert captured.hidden is not None
        self.tower, self.captured, self.slots = tower, captured, slots
        self.per_image = captured.hidden.shape[1] - 1
        self.images: list[Tensor] = []
        first = 0
        for count in num_visual[::repeats]:
            size = count // self.per_image
            # beams repeat every sample's rows after its images were encoded once
            self.images += [torch.arange(first, first + size)] * repeats
            first += size

    def __call__(self, drop: Drop, features: Features, row: int, visual: Tensor, text: Tensor) -> Features:
        needs, hidden = drop.needs, self.captured.hidden
        assert hidden is not None
        images, tokens = self.images[row].to(hidden.device), self.slots.original[row, visual].to(hidden.device)
        found: dict[str, Any] = {}
        if Need.VISION_HIDDEN in needs:
            found["vision_hidden"] = hidden[images, 1:].flatten(0, 1)[tokens]
            found["vision_cls_hidden"] = hidden[images, 0]
        if Need.VISION_CLS_ATTENTION in needs:
            found["vision_cls_attention"] = self._class_attention(images)[:, tokens]
        if Need.VISION_KEYS in needs:
            keys = self.captured.heads["feature"].key[images, :, 1:]
            found["vision_keys"] = keys.transpose(0, 1).flatten(1, 2)[:, tokens].detach()
        if Need.VISION_LAST_QK in needs:
            found |= self._last_rows(images, tokens)
        if Need.PROJECTOR in needs:
            found["project"] = self._project
        return replace(features, **found)

    def _class_attention(self, images: Tensor) -> Tensor:
        """``(H, I)`` attention of every image's class token on its own patches."""
        heads, asked = self.captured.heads["feature"], torch.zeros(1, dtype=torch.long, device=images.device)
        return torch.cat([heads.probabilities(int(image), asked)[:, 0, 1:] for image in images], dim=1)

    def _last_rows(self, images: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        heads = self.captured.heads["last"]
        keys = heads.key[images].transpose(1, 2).flatten(2).detach()
        queries = heads.query[images, :, 0].flatten(1).detach()
        return {
            "vision_last_keys": keys[:, 1:].flatten(0, 1)[tokens],
            "vision_last_cls_key": keys[:, 0],
            "vision_last_cls_query": queries,
        }

    def _project(self, rows: Tensor) -> Tensor:
        weight = next(self.tower.projector.parameters())
        return self.tower.projector(rows.to(weight))


class _Listener:
    """Puts what a tapped module computed where the current pass of the tower is kept."""

    probing = False

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def observe(self, layer_idx: int, heads: Heads) -> None:
        captured = _CAPTURED.get()
        if captured is not None and not captured.finished:
            captured.heads.update({name: heads for name in self._names})


def _begin(module: nn.Module, args: tuple[Any, ...]) -> None:
    _CAPTURED.set(Captured())
