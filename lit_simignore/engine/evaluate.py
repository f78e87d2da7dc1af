"""One call from a model and a benchmark to a run folder: answers, summary, timings, pictures."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.data.datamodule import SampleDataModule
from lit_simignore.engine.atomic import write_json
from lit_simignore.engine.budgets import met_budgets
from lit_simignore.engine.efficiency import FACTS, measure_efficiency
from lit_simignore.engine.efficiency import TimingPlan as TimingPlan
from lit_simignore.engine.environment import hardware, versions
from lit_simignore.engine.evaluator import LitEvaluator, baseline_first
from lit_simignore.engine.fingerprint import Fingerprint, fingerprint
from lit_simignore.engine.launch import build_trainer, quiet
from lit_simignore.engine.lockstep import check_lockstep, check_written, is_lockstep
from lit_simignore.engine.memory import planned_batch_size
from lit_simignore.engine.orphans import announced_as_parent, end_with_parent
from lit_simignore.engine.progress import EvaluationBar
from lit_simignore.engine.replicas import check_placed, check_replicas
from lit_simignore.engine.resume import Resume, was_restarted
from lit_simignore.engine.settings import EvaluationSettings as EvaluationSettings
from lit_simignore.engine.signals import ExitOnSigterm, exit_on_sigterm
from lit_simignore.engine.store import EFFICIENCY, SUMMARY, PredictionStore
from lit_simignore.engine.summary import summarize
from lit_simignore.engine.thumbnails import write_thumbnails
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.spans import NO_ROLE, Spans
from lit_simignore.types import Method, Sample, UserError


def evaluate(
    model: nn.Module,
    processor: Any,
    benchmark: Benchmark,
    methods: Sequence[Method],
    run_dir: Path,
    settings: EvaluationSettings | None = None,
    observers: Sequence[L.Callback] = (),
) -> dict[str, Any]:
    """Evaluate methods on one model and one benchmark, all on the same samples.

    Calling it again with the same arguments continues: answered samples are kept, failed ones are tried again, new
    methods are added. It may be killed at any moment, and go on with another number of processes.

    Args:
        model: a Hugging Face vision-language model of a known family.
        processor: its processor.
        benchmark: the questions.
        methods: at least one, with names of their own.
        run_dir: the run folder; made if it is not there.
        settings: how to run it.
        observers: callbacks of the loop that change nothing, such as a :class:`~lit_simignore.engine.stream.Stream`.

    Returns:
        The contents of ``summary.json``, in every process. An interrupted run leaves one with ``complete: false``.

    Raises:
        UserError: the folder holds another run; a method does not fit the model; the disk is full; or torchrun
            started another number of processes than the settings make.
        SystemExit: SIGTERM came (status 143).
        KeyboardInterrupt: Ctrl-C.
    """
    with exit_on_sigterm(), quiet():
        end_with_parent()
        settings = settings or EvaluationSettings()
        return _Evaluation(model, processor, benchmark, methods, Path(run_dir), settings, observers).run()


@dataclass(slots=True)
class _Job:
    """What :class:`_Evaluation` works on; everything is known before the first answer.

    ``matched_on`` describes the prompt with which budgets were turned into settings.
    """

    samples: Sequence[Sample]
    methods: tuple[Method, ...]
    fingerprint: Fingerprint
    max_new_tokens: int
    matched_on: dict[str, Any] | None = None


class _Evaluation:
    """One evaluation from start to end."""

    def __init__(
        self, model: nn.Module, processor: Any, benchmark: Benchmark, methods: Sequence[Method], run_dir: Path,
        settings: EvaluationSettings, observers: Sequence[L.Callback] = (),
    ) -> None:  # fmt: skip
        self.observers = observers
        self.model, self.processor, self.benchmark = model, processor, benchmark
        self.run_dir, self.settings = run_dir, settings
        check_lockstep(settings)
        check_replicas(settings)
        check_placed(model, settings)
        self.store = PredictionStore(run_dir)
        self.model_name = _name_of(model, settings)
        self.job = self._job(baseline_first(methods))

    def _job(self, methods: tuple[Method, ...]) -> _Job:
        benchmark, settings = self.benchmark, self.settings
        tokens = benchmark.max_new_tokens if settings.max_new_tokens is None else settings.max_new_tokens
        samples = benchmark.load()
        if is_lockstep(settings):
            check_written(benchmark, samples)
        methods, matched_on = met_budgets(methods, self.model, self.processor, samples)
        for method in methods:
            check_fits(self.model, method)
        identity = fingerprint(
            self.model,
            self.processor,
            benchmark,
            methods,
            model_name=self.model_name,
            batch_size=planned_batch_size(settings.batch_size),
            max_new_tokens=tokens,
            precision=settings.precision,
            share_images=settings.share_images,
        )
        return _Job(samples, methods, identity, tokens, matched_on)

    def run(self) -> dict[str, Any]:
        """Answer, then measure and sum up in the first process; every process gets the summary."""
        resume = Resume(self.store, self.job.fingerprint, self.job.samples, self.settings.overwrite)
        trainer = build_trainer(self.settings, self.run_dir, self._callbacks(resume))
        if trainer.is_global_zero and not (self.settings.overwrite and not was_restarted()):
            # Before any process is started: an error in a started one comes back as a traceback.
            self.store.check(self.job.fingerprint)
        self._answer(trainer, resume)
        trainer.strategy.barrier("answered")
        summary = self._finish(trainer) if trainer.is_global_zero else {}
        return trainer.strategy.broadcast(summary, src=0)

    def _callbacks(self, resume: Resume) -> list[L.Callback]:
        return [resume, ExitOnSigterm(), *self.observers, *([EvaluationBar()] if self.settings.progress else [])]

    def _answer(self, trainer: L.Trainer, resume: Resume) -> None:
        """The test loop; whatever ends it early, what is there is summed up before it goes on upwards."""
        job, settings = self.job, self.settings
        module = LitEvaluator(
            self.model,
            self.processor,
            self.benchmark,
            job.methods,
            max_new_tokens=job.max_new_tokens,
            on_error=settings.on_error,
            detailed=[sample.sample_id for sample in self._shown()],
            lockstep=is_lockstep(settings),
            share_images=settings.share_images,
        )
        data = SampleDataModule(
            job.samples, planned_batch_size(settings.batch_size), settings.num_workers, lockstep=is_lockstep(settings)
        )
        try:
            with announced_as_parent(trainer.strategy.launcher is not None):
                trainer.test(module, data, verbose=False)
        except BaseException as error:
            self._stop(trainer)
            # Lightning turns a Ctrl-C into an exit, which would end a notebook's cell without a word.
            if isinstance(error, SystemExit) and isinstance(resume.exception, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise

    def _shown(self) -> Sequence[Sample]:
        return self.job.samples[: max(self.settings.report_samples, 0)]

    def _stop(self, trainer: L.Trainer) -> None:
        """After an interruption: end the processes that were started from here, and leave a partial summary."""
        launcher = trainer.strategy.launcher
        if launcher is not None and trainer.is_global_zero:
            launcher.kill(signal.SIGTERM)
        if not trainer.is_global_zero:
            return
        try:
            self.store.check(self.job.fingerprint)
            if self.store.manifest() is not None:
                self._write_summary(trainer, self._known_efficiency())
        except UserError as error:
            # The interruption itself is what the caller has to hear about.
            print(f"no partial summary: {error}", file=sys.stderr)

    # -- after the answers, in the first process only

    def _finish(self, trainer: L.Trainer) -> dict[str, Any]:
        efficiency = self._efficiency(trainer)
        if self._shown():
            write_thumbnails(self.run_dir, self._shown(), self.store.read(), self.processor)
        return self._write_summary(trainer, efficiency)

    def _write_summary(self, trainer: L.Trainer, efficiency: dict[str, Any] | None) -> dict[str, Any]:
        summary = summarize(
            self.store.read(),
            self.job.samples,
            self.benchmark,
            self.job.methods,
            about=self._about(trainer) | _timing(efficiency),
            efficiency=None if efficiency is None else efficiency["methods"],
            seed=self.settings.seed,
        )
        write_json(self.run_dir / SUMMARY, summary)
        return summary

    def _about(self, trainer: L.Trainer) -> dict[str, Any]:
        manifest = self.store.manifest() or {}
        return {
            "name": self.run_dir.name,
            "model": self.model_name,
            "benchmark": self.settings.benchmark_name or type(self.benchmark).__name__,
            "protocol": self.benchmark.protocol,
            "headline": list(self.benchmark.headline),
            "seed": self.settings.seed,
            "created": manifest.get("created", ""),
            "command": self.settings.command,
            "versions": versions(),
            "hardware": hardware(trainer.strategy.root_device, trainer.world_size),
            **({} if self.job.matched_on is None else {"budgets_matched_on": self.job.matched_on}),
        }

    def _efficiency(self, trainer: L.Trainer) -> dict[str, Any] | None:
        """Measure, unless exactly this has been measured in this folder before."""
        plan = self.settings.efficiency
        if plan is None or plan.samples < 1:
            return self._known_efficiency()
        if is_lockstep(self.settings):
            print("not timed: one process alone cannot run a model that is shared out", file=sys.stderr)
            return self._known_efficiency()
        question = self._question(trainer, plan)
        known = self._known_efficiency()
        if known is not None and known.get("question") == question:
            return known
        if not hasattr(self.model, "hf_device_map") and not getattr(self.model, "is_quantized", False):
            self.model.to(trainer.strategy.root_device)  # Lightning takes it off the device after a test
        found = measure_efficiency(
            self.model.eval(), self.processor, self.job.samples, self.job.methods, plan, progress=self.settings.progress
        )
        found["question"] = question
        write_json(self.run_dir / EFFICIENCY, found)
        return found

    def _question(self, trainer: L.Trainer, plan: TimingPlan) -> dict[str, Any]:
        """What a measurement depends on, to know one that is still good."""
        machine = hardware(trainer.strategy.root_device)
        return {"plan": asdict(plan), "methods": dict(self.job.fingerprint.methods), "hardware": machine}

    def _known_efficiency(self) -> dict[str, Any] | None:
        """What is in ``efficiency.json``; a broken file is measured anew."""
        try:
            found = json.loads((self.run_dir / EFFICIENCY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and isinstance(found.get("methods"), dict) else None


def _name_of(model: nn.Module, settings: EvaluationSettings) -> str:
    """As the user calls it, else what the checkpoint was loaded as, else its class, which sharding will change."""
    loaded = Path(getattr(model, "name_or_path", "") or "").name
    return settings.model_name or loaded or type(model).__name__


def _timing(efficiency: dict[str, Any] | None) -> dict[str, Any]:
    """How cost was measured, for the ``run`` section."""
    known = {name: efficiency[name] for name in FACTS if name in efficiency} if efficiency else {}
    return {"timing": known} if known else {}


def check_fits(model: nn.Module, method: Method) -> None:
    """Refuse a method that this model cannot have, before hours are spent on the others.

    Raises:
        UserError: what the method needs and the model's family does not offer.
    """
    blank = Spans(torch.zeros(1, 1, dtype=torch.long), torch.full((1, 1), NO_ROLE, dtype=torch.int8), ("",))
    with attach(model, *method.parts, spans=blank):
        return
