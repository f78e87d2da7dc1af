"""The ``Trainer`` of a training: strategies, precision, and a way to stop that loses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import TQDMProgressBar

from lit_simignore.engine.finetune_checkpoints import FOLDER
from lit_simignore.engine.launch import check_world, cluster_of, strategy_of, world_of
from lit_simignore.engine.rendezvous import meet_anew
from lit_simignore.engine.settings import EvaluationSettings
from lit_simignore.engine.signals import ExitOnSigterm
from lit_simignore.types import UserError


class ExitTrainingOnSigterm(ExitOnSigterm):
    """The same while training: the last checkpoint is what the next run goes on from."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signal over."""
        self.on_test_start(trainer, pl_module)


class TrainingBar(TQDMProgressBar):
    """Optimiser steps of rank 0."""

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """There is one epoch without an end, whose number nobody needs to see."""
        self.train_progress_bar.reset(total=trainer.max_steps * trainer.accumulate_grad_batches)
        self.train_progress_bar.initial = trainer.global_step * trainer.accumulate_grad_batches
        self.train_progress_bar.set_description("Training")


def build_training(
    settings: EvaluationSettings,
    run_dir: Path,
    callbacks: Sequence[L.Callback],
    *,
    max_steps: int,
    clip: float | None,
) -> L.Trainer:
    """A trainer that takes ``max_steps`` steps; the caller sets ``accumulate_grad_batches`` and ``loggers``.

    Args:
        settings: devices, strategy (also ``fsdp2``, and ``deepspeed...`` where it is installed), precision.
        run_dir: the run folder.
        callbacks: in their order.
        max_steps: optimiser steps.
        clip: largest norm of the gradient; ``None`` does not clip.

    Raises:
        UserError: a strategy whose package is missing, or torchrun started another number of processes.
    """
    devices, num_nodes = world_of(settings)
    try:
        trainer = L.Trainer(
            accelerator=settings.accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=strategy_of(settings, devices, num_nodes),
            precision=settings.precision,  # type: ignore[arg-type]
            logger=False,
            callbacks=[ExitTrainingOnSigterm(), *callbacks, *([TrainingBar()] if settings.progress else [])],
            max_steps=max_steps,
            max_epochs=-1,
            gradient_clip_val=clip,
            log_every_n_steps=10,
            enable_model_summary=False,
            enable_progress_bar=settings.progress,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            # Where Lightning looks for checkpoints of requeued jobs without being asked: never the working folder.
            default_root_dir=run_dir / FOLDER,
            plugins=cluster_of(),
        )
    except UserError:
        raise
    except (MisconfigurationException, ModuleNotFoundError, ValueError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error
    check_world(trainer)
    meet_anew(timedelta(hours=settings.timeout_hours))
    return trainer
