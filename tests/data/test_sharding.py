"""Every sample goes to exactly one process, and its neighbours never change."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from lit_simignore.data.sharding import check_samples, pending_batches, plan_batches, shard
from lit_simignore.types import Role, Sample, Segment, UserError


def samples(*lengths: int, images: int = 0) -> list[Sample]:
    return [
        Sample(f"s{i}", (Segment("x" * length, Role.QUESTION),), images=("unused",) * images)  # type: ignore[arg-type]
        for i, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_every_sample_is_in_exactly_one_shard(world_size: int) -> None:
    for count, batch_size in itertools.product((1, 2, 5, 16, 101), (1, 3, 16)):
        plan = plan_batches(samples(*[i * 7 % 5 for i in range(count)]), batch_size)
        shards = [shard(plan, rank, world_size) for rank in range(world_size)]
        answered = [i for part in shards for batch in part for i in batch]
        assert sorted(answered) == list(range(count))


def test_batches_do_not_depend_on_what_is_left_to_do() -> None:
    everything = samples(*range(20))
    plan = plan_batches(everything, 4)
    left = pending_batches(plan, everything, {"s3", "s17"})
    assert set(left) < set(plan)
    assert {i for batch in left for i in batch} == {3, 2, 1, 0, 19, 18, 17, 16}
    assert pending_batches(plan, everything, set()) == ()


def test_many_images_come_first_then_long_prompts_and_ties_keep_their_order() -> None:
    mixed = [*samples(5, 9, 5, 9), Sample("two", (Segment("x", Role.QUESTION),), images=("a", "b"))]  # type: ignore[arg-type]
    assert plan_batches(mixed, 2) == ((4, 1), (3, 0), (2,))


def test_questions_about_one_picture_are_neighbours() -> None:
    lengths, pictures, kinds = (5, 9, 7, 1, 9, 3), "abcbaa", "xxxxxy"
    asked = [
        Sample(f"s{i}", (Segment("x" * length, Role.QUESTION),), images=("unused",), group_id=picture, kind=kind)  # type: ignore[arg-type]
        for i, (length, picture, kind) in enumerate(zip(lengths, pictures, kinds, strict=True))
    ]
    assert plan_batches(asked, 2) == ((1, 3), (4, 0), (2, 5))
    assert plan_batches([replace(sample, images=()) for sample in asked], 2) == ((1, 4), (2, 0), (5, 3))


@pytest.mark.parametrize(("count", "world_size"), [(1, 2), (3, 8)])
def test_a_process_may_have_nothing_to_do(count: int, world_size: int) -> None:
    assert shard(plan_batches(samples(*[1] * count), 1), world_size - 1, world_size) == ()


def test_what_cannot_be_sharded_is_refused() -> None:
    with pytest.raises(UserError, match="at least one sample"):
        check_samples([])
    with pytest.raises(UserError, match="2 occur more than once, the first is 's0'"):
        check_samples(samples(1, 2) + samples(1, 2))
    with pytest.raises(UserError, match="batch_size must be at least 1; got 0"):
        plan_batches(samples(1), 0)
    with pytest.raises(UserError, match="rank in 0..1; got 2"):
        shard(((0,),), 2, 2)
