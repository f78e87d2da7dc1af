"""Show the vision tower smaller pictures, and let the rest of the model find as many rows as the prompt has places.

The tower's output is spread out to the full grid, every row repeated over the places that it covers, so nothing between
the tower and the decoder learns of it; the pruner that asked for it then keeps one place of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_simignore.pruning._cells import owners, regular_cells
from lit_simignore.pruning.base import Need
from lit_simignore.surgery.drops import Drop
from lit_simignore.surgery.vision import VISION_OFFERS, VisionTower
from lit_simignore.types import UserError

RESIZE_OFFERS = frozenset({Need.RESIZED_IMAGE})
"""What a tower with a class token in front of a square grid of patches offers, if its positions can be interpolated."""

_SHOWN: ContextVar[int | None] = ContextVar("lit_simignore_smaller_images", default=None)


class SmallerImages:
    """The hooks on one tower during one attachment.

    Args:
        tower: where the pictures go in.
        smaller_grid: (rows, columns) of patches to (rows, columns) of the smaller picture.
    """

    def __init__(self, tower: VisionTower, smaller_grid: Callable[[int, int], tuple[int, int]]) -> None:
        config: Any = tower.module.config
        self.module, self.patch = tower.module, int(config.patch_size)
        self.side = int(config.image_size) // self.patch
        self.height, self.width = smaller_grid(self.side, self.side)
        self.whole = (self.height, self.width) == (self.side, self.side)
        cells = regular_cells(self.side, self.side, self.height, self.width)
        self._spread = torch.tensor([0, *(1 + owner for owner in owners(cells, self.side, self.side))])

    def install(self, note: Callable[[Any], None]) -> None:
        """Register the tower's hooks.

        Args:
            note: receives every handle (with ``remove()``) as soon as it exists.
        """
        note(self.module.register_forward_pre_hook(self._shrink, with_kwargs=True))
        note(self.module.register_forward_hook(self._spread_out))

    def forget(self) -> None:
        """Let go of the last pass."""
        _SHOWN.set(None)

    def check(self, num_visual: int) -> None:
        """Refuse a prefill whose pictures the tower was not shown.

        Args:
            num_visual: visual tokens of the whole call, beams included.

        Raises:
            UserError: they were encoded elsewhere.
        """
        rows = (_SHOWN.get() or 0) * self.side * self.side
        if num_visual and (not rows or num_visual % rows):
            raise UserError(
                f"the prompt has {num_visual} visual tokens and the vision tower last made {rows}: give the images to "
                "the same call, as pixel_values, so that they can be made smaller"
            )

    def _shrink(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        pixels: Tensor = args[0] if args else kwargs["pixel_values"]
        _SHOWN.set(pixels.shape[0])
        if self.whole:
            return None
        size = (self.height * self.patch, self.width * self.patch)
        # float32: half precision has no antialiased resize on every device
        smaller = F.interpolate(pixels.float(), size=size, mode="bicubic", antialias=True).to(pixels.dtype)
        changed = {**kwargs, "interpolate_pos_encoding": True}
        return ((smaller, *args[1:]), changed) if args else ((), {**changed, "pixel_values": smaller})

    def _spread_out(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self.whole:
            return output
        index = self._spread.to(output.last_hidden_state.device)
        output.last_hidden_state = output.last_hidden_state[:, index]
        if output.hidden_states is not None:
            # transformers collects only the layers that were asked for, and leaves the others empty
            output.hidden_states = tuple(None if state is None else state[:, index] for state in output.hidden_states)
        return output


def smaller_images(tower: VisionTower | None, entry: Sequence[Drop]) -> SmallerImages | None:
    """The hooks that the pruners before the decoder ask for, if any does.

    Raises:
        UserError: two of them do, or another one reads the tower, which would not see what it expects.
    """
    asking = [drop for drop in entry if Need.RESIZED_IMAGE in drop.needs]
    if not asking or tower is None:
        return None
    others = [drop for drop in entry if drop is not asking[0] and drop.needs & (VISION_OFFERS | RESIZE_OFFERS)]
    if others:
        raise UserError(
            f"{asking[0].method} shows the vision tower a smaller picture and {others[0].method} reads the tower: "
            "attach one of them"
        )
    return SmallerImages(tower, asking[0].pruner.smaller_grid)  # type: ignore[attr-defined]
