"""Show the vision tower smaller pictures, and let the rest of the model find as many rows as the prompt has places.

The tower's output is spread out to the full grid: what a visual token is made of is repeated over the places that the
token covers. So nothing between the tower and the decoder learns of it; the pruner that asked for it then keeps one
place of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_simignore.pruning._cells import owners, regular_cells
from lit_simignore.pruning.base import Need
from lit_simignore.surgery.drops import Drop
from lit_simignore.surgery.towers import VISION_OFFERS, VisionTower
from lit_simignore.types import UserError


class SmallerImages:
    """The hooks on one tower during one attachment.

    Args:
        tower: where the pictures go in; it says how it is told that they are smaller.
        smaller_grid: (rows, columns) of visual tokens to (rows, columns) of the smaller picture.
    """

    def __init__(self, tower: VisionTower, smaller_grid: Callable[[int, int], tuple[int, int]]) -> None:
        config: Any = tower.module.config
        patch = config.patch_size
        self.tower = tower
        self.patch: tuple[int, int] = (patch, patch) if isinstance(patch, int) else tuple(patch)
        self.side = round(tower.block.shape[1] ** 0.5)
        self.height, self.width = smaller_grid(*tower.grid)
        self.whole = (self.height, self.width) == tower.grid
        self._spread = _spread(tower.grid, (self.height, self.width), self.side, tower.class_token)

    @property
    def patches(self) -> tuple[int, int]:
        """Rows and columns of patches of the smaller picture."""
        return self.height * self.side, self.width * self.side

    def install(self, note: Callable[[Any], None]) -> None:
        """Register the tower's hooks.

        Args:
            note: receives every handle (with ``remove()``) as soon as it exists.
        """
        if not self.whole:
            note(self.tower.module.register_forward_pre_hook(self._shrink, with_kwargs=True))
            note(self.tower.module.register_forward_hook(self._spread_out, prepend=True))

    def _shrink(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        pixels: Tensor = args[0] if args else kwargs["pixel_values"]
        size = self.patches[0] * self.patch[0], self.patches[1] * self.patch[1]
        # float32: half precision has no antialiased resize on every device
        smaller = F.interpolate(pixels.float(), size=size, mode="bicubic", antialias=True).to(pixels.dtype)
        changed = dict(kwargs)
        if self.tower.resize == "argument":
            changed["interpolate_pos_encoding"] = True
        mask = kwargs.get("patch_attention_mask")
        if self.tower.resize == "mask" and mask is not None:
            changed["patch_attention_mask"] = F.interpolate(mask[:, None].float(), size=self.patches)[:, 0].bool()
        return ((smaller, *args[1:]), changed) if args else ((), {**changed, "pixel_values": smaller})

    def _spread_out(self, module: Any, args: tuple[Any, ...], output: Any) -> Any:
        index = self._spread.to(output.last_hidden_state.device)
        output.last_hidden_state = output.last_hidden_state[:, index]
        states = getattr(output, "hidden_states", None)
        if states is not None:
            # transformers collects only the layers that were asked for, and leaves the others empty
            output.hidden_states = tuple(None if state is None else state[:, index] for state in states)
        return output


def _spread(grid: tuple[int, int], smaller: tuple[int, int], side: int, class_token: bool) -> Tensor:
    """For every row of the tower's full output, the row of its smaller output that is put there."""
    (rows, columns), (height, width) = grid, smaller
    owner = torch.tensor(owners(regular_cells(rows, columns, height, width), rows, columns)).view(rows, columns)
    inside = torch.arange(side)
    # a token is a square of patches: the square of its owner, patch by patch
    down = (owner // width)[:, None, :, None] * side + inside[:, None, None]
    right = (owner % width)[:, None, :, None] * side + inside
    patches = (down * (width * side) + right).flatten()
    return torch.cat([torch.zeros(1, dtype=torch.long), patches + 1]) if class_token else patches


def smaller_images(tower: VisionTower | None, entry: Sequence[Drop]) -> SmallerImages | None:
    """The hooks that the pruners before the decoder ask for, if any does.

    Raises:
        UserError: two of them do, or another one reads the tower, which would not see what it expects.
    """
    asking = [drop for drop in entry if Need.RESIZED_IMAGE in drop.needs]
    if not asking or tower is None:
        return None
    others = [drop for drop in entry if drop is not asking[0] and drop.needs & VISION_OFFERS]
    if others:
        raise UserError(
            f"{asking[0].method} shows the vision tower a smaller picture and {others[0].method} reads the tower: "
            "attach one of them"
        )
    return SmallerImages(tower, asking[0].pruner.smaller_grid)  # type: ignore[attr-defined]
