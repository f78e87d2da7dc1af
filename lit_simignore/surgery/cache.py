"""Key/value caches of shortened prompts: short inside, of the original length to everybody who asks for a length.

``generate``, default positions and multi-turn slicing ask ``get_seq_length()`` and must hear the original length;
attention masks ask ``get_seq_length(layer_idx)`` and must hear what is really stored. The cache object stays the
caller's own; only its class is exchanged, for one that is defined here so that it can be pickled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, StaticCache

from lit_simignore.surgery.rows import ColumnMap
from lit_simignore.types import UserError

if TYPE_CHECKING:
    from lit_simignore.surgery.edits import EditState
    from lit_simignore.surgery.second_run import SecondRun

STATE = "_lit_simignore"


class Owner:
    """Whether the hooks that can feed a shortened cache are attached. One per attachment."""

    __slots__ = ("live",)

    def __init__(self, live: bool = True) -> None:
        self.live = live

    def __deepcopy__(self, memo: dict[int, Any]) -> Owner:
        return self  # a copied cache is fed by the same hooks

    def __reduce__(self) -> tuple[type[Owner], tuple[bool]]:
        return (Owner, (False,))  # whoever loads it is not attached


@dataclass(slots=True)
class CacheState:
    """What a cache remembers of its prefill.

    Args:
        owner: the attachment that feeds it.
        entry: columns chosen before the decoder; ``None`` if all stayed.
        stages: columns chosen before decoder layer ``k``, in terms of the entry's slots.
        edits: what the interventions of its attention remember; ``None`` without any.
        second: the run beside this one that predictions are contrasted with; ``None`` without one.
        memo: the mask behind each stage for the current step, so that it is made once and not by every layer.
    """

    owner: Owner
    entry: ColumnMap | None = None
    stages: dict[int, ColumnMap] = field(default_factory=dict)
    edits: EditState | None = None
    second: SecondRun | None = None
    memo: dict[int, tuple[Any, tuple[int, int], Any]] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> CacheState:
        owner, *others = self._parts()
        return CacheState(owner, *copy.deepcopy(others, memo))

    def __reduce__(self) -> tuple[type[CacheState], tuple[Any, ...]]:
        return (CacheState, self._parts())

    def _parts(self) -> tuple[Any, ...]:
        return (self.owner, self.entry, self.stages, self.edits, self.second)

    @property
    def stored(self) -> int:
        """Slots of the prompt in decoder layer 0."""
        if self.entry is not None:
            return self.entry.width
        if self.stages:
            return next(iter(self.stages.values())).length
        if self.edits is not None:
            return self.edits.num_slots
        return 0 if self.second is None else self.second.length

    @property
    def length(self) -> int:
        """Columns of the original prompt."""
        return self.stored if self.entry is None else self.entry.length

    def ends_whole(self, num_columns: int) -> bool:
        """Whether none of the last ``num_columns`` of the prompt, at least 1, was dropped. Waits for the device."""
        maps = [*([] if self.entry is None else [self.entry]), *self.stages.values()]
        return all(columns.ends_whole(num_columns) for columns in maps)

    def choose(self, choose: Callable[[Tensor], Tensor]) -> None:
        """Reorder, repeat or cut the batch."""
        self._change(lambda columns: columns.rows(choose))
        self.edits = None if self.edits is None else self.edits.rows(choose)

    def take_back(self, num_columns: int) -> None:
        """Forget the last ``num_columns``, at least 1, of the prompt."""
        self._change(lambda columns: columns.without_last(num_columns))
        self.edits = None if self.edits is None else self.edits.without_last(num_columns)

    def _change(self, change: Callable[[ColumnMap], ColumnMap]) -> None:
        self.entry = None if self.entry is None else change(self.entry)
        self.stages = {layer: change(columns) for layer, columns in self.stages.items()}
        self.memo.clear()


class _Shortened:
    """Mixed into a cache class. Every method without state behaves as the class it is mixed into."""

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        state = state_of(self)
        if state is not None and not state.owner.live:
            raise UserError(
                "this cache was filled inside attach(...) and the model is no longer attached: continue inside "
                "attach(...), or start with a new cache"
            )
        return super().update(*args, **kwargs)  # type: ignore[misc]

    def get_seq_length(self, layer_idx: int | None = None) -> int:
        if layer_idx is not None:
            return super().get_seq_length(layer_idx)  # type: ignore[misc]
        state = state_of(self)
        dropped = 0 if state is None or state.entry is None else state.entry.length - state.entry.width
        return super().get_seq_length() + dropped  # type: ignore[misc]

    def crop(self, tokens_to_remove: int) -> None:
        state = state_of(self)
        left = int(super().get_seq_length()) - abs(tokens_to_remove)  # type: ignore[misc]
        # assisted decoding takes back drafts that were part of the prefill
        too_many = 0 if state is None else max(state.stored - left, 0)
        if state is not None and too_many and not state.ends_whole(too_many):
            raise UserError(
                f"the last {abs(tokens_to_remove)} tokens of this cache reach into a pruned image; only what stands "
                "behind it can be taken back: start a new cache"
            )
        super().crop(tokens_to_remove)  # type: ignore[misc]
        if state is not None and tokens_to_remove and state.second is not None:
            state.second.refuse("tokens that are taken back (assisted decoding, prompt lookup)")
        if state is not None and too_many:
            state.take_back(too_many)

    def reset(self) -> None:
        super().reset()  # type: ignore[misc]
        vars(self).pop(STATE, None)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        state = self._choose(lambda rows: rows.index_select(0, beam_idx.to(rows.device)))
        if state is not None and state.second is not None:
            state.second.reorder(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        self._refuse_second(self._choose(lambda rows: rows.repeat_interleave(repeats, dim=0)))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)  # type: ignore[misc]
        self._refuse_second(self._choose(lambda rows: rows[indices.to(rows.device)]))

    def _choose(self, choose: Callable[[Tensor], Tensor]) -> CacheState | None:
        state = state_of(self)
        if state is not None:
            state.choose(choose)
        return state

    def _refuse_second(self, state: CacheState | None) -> None:
        if state is not None and state.second is not None:
            state.second.refuse("rows of a cache that are repeated or taken")


class ShortenedDynamicCache(_Shortened, DynamicCache):
    """A growing cache that holds a pruned prompt."""


class ShortenedStaticCache(_Shortened, StaticCache):
    """A preallocated cache that holds a pruned prompt."""


SHORTENED: dict[type[Cache], type[Cache]] = {DynamicCache: ShortenedDynamicCache, StaticCache: ShortenedStaticCache}


def state_of(cache: object) -> CacheState | None:
    """What ``cache`` remembers of a pruned prefill, ``None`` if nothing was pruned."""
    return getattr(cache, STATE, None)


def check_cache(cache: Cache | None) -> None:
    """Refuse kinds of cache whose slots are not one per token of the prompt.

    Raises:
        UserError: neither a dynamic nor a static cache.
    """
    if cache is not None and type(cache) not in SHORTENED and not isinstance(cache, _Shortened):
        raise UserError(
            f"pruning knows DynamicCache and StaticCache; got {type(cache).__name__}: "
            "leave cache_implementation unset or use 'static'"
        )


def remember(cache: Cache, state: CacheState) -> None:
    """Attach ``state`` to ``cache`` and give it its two lengths."""
    if not isinstance(cache, _Shortened):
        cache.__class__ = SHORTENED[type(cache)]
    setattr(cache, STATE, state)
