"""Who answers what: batches are fixed once from the whole list, then every batch goes to exactly one process.

A distributed sampler pads the list so that all processes get equally many samples, which counts some samples twice.
Here processes may get different numbers of batches, or none, and no batch depends on how many processes there are.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TypeAlias

from lit_simignore.types import Sample, UserError

BatchPlan: TypeAlias = tuple[tuple[int, ...], ...]
"""Positions in the list of samples, batch by batch."""

ORDER = "longest-group-first-v2"
"""Name of the order that :func:`plan_batches` makes; it changes whenever a sample could get other neighbours."""


def plan_batches(samples: Sequence[Sample], batch_size: int) -> BatchPlan:
    """Group all samples into batches, longest first.

    Long prompts come first so that memory runs out at the beginning or never; neighbours of similar length need
    little padding. Length is the number of images, then of characters; ties keep the order of the list. Questions of
    one kind about one picture follow the longest of them, so that a batch has its picture once; kinds stay apart, for
    a short answer waits for a long one in its batch.

    Args:
        samples: the whole benchmark, also those that are answered already: neighbours must not change on resuming.
        batch_size: at least 1; the last batch may be smaller.

    Raises:
        UserError: no samples, two samples with one id, or a batch size below 1.
    """
    check_samples(samples)
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1; got {batch_size}")
    longest: dict[object, tuple[int, int, int]] = {}
    keys = [(-len(sample.images), -len(sample.prompt), place) for place, sample in enumerate(samples)]
    groups = [_group(sample, place) for place, sample in enumerate(samples)]
    for group, key in zip(groups, keys, strict=True):
        longest[group] = min(longest.get(group, key), key)
    order = sorted(range(len(samples)), key=lambda place: (longest[groups[place]], keys[place]))
    return tuple(tuple(order[start : start + batch_size]) for start in range(0, len(order), batch_size))


def _group(sample: Sample, place: int) -> object:
    """What samples have in common that are answered next to each other."""
    return (sample.group_id, sample.kind, len(sample.images)) if sample.group_id and sample.images else place


def pending_batches(plan: BatchPlan, samples: Sequence[Sample], pending: Collection[str]) -> BatchPlan:
    """The whole batches that hold at least one sample id of ``pending``."""
    return tuple(batch for batch in plan if any(samples[i].sample_id in pending for i in batch))


def shard(plan: BatchPlan, rank: int, world_size: int) -> BatchPlan:
    """The batches of process ``rank``: every ``world_size``-th one. All shards together are the plan, none twice.

    Raises:
        UserError: ``rank`` is not one of ``0..world_size-1``.
    """
    if not 0 <= rank < world_size:
        raise UserError(f"expected a rank in 0..{world_size - 1}; got {rank}")
    return plan[rank::world_size]


def equal_shard(plan: BatchPlan, rank: int, world_size: int) -> BatchPlan:
    """As :func:`shard`, but all processes get equally many batches: who lacks one gets the plan's first once more.

    For processes that must compute in step. What is answered twice counts once, by the samples' ids.
    """
    own = shard(plan, rank, world_size)
    return own + plan[:1] * (math.ceil(len(plan) / world_size) - len(own))


def check_samples(samples: Sequence[Sample]) -> None:
    """Refuse an empty list, and ids that would make two samples one."""
    if not samples:
        raise UserError("expected at least one sample; got none: raise the benchmark's limit or check its data")
    twice = [name for name, count in Counter(sample.sample_id for sample in samples).items() if count > 1]
    if twice:
        raise UserError(f"sample ids must be unique; {len(twice)} occur more than once, the first is {twice[0]!r}")
