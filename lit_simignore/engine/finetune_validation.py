"""Validation while training: the project's own evaluator on a held-out slice, every so many steps."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor

from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.data.collate import Batch, open_sample
from lit_simignore.data.sharding import BatchPlan, equal_shard, plan_batches, shard
from lit_simignore.engine.atomic import write_text
from lit_simignore.engine.evaluator import LitEvaluator
from lit_simignore.engine.finetune_averaging import AveragedWeights
from lit_simignore.engine.finetune_tuning import full_state, put_state, trained
from lit_simignore.engine.finetuner import LitFinetuner
from lit_simignore.metrics.accuracy import accuracy
from lit_simignore.tracking import log_validation
from lit_simignore.types import Method, Prediction, Sample

FILE = "validation.jsonl"
_SHOWN = 8


class Validation(L.Callback):
    """Answers the slice under every method, logs accuracies and a table of answers, and may end the training.

    All processes share the slice out. Sharded models (FSDP2) are asked in lock-step: every process gets equally many
    batches, some of them a second time, and records count once by their sample.

    Args:
        benchmark: says what an answer is worth.
        samples: the slice; never trained on.
        methods: what to validate; the last one decides about stopping.
        every: optimiser steps between two validations.
        run_dir: ``validation.jsonl`` is appended there.
        batch_size: samples answered together by one process.
        patience: stop after so many validations without a better accuracy, and keep the weights of the best one (of
            equally good ones the first); ``None`` never stops and keeps nothing.
        averaged: what is validated in place of the weights that the optimiser moves.

    Attributes:
        best_step: optimiser step of the best validation, -1 before the first.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        samples: Sequence[Sample],
        methods: Sequence[Method],
        *,
        every: int,
        run_dir: Path,
        batch_size: int = 16,
        patience: int | None = None,
        averaged: AveragedWeights | None = None,
    ) -> None:
        self.benchmark, self.samples, self.methods = benchmark, samples, tuple(methods)
        self.every, self.run_dir, self.batch_size, self.patience = every, run_dir, batch_size, patience
        self.averaged = averaged
        self.best, self.stale, self.best_step, self._step = -math.inf, 0, -1, -1
        self._kept: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """What stopping and its outcome depend on."""
        return {"best": self.best, "stale": self.stale, "best_step": self.best_step, "kept": self._kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where the checkpoint was made."""
        self.best, self.stale = float(state_dict["best"]), int(state_dict["stale"])
        self.best_step, self._kept = int(state_dict["best_step"]), dict(state_dict["kept"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A step that was loaded was validated before it was saved, and may have been the last."""
        self._step = trainer.global_step
        self._stop(trainer)
        if trainer.is_global_zero:
            _forget_after(self.run_dir / FILE, trainer.global_step)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Validate when a step that is due has been taken."""
        step = trainer.global_step
        if step == self._step or step % self.every:
            return
        self._step = step
        assert isinstance(pl_module, LitFinetuner)
        with nullcontext() if self.averaged is None else self.averaged.in_place(pl_module):
            found = validate(trainer, pl_module, self.benchmark, self.samples, self.methods, self.batch_size)
            scores = {method.name: _mean(found, method) for method in self.methods}
            self._judge(pl_module, step, scores[self.methods[-1].name])
        self._stop(trainer)
        if trainer.is_global_zero:
            self._write(trainer, step, scores, found)

    def put_best(self, module: L.LightningModule) -> bool:
        """Give the module the weights of the best validation; ``False`` where none were kept."""
        put_state(module, self._kept)
        return bool(self._kept)

    def _judge(self, module: L.LightningModule, step: int, score: float | None) -> None:
        """The same in every process, for all know all answers."""
        if score is None or score <= self.best:
            self.stale += 1
            return
        self.best, self.stale, self.best_step = score, 0, step
        if self.patience is not None:
            self._kept = full_state(module, set(trained(module)))

    def _stop(self, trainer: L.Trainer) -> None:
        if self.patience is not None and self.stale >= self.patience:
            trainer.should_stop = True

    def _write(
        self, trainer: L.Trainer, step: int, scores: dict[str, float | None], found: Sequence[Prediction]
    ) -> None:
        shown = [entry for entry in found if entry.method == self.methods[-1].name][:_SHOWN]
        rows = [[entry.prompt, entry.answer, entry.output, entry.score, entry.num_kept] for entry in shown]
        columns = ["prompt", "answer", "output", "score", "num_kept"]
        line = {"step": step, "accuracy": scores, "samples": [dict(zip(columns, row, strict=True)) for row in rows]}
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with (self.run_dir / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for logger in trainer.loggers:
            log_validation(logger, step, scores, columns, rows)


def validate(
    trainer: L.Trainer,
    module: LitFinetuner,
    benchmark: Benchmark,
    samples: Sequence[Sample],
    methods: Sequence[Method],
    batch_size: int = 16,
) -> list[Prediction]:
    """Answers of all processes, each sample and method once, in the order of samples; the model trains on afterwards.

    Raises:
        UserError: a sample cannot be answered: here a failure is no record, for other processes wait.
    """
    module.detach()
    modes = {part: part.training for part in module.vlm.modules()}
    module.vlm.eval()
    lockstep = isinstance(trainer.strategy, ModelParallelStrategy)
    evaluator = LitEvaluator(
        module.vlm, module.processor, benchmark, methods, on_error="raise", lockstep=lockstep
    )  # fmt: skip
    try:
        with _precision(trainer):
            for batch in _shard(trainer, samples, batch_size, lockstep):
                evaluator.test_step(Batch([open_sample(samples[place]) for place in batch]), 0)
    finally:
        for part, mode in modes.items():
            part.training = mode
    return _gathered(evaluator.predictions, samples)


def _forget_after(path: Path, step: int) -> None:
    """Take out what a killed or overwritten attempt validated after the step that training goes on from."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    known = []
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):  # a line that a kill cut off
            known += [line] if json.loads(line)["step"] <= step else []
    write_text(path, "".join(f"{line}\n" for line in known))


def _precision(trainer: L.Trainer) -> AbstractContextManager[Any]:
    return trainer.precision_plugin.val_step_context()


def _shard(trainer: L.Trainer, samples: Sequence[Sample], batch_size: int, lockstep: bool) -> BatchPlan:
    share = equal_shard if lockstep else shard
    return share(plan_batches(samples, batch_size), trainer.global_rank, trainer.world_size)


def _gathered(own: Sequence[Prediction], samples: Sequence[Sample]) -> list[Prediction]:
    parts: list[Any] = [[asdict(entry) for entry in own]]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, [asdict(entry) for entry in own])
    found = {(row["sample_id"], row["method"]): Prediction(**row) for part in parts for row in part}
    order = {sample.sample_id: place for place, sample in enumerate(samples)}
    return sorted(found.values(), key=lambda entry: (order[entry.sample_id], entry.method))


def _mean(found: Sequence[Prediction], method: Method) -> float | None:
    return accuracy(entry.score for entry in found if entry.method == method.name).accuracy
