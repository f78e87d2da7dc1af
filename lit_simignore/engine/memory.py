"""How large a batch may be before memory runs out, learned by running out of it."""

from __future__ import annotations

import torch
from lightning.pytorch.utilities.memory import is_oom_error

SPLIT = "split"
"""Key of ``Prediction.extra``: how many samples would not fit into memory together."""

AUTO = "auto"
AUTO_BATCH_SIZE = 64
"""Where ``auto`` begins. Batches come longest first, so what fits the first ones fits all."""


def planned_batch_size(batch_size: int | str) -> int:
    """The size with which batches are planned, before any is found too large."""
    return AUTO_BATCH_SIZE if batch_size == AUTO else int(batch_size)


class Room:
    """What has not fitted so far, by method: pruning makes room, so one method's limit is not another's.

    Size is counted in cells, rows times columns of the padded prompts.
    """

    def __init__(self) -> None:
        self._too_large: dict[str, int] = {}

    def fits(self, method: str, cells: int) -> bool:
        """Whether nothing of this size or smaller has failed."""
        return cells < self._too_large.get(method, cells + 1)

    def ran_out(self, method: str, cells: int) -> None:
        """Remember that so many cells were too many."""
        self._too_large[method] = min(cells, self._too_large.get(method, cells))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a failure was for lack of memory, of the device or of the machine."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or is_oom_error(error)
