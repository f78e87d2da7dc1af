"""A model shared out over two processes with FSDP2 answers as one in one process does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lit_simignore as ls
from lit_simignore.benchmarks.shapesqa import ShapesQA
from lit_simignore.data.sharding import equal_shard, plan_batches, shard
from lit_simignore.engine.evaluate import evaluate
from lit_simignore.interventions.eah import EAH
from lit_simignore.interventions.vcd import VCD
from lit_simignore.metrics.records import read_run
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.types import Candidates, Method, Sample, UserError
from tests.engine.forked import run_forked
from tests.engine.toys import BASELINE, STRIDE, Toy, lines, model_and_processor, settings, without_time
from tests.tiny_models import tiny_sample

METHODS = (BASELINE, STRIDE)
STEP = {"strategy": "fsdp2", "devices": 2, "on_error": "raise"}


def answers(folder: Path) -> dict[Any, Any]:
    found = read_run(folder)
    assert found.conflicts == 0
    return {
        key: (record.output, record.parsed, record.score, record.num_kept, record.error, record.batch_size)
        for key, record in found.predictions.items()
    }


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 4, 9, 17])
def test_shards_are_equally_long_and_hold_every_batch_once_or_twice(world: int, size: int) -> None:
    plan = plan_batches([tiny_sample(f"q{i}", "Why?") for i in range(size)], 2)
    shards = [equal_shard(plan, rank, world) for rank in range(world)]
    assert len({len(own) for own in shards}) == 1
    assert {batch for own in shards for batch in own} == set(plan)
    assert all(own[: len(shard(plan, rank, world))] == shard(plan, rank, world) for rank, own in enumerate(shards))
    assert sum(map(len, shards)) < len(plan) + world


@pytest.mark.usefixtures("one_thread")
def test_two_processes_in_step_answer_as_one(tmp_path: Path) -> None:
    alone = evaluate(*model_and_processor(), Toy(size=9), METHODS, tmp_path / "alone", settings())
    work = tmp_path / "two"
    found = run_forked(lambda rank: step(work, Toy(size=9), METHODS), tmp_path / "answers")
    assert found[0][0] == found[1][0] == without_time(alone)
    assert [sharded for _, sharded in found] == [True, True], "the weights were never shared out"
    assert answers(work) == answers(tmp_path / "alone") and len(answers(work)) == 18
    assert lines(work) == 2 * (9 + 4)  # three batches, of four, four and one, on two processes: the first one twice


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_what_is_missing_is_added_in_step_and_nothing_else(tmp_path: Path) -> None:
    work = tmp_path / "run"
    alone = evaluate(*model_and_processor(), Toy(size=9), METHODS, tmp_path / "alone", settings())
    evaluate(*model_and_processor(), Toy(size=9), (BASELINE,), work, settings())
    found = run_forked(lambda rank: step(work, Toy(size=9), METHODS), tmp_path / "answers")
    assert found[0][0]["methods"] == without_time(alone)["methods"]
    assert answers(work) == answers(tmp_path / "alone")
    again = run_forked(lambda rank: step(work, Toy(size=9), METHODS), tmp_path / "again")
    assert again[0] == found[0] and lines(work) == 9 + (9 + 4)


def step(folder: Path, benchmark: Any, methods: Any, model: Any = None, **changes: Any) -> tuple[Any, bool]:
    """Summary without time, and whether the weights lie in shards."""
    model, processor = model or model_and_processor()
    summary = evaluate(model, processor, benchmark, methods, folder, settings(**{**STEP, **changes}))
    return without_time(summary), all(hasattr(value, "full_tensor") for value in model.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on_error": "record"}, "expected trainer.on_error=raise, got record"),
        ({"batch_size": "auto"}, "expected a number as trainer.batch_size, got auto"),
        ({"strategy": "tp"}, "tensor parallelism splits attention heads"),
    ],
)
def test_what_would_leave_a_process_waiting_is_refused(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(*model_and_processor(), Toy(), METHODS, tmp_path, settings(**{**STEP, "devices": 1, **changes}))
    assert not list(tmp_path.iterdir())


def test_chosen_answers_are_refused(tmp_path: Path) -> None:
    class Choosing(Toy):
        def candidates(self, sample: Sample) -> Candidates | None:
            return Candidates(("A", "B"), ("A", "B"))

    with pytest.raises(UserError, match="expected benchmark.scoring=generate"):
        evaluate(*model_and_processor(), Choosing(), METHODS, tmp_path, settings(**{**STEP, "devices": 1}))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_bundled_model_in_step_answers_as_alone_pruned_and_edited(tmp_path: Path) -> None:
    benchmark = ShapesQA(tasks=["choice", "existence", "caption"], num_scenes=8, limit=25)
    methods = (
        Method("baseline"),
        Method("simignore", (Simignore(num_keep=36),)),
        Method("fastv+eah", (FastV(layer_idx=2, num_keep=36), EAH(layer_idx=1))),
        Method("vcd", (VCD(),)),
    )
    alone = evaluate(*ls.load("pico"), benchmark, methods, tmp_path / "alone", settings())
    lengths = {len(record[0]) for record in answers(tmp_path / "alone").values()}
    assert len(lengths) > 3, "answers of one length show nothing about waiting"
    work = tmp_path / "two"
    found = run_forked(lambda rank: step(work, benchmark, methods, ls.load("pico")), tmp_path / "answers")
    assert found[0][0] == without_time(alone) and found[0][1]
    assert answers(work) == answers(tmp_path / "alone")
