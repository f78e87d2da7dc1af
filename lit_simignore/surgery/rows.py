"""Choosing columns of a batch of sequences: which stay, where they were, and how to put results back.

No model knowledge: every function takes and returns tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class ColumnMap:
    """Where the columns of a shortened batch came from.

    Samples that keep different numbers of columns are left-padded to one width, so the last column is always the
    last column of the prompt.

    Args:
        index: ``(B, n)`` int64, original column of every slot, ascending in each row where ``valid``.
        valid: ``(B, n)`` bool, False for slots that are padding (or hidden, where nothing was dropped).
        length: N, the original number of columns.
        all_valid: whether ``valid`` is True everywhere, known on the host so that decoding never asks the device.
        shift: ``(B, 1)`` int64 by how much later positions move down; ``None`` where positions keep their gaps.
    """

    index: Tensor
    valid: Tensor
    length: int
    all_valid: bool
    shift: Tensor | None = None

    @property
    def width(self) -> int:
        """n, the number of slots."""
        return self.index.shape[1]

    def rows(self, choose: Callable[[Tensor], Tensor]) -> ColumnMap:
        """The same map after the batch was reordered, repeated or cut by ``choose``."""
        shift = None if self.shift is None else choose(self.shift)
        return replace(self, index=choose(self.index), valid=choose(self.valid), shift=shift)

    def ends_whole(self, num_columns: int) -> bool:
        """Whether none of the last ``num_columns`` original columns, at least 1, was dropped. Waits for the device."""
        if self.width == self.length or num_columns > self.width:
            return self.width == self.length
        last = torch.arange(self.length - num_columns, self.length, device=self.index.device)
        return bool(((self.index[:, -num_columns:] == last) & self.valid[:, -num_columns:]).all())

    def without_last(self, num_columns: int) -> ColumnMap:
        """The map after the last ``num_columns`` slots, and as many original columns, were taken back."""
        return replace(
            self,
            index=self.index[:, :-num_columns],
            valid=self.valid[:, :-num_columns],
            length=self.length - num_columns,
        )


def compose(first: ColumnMap, second: ColumnMap) -> ColumnMap:
    """The map of ``second`` after ``first``: slots of the second in terms of the first's original columns."""
    first = first.rows(lambda part: part.to(second.index.device))  # decoders may be spread over several devices
    valid = first.valid.gather(1, second.index) & second.valid
    shifts = [part.shift for part in (first, second) if part.shift is not None]
    return ColumnMap(
        index=first.index.gather(1, second.index),
        valid=valid,
        length=first.length,
        all_valid=second.all_valid and first.all_valid,
        shift=sum(shifts[1:], shifts[0]) if shifts else None,
    )


def keep_columns(keep: Tensor) -> ColumnMap:
    """The map that drops every column not in ``keep`` ``(B, N)`` bool."""
    width = int(keep.sum(dim=1).max())
    # a stable sort of the booleans puts kept columns last, in their order
    index = keep.int().argsort(dim=1, stable=True)[:, keep.shape[1] - width :]
    valid = keep.gather(1, index)
    return ColumnMap(index, valid, keep.shape[1], bool(valid.all()))


def hide_columns(visible: Tensor) -> ColumnMap:
    """The map that drops nothing and marks the columns outside ``visible`` ``(B, N)`` as not to be attended."""
    index = torch.arange(visible.shape[1], device=visible.device).expand_as(visible)
    return ColumnMap(index, visible, visible.shape[1], bool(visible.all()))


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Columns ``index`` ``(B, n)`` of ``values`` ``(B or 1, N, ...)``, as ``(B, n, ...)``."""
    values, index = values.expand(index.shape[0], *values.shape[1:]), index.to(values.device)
    wide = index.view(*index.shape, *([1] * (values.ndim - 2)))
    return values.gather(1, wide.expand(*index.shape, *values.shape[2:]))


def gather_positions(positions: Tensor, index: Tensor) -> Tensor:
    """Columns ``index`` ``(B, n)`` of positions ``(..., B or 1, N)``, as ``(..., B, n)``."""
    lead, index = positions.shape[:-2], index.to(positions.device)
    positions = positions.expand(*lead, index.shape[0], positions.shape[-1])
    return positions.gather(-1, index.expand(*lead, *index.shape))


def scatter_rows(values: Tensor, columns: ColumnMap) -> Tensor:
    """Undo :func:`gather_rows`: ``(B, n, ...)`` back to ``(B, N, ...)`` with zeros where a column was dropped."""
    full = values.new_zeros(values.shape[0], columns.length, *values.shape[2:])
    wide = columns.index.to(values.device).view(*columns.index.shape, *([1] * (values.ndim - 2)))
    # padding slots point at columns that are dropped in their row, so what they write there is the zero they carry
    kept = values * columns.valid.view(*columns.valid.shape, *([1] * (values.ndim - 2))).to(values)
    return full.scatter(1, wide.expand_as(values), kept)
