"""A second run of a prompt beside the first: what hangs on the first one's cache, and what hooks know of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor
from transformers.cache_utils import Cache

from lit_simignore.surgery.prompt import Prompt, Slots
from lit_simignore.surgery.trace import CallTrace
from lit_simignore.types import UserError


@dataclass(slots=True, eq=False)
class SecondRun:
    """What hangs on the first run's cache.

    Args:
        name: class of the intervention that made it.
        cache: the second run's own.
        length: columns of the first run's prompt.
        mask: ``(B, n)`` bool, real columns of the second prompt where it has no visual tokens; ``None`` otherwise.
    """

    name: str
    cache: Cache
    length: int
    mask: Tensor | None = None

    def reorder(self, beam_idx: Tensor) -> None:
        """Follow the beams of the first run."""
        self.cache.reorder_cache(beam_idx)
        if self.mask is not None:
            self.mask = self.mask.index_select(0, beam_idx.to(self.mask.device))

    def refuse(self, what: str) -> None:
        """Refuse a change of the first cache that the second does not follow."""
        raise UserError(f"{self.name} runs the prompt twice and does not follow {what}: leave one of the two out")


@dataclass(slots=True, eq=False)
class Second:
    """A second run that is under way: what the hooks of its own forward need to know.

    Args:
        bare: whether its prompt has no visual tokens, so that nothing is pruned, edited or recorded.
        edits: whether attention interventions act in it.
        call: its trace, once its prefill was recorded.
    """

    bare: bool
    edits: bool
    call: CallTrace | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Begun:
    """What the first run knows of its prompt when its prefill ends.

    Args:
        prompt: the prefill.
        slots: its columns, none of them dropped yet.
        call: its trace.
        num_text: real text columns per sample.
    """

    prompt: Prompt
    slots: Slots
    call: CallTrace
    num_text: list[int]


SECOND: ContextVar[Second | None] = ContextVar("lit_simignore_second", default=None)


@contextmanager
def under_way(second: Second) -> Iterator[None]:
    """Within the block, calls of the model are the second run's."""
    token = SECOND.set(second)
    try:
        yield
    finally:
        SECOND.reset(token)
