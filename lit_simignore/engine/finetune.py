"""One call from a model, conversations and a benchmark to a fine-tuned adapter and what it is worth.

The model answers the benchmark before and after, dense and pruned, with the project's own evaluator; the change is
paired over the same samples.
"""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger
from torch import nn

from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.data.conversations import Conversation
from lit_simignore.data.conversations_batch import ConversationCollator
from lit_simignore.data.conversations_length import keep_fitting
from lit_simignore.data.conversations_module import ConversationDataModule
from lit_simignore.engine.evaluate import check_fits, evaluate
from lit_simignore.engine.finetune_averaging import AveragedWeights
from lit_simignore.engine.finetune_checkpoints import TrainingCheckpoints, claim_folder, last_checkpoint
from lit_simignore.engine.finetune_export import ADAPTER, MODEL, export, load_trained, recorded
from lit_simignore.engine.finetune_launch import build_training
from lit_simignore.engine.finetune_schedule import PruneSchedule
from lit_simignore.engine.finetune_tuning import Tuning, check_exact, projectors
from lit_simignore.engine.finetune_validation import Validation
from lit_simignore.engine.finetuner import LitFinetuner, Optimization
from lit_simignore.engine.fingerprint import method_identity, weights_digest
from lit_simignore.engine.launch import quiet
from lit_simignore.engine.lockstep import FSDP2, is_lockstep
from lit_simignore.engine.orphans import announced_as_parent, end_with_parent
from lit_simignore.engine.resume import was_restarted
from lit_simignore.engine.settings import EvaluationSettings
from lit_simignore.engine.signals import exit_on_sigterm
from lit_simignore.surgery.load import load as load_model
from lit_simignore.tracking import log_outcome
from lit_simignore.types import Method, UserError

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """How a training is run. All but the last group can change the trained weights.

    Args:
        steps: optimiser steps.
        batch_size: conversations per step, over all processes.
        micro_batch_size: conversations that a process computes at a time; ``None`` shares a step out evenly.
        clip: largest norm of the gradient; ``None`` does not clip.
        ema: share that a late step keeps of an average of the weights, which is validated and written in their place;
            ``None`` averages nothing.
        padding_side: ``left`` or ``right``.
        max_tokens: of a conversation at most, before pruning; ``None`` takes what tokenizer and model admit.
        too_long: ``raise`` names a longer conversation before the first step, ``drop`` leaves all of them out.
        seed: of adapters, order and dropout.
        tuning: which weights are trained.
        optimization: how they move.
        schedule: how much is pruned at which step.

        checkpoint_every: optimiser steps between two checkpoints.
        validate_every: optimiser steps between two validations; 0 leaves them out.
        validation_samples: samples of the held-out slice.
        patience: end after so many validations without a better accuracy, and keep the weights of the best one;
            ``None`` trains to the end and keeps the last.
        whole_model: write a whole model instead of what was trained alone.
        run: devices, strategy, precision, and how the evaluations are run.
    """

    steps: int = 300
    batch_size: int = 16
    micro_batch_size: int | None = None
    clip: float | None = 1.0
    ema: float | None = None
    padding_side: str = "left"
    max_tokens: int | None = None
    too_long: str = "raise"
    seed: int = 0
    tuning: Tuning = field(default_factory=Tuning)
    optimization: Optimization = field(default_factory=Optimization)
    schedule: PruneSchedule = field(default_factory=PruneSchedule)

    checkpoint_every: int = 50
    validate_every: int = 0
    validation_samples: int = 64
    patience: int | None = None
    whole_model: bool = False
    run: EvaluationSettings = field(default_factory=EvaluationSettings)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every", "validation_samples"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.patience is not None and not self.validate_every:
            raise UserError("patience counts validations; set validation.every as well")
        if "stage_3" in str(self.run.strategy):
            raise UserError(
                f"trainer.strategy={self.run.strategy} leaves no process with whole weights to write; use fsdp2, or "
                "deepspeed_stage_2"
            )
        if self.ema is not None and str(self.run.strategy).startswith((FSDP2, "deepspeed")):
            raise UserError(
                f"training.ema needs whole weights in every process; trainer.strategy={self.run.strategy} splits them: "
                "use ddp, or leave training.ema out"
            )
        if self.tuning.kind == "lora" and self.run.precision in ("bf16-true", "16-true"):
            raise UserError(
                f"trainer.precision={self.run.precision} would round the adapters at every step; use "
                f"{self.run.precision.replace('true', 'mixed')}, which keeps them in float32"
            )


@dataclass(frozen=True)
class Evaluations:
    """What is answered before and after.

    Args:
        benchmark: the held-out test.
        methods: as they are evaluated; the untouched model first.
        before: whether to answer before the training.
        after: whether to answer after it.
        validation: where the slice for validation comes from; ``None`` takes the benchmark itself with other scenes.
    """

    benchmark: Benchmark
    methods: tuple[Method, ...]
    before: bool = True
    after: bool = True
    validation: Benchmark | None = None


def finetune(
    load: Callable[[], tuple[nn.Module, Any]],
    conversations: Sequence[Conversation],
    pruning: Method,
    run_dir: Path,
    settings: FinetuneSettings | None = None,
    evaluations: Evaluations | None = None,
    *,
    data_identity: Mapping[str, Any] | None = None,
    logger: Callable[[], Logger | None] | None = None,
) -> dict[str, Any]:
    """Fine-tune with pruning switched on.

    Calling it again with the same arguments continues: a finished training is not repeated, an interrupted one goes on
    from its last checkpoint with the same result as if nothing had happened, with any number of processes.

    Args:
        load: gives the model and its processor, each time anew.
        conversations: what is learned from; all checked already.
        pruning: what prunes while training; without parts all visual tokens stay.
        run_dir: the run folder.
        settings: how to train.
        evaluations: what is answered before and after; ``None`` answers nothing.
        data_identity: plain data that changes with the conversations; another identity is another training.
        logger: makes what losses and validations go to, beside the run folder; called once everything is checked.

    Returns:
        ``{"folder": ..., "before": summary, "after": summary, "dropped": count, "step": ...}``; summaries are those of
        :func:`~lit_simignore.engine.evaluate.evaluate`, ``None`` where nothing was asked; ``dropped`` conversations
        were too long; ``step`` and what follows is what :func:`~lit_simignore.engine.finetune_export.recorded` says.

    Raises:
        UserError: the folder holds another training, or something does not fit; before anything is written.
        SystemExit: SIGTERM came (status 143).
    """
    with exit_on_sigterm(), quiet():
        end_with_parent()
        work = _Finetuning(load, conversations, pruning, Path(run_dir), settings or FinetuneSettings(), evaluations)
        return work.run(dict(data_identity or {}), logger)


class _Finetuning:
    """One training from start to end."""

    def __init__(
        self, load: Callable[[], tuple[nn.Module, Any]], conversations: Sequence[Conversation], pruning: Method,
        run_dir: Path, settings: FinetuneSettings, evaluations: Evaluations | None,
    ) -> None:  # fmt: skip
        self.load, self.conversations, self.pruning = load, conversations, pruning
        self.run_dir, self.settings, self.evaluations = run_dir, settings, evaluations
        whole = settings.whole_model or settings.tuning.kind == "full"
        self.folder = run_dir / (MODEL if whole else ADAPTER)

    def run(self, data_identity: dict[str, Any], logger: Callable[[], Logger | None] | None) -> dict[str, Any]:
        model, processor = self.load()
        self._check(model, processor)
        name = self.settings.run.model_name or type(model).__name__
        trainer = self._trainer()
        dropped = self._drop_too_long(model, processor, trainer.is_global_zero)
        self._collator(processor)([self.conversations[0]])  # what would only fail in the first step fails here
        overwrite = self.settings.run.overwrite and not was_restarted()
        # Said before anything is thrown away, so that all processes agree.
        done = self.folder.is_dir() and not overwrite
        claim_folder(self.run_dir, self._identity(model, name, data_identity), overwrite, trainer.is_global_zero)
        before, made = self._evaluate(model, processor, BEFORE), None
        if not done:
            made = logger() if logger is not None else None
            trainer.loggers = [] if made is None else [made]
            self._train(trainer, model, processor, name)
        del model
        after = None
        if self.evaluations is not None and self.evaluations.after:
            trained, processor = self._trained()
            after = self._evaluate(trained, processor, AFTER)
        if made is not None and trainer.is_global_zero:
            log_outcome(made, trainer.global_step, {BEFORE: before, AFTER: after})
        return {"folder": str(self.folder), BEFORE: before, AFTER: after, "dropped": dropped, **recorded(self.folder)}

    def _drop_too_long(self, model: Any, processor: Any, say: bool) -> int:
        """Refuse or leave out what is too long; returns how many. What is only drawn when asked for is short."""
        if not isinstance(self.conversations, list | tuple):
            return 0
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        limit = self.settings.max_tokens or min(int(processor.tokenizer.model_max_length), positions or sys.maxsize)
        found = keep_fitting(self.conversations, processor, limit, self.settings.too_long)
        if found.dropped and say:
            all_of_them = len(self.conversations)
            print(f"left out {found.dropped} of {all_of_them} conversations: {found.first}", file=sys.stderr)
        self.conversations = found.conversations
        return found.dropped

    def _check(self, model: nn.Module, processor: Any) -> None:
        """What does not fit the model is said before anything is written."""
        for method in (self.pruning, *(self.evaluations.methods if self.evaluations else ())):
            check_fits(model, method)
        self.settings.schedule.check(self.pruning.parts)
        tuning = self.settings.tuning
        if tuning.kind != "lora" or tuning.projector:
            for _, part in projectors(model):
                check_exact(next(part.parameters()).dtype, self.settings.run.precision)

    def _identity(self, model: nn.Module, name: str, data_identity: dict[str, Any]) -> dict[str, Any]:
        wish = asdict(self.settings)
        others = {"run", "checkpoint_every", "validate_every", "validation_samples", "micro_batch_size"}
        if self.settings.patience is not None:  # then validation decides which weights are kept
            others -= {"validate_every", "validation_samples"}
        recipe = {key: value for key, value in wish.items() if key not in others}
        return {
            "model": {"name": name, "weights": weights_digest(model)},
            "data": {"conversations": len(self.conversations), **data_identity},
            "pruning": method_identity(self.pruning),
            "recipe": recipe,
            "precision": self.settings.run.precision,
        }

    # -- training

    def _collator(self, processor: Any) -> ConversationCollator:
        return ConversationCollator(processor, self.settings.padding_side, self.settings.max_tokens)

    def _trainer(self) -> L.Trainer:
        wish = self.settings
        self.averaged = None if wish.ema is None else AveragedWeights(wish.ema)
        self.validation = self._validation()
        # In this order: what is validated is the average with the step that was taken.
        asked = (TrainingCheckpoints(self.run_dir, wish.checkpoint_every), self.averaged, self.validation)
        callbacks = [callback for callback in asked if callback is not None]
        trainer = build_training(wish.run, self.run_dir, callbacks, max_steps=wish.steps, clip=wish.clip)
        share, odd = divmod(wish.batch_size, trainer.world_size)
        if odd:
            raise UserError(f"batch_size ({wish.batch_size}) must be a multiple of the {trainer.world_size} processes")
        self.micro = wish.micro_batch_size or share
        return trainer

    def _validation(self) -> Validation | None:
        wish, asked = self.settings, self.evaluations
        if not wish.validate_every or asked is None:
            return None
        benchmark = asked.validation or asked.benchmark
        return Validation(
            benchmark, benchmark.load()[: wish.validation_samples], asked.methods, every=wish.validate_every,
            run_dir=self.run_dir, batch_size=wish.run.batch_size if isinstance(wish.run.batch_size, int) else 16,
            patience=wish.patience, averaged=self.averaged,
        )  # fmt: skip

    def _choose_weights(self, trainer: L.Trainer, module: LitFinetuner) -> dict[str, Any]:
        """Give the module the weights that are written; returns what they are, for the record."""
        facts: dict[str, Any] = {"step": trainer.global_step, "ema": self.settings.ema}
        best = self.validation
        if best is not None and best.put_best(module):
            return {**facts, "step": best.best_step, "last_step": trainer.global_step, "validation": best.best}
        if self.averaged is not None:
            self.averaged.put(module)
        return facts

    def _train(self, trainer: L.Trainer, model: nn.Module, processor: Any, name: str) -> None:
        wish = self.settings
        data = ConversationDataModule(
            self.conversations, self._collator(processor), wish.batch_size, self.micro, wish.run.num_workers, wish.seed
        )
        trainer.accumulate_grad_batches = data.plan.accumulate(trainer.world_size)
        L.seed_everything(wish.seed, verbose=False)
        module = LitFinetuner(
            model, processor, *self.pruning.parts,
            tuning=wish.tuning, optimization=wish.optimization, schedule=wish.schedule, seed=wish.seed,
        )  # fmt: skip
        try:
            with announced_as_parent(trainer.strategy.launcher is not None):
                trainer.fit(module, data, ckpt_path=last_checkpoint(self.run_dir), weights_only=True)
        except BaseException:
            launcher = trainer.strategy.launcher
            if launcher is not None and trainer.is_global_zero:
                launcher.kill(signal.SIGTERM)
            raise
        finally:
            module.detach()
        export(
            module, self.folder, name=self.pruning.name, base=name, write=trainer.is_global_zero,
            whole=wish.whole_model, facts=self._choose_weights(trainer, module),
        )  # fmt: skip
        trainer.strategy.barrier("exported")
        if trainer.is_global_zero:
            shutil.rmtree(self.run_dir / "checkpoints", ignore_errors=True)

    def _trained(self) -> tuple[nn.Module, Any]:
        """The model as anybody gets it from what was written: what is evaluated is what can be used."""
        if self.folder.name == MODEL:
            return load_model(self.folder)
        model, processor = self.load()
        load_trained(model, str(self.folder))
        return model.eval(), processor

    # -- evaluation

    def _evaluate(self, model: nn.Module, processor: Any, when: str) -> dict[str, Any] | None:
        wish = self.evaluations
        if wish is None or not (wish.before if when == BEFORE else wish.after):
            return None
        settings = replace(self.settings.run, efficiency=None)
        if is_lockstep(settings):
            settings = replace(settings, strategy="auto")  # the trained model is whole again
        return evaluate(model, processor, wish.benchmark, wish.methods, self.run_dir / when, settings)
