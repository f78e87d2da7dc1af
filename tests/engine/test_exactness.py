"""The bundled model gives one answer per question, however the questions are ordered, batched and shared out. Slow."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import lit_simignore as ls
from lit_simignore.benchmarks.shapesqa import ShapesQA
from lit_simignore.engine.evaluate import evaluate
from lit_simignore.metrics.records import read_run
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.types import Method, Sample
from tests.engine.toys import settings, without_time

SIZE = 31
METHODS = (
    Method("baseline"),
    Method("simignore", (Simignore(num_keep=36),)),
    Method("fastv", (FastV(layer_idx=2, num_keep=36),)),
)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@dataclass(kw_only=True)
class Shuffled(ShapesQA):
    """The same questions in another order."""

    order: int = 0

    def load(self) -> Sequence[Sample]:
        samples = list(super().load())
        if self.order:
            random.Random(self.order).shuffle(samples)
        return samples


def run(
    folder: Path, order: int, dtype: torch.dtype, size: int = SIZE, **changes: Any
) -> tuple[dict[str, Any], dict[Any, Any]]:
    """Summary without time, and output, parsed answer, score and budget by sample and method."""
    model, processor = ls.load("pico", dtype=dtype)
    benchmark = Shuffled(tasks=["choice", "existence"], num_scenes=12, limit=size, order=order)
    summary = evaluate(model, processor, benchmark, METHODS, folder, settings(strategy="ddp_fork", **changes))
    records = read_run(folder)
    assert (records.torn, records.duplicates) == (0, 0)
    answers = {
        key: (record.output, record.parsed, record.score, record.num_kept, record.error, record.extra)
        for key, record in records.predictions.items()
    }
    return without_time(summary), answers


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[Any, Any]]:
    """One process, one sample at a time, in the benchmark's own order."""
    found = run(tmp_path_factory.mktemp("whole"), 0, torch.float32, devices=1, batch_size=1)
    assert len(found[1]) == 3 * SIZE
    assert 0 < found[0]["methods"][1]["accuracy"] < 1, "a score that could not differ shows nothing"
    return found


@pytest.mark.parametrize("devices", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_in_float32_nothing_depends_on_order_batches_and_processes(
    tmp_path: Path, whole: tuple[dict[str, Any], dict[Any, Any]], devices: int, batch_size: int
) -> None:
    order = 10 * devices + batch_size
    assert run(tmp_path, order, torch.float32, devices=devices, batch_size=batch_size) == whole


def test_in_bfloat16_nothing_depends_on_processes_at_one_batch_size(tmp_path: Path) -> None:
    one = run(tmp_path / "one", 0, torch.bfloat16, 9, devices=1, batch_size=4)
    assert run(tmp_path / "three", 0, torch.bfloat16, 9, devices=3, batch_size=4) == one
