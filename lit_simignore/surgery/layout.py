"""What the slots of one decoder layer are, told in the prompt's own columns and visual tokens.

Layers behind a pruning stage compute fewer slots than the prompt has columns, samples of a batch are padded, and slots
of different samples come from different columns. Everything that is asked of a layer is asked in terms of the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_simignore.attribution.shares import NO_PART, parts_of
from lit_simignore.surgery.prompt import Slots
from lit_simignore.types import UserError


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The slots of one layer. B rows, n slots, N columns of the prompt.

    Args:
        column: ``(B, n)`` int64, the prompt's column of every slot, where ``alive``.
        visual: ``(B, n)`` bool, visual tokens.
        alive: ``(B, n)`` bool, False for padding and for tokens that are hidden from attention.
        original: ``(B, n)`` int64, index among the sample's visual tokens, where ``visual``.
    """

    column: Tensor
    visual: Tensor
    alive: Tensor
    original: Tensor

    @staticmethod
    def of(slots: Slots, whole: Tensor) -> Layout:
        """The layout of ``slots``, which are left of a prompt whose real columns are ``whole`` ``(B, N)`` bool."""
        # real columns first, in order: the place of a token in its own prompt is then the index of its column
        columns = (~whole).int().argsort(dim=1, stable=True)
        place = slots.place.clamp(0, whole.shape[1] - 1).to(columns.device)
        return Layout(columns.gather(1, place), slots.visual, slots.alive, slots.original)

    def slots_of(self, row: int, columns: Tensor) -> Tensor:
        """``(R,)`` int64 slots of the prompt's ``columns`` ``(R,)`` in one row.

        Raises:
            UserError: one of them is padding or was pruned.
        """
        columns = columns.to(self.column.device)
        matches = (self.column[row] == columns[:, None]) & self.alive[row]
        found = matches.any(dim=1)
        if not bool(found.all()):
            raise UserError(
                f"column {int(columns[~found][0])} of sample {row} is not computed in this layer: it is padding or was "
                "pruned; ask for text behind the image"
            )
        return matches.int().argmax(dim=1)

    def to_image(self, values: Tensor, row: int, num_visual: int) -> Tensor:
        """``values`` ``(..., n)`` of one row as ``(..., num_visual)``, zero for visual tokens that are gone."""
        seen = self.visual[row].to(values.device)
        full = values.new_zeros(*values.shape[:-1], num_visual)
        full[..., self.original[row].to(values.device)[seen]] = values[..., seen]
        return full

    def visible(self, row: int, num_visual: int) -> Tensor:
        """``(num_visual,)`` bool, the sample's visual tokens that the layer computes."""
        return self.to_image(self.visual[row].clone(), row, num_visual)

    def parts(self, row: int, whole: Tensor) -> Tensor:
        """``(n,)`` int64 :class:`~lit_simignore.attribution.shares.Part` of every slot, from the prompt's ``(N,)``."""
        found = whole.to(self.column.device)[self.column[row]]
        return found.masked_fill(~self.alive[row], NO_PART)


def prompt_parts(visual: Tensor, alive: Tensor, prompt_length: int) -> Tensor:
    """``(B, N)`` int64 parts of whole prompts; what text before an image is does not change when the image is pruned.

    Args:
        visual: ``(B, N)`` bool.
        alive: ``(B, N)`` bool.
        prompt_length: columns of the prompt; what follows is output.
    """
    return torch.stack([parts_of(seen, prompt_length, real) for seen, real in zip(visual, alive, strict=True)])
