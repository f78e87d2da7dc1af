"""The ``Trainer`` of an evaluation, and the check that as many processes run as were meant to."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy

from lit_simignore.engine.lockstep import is_lockstep, sharding_strategy
from lit_simignore.engine.rendezvous import meet_anew
from lit_simignore.engine.replicas import count_replicas, first_devices
from lit_simignore.engine.settings import EvaluationSettings
from lit_simignore.types import UserError

_START_METHODS = {"ddp": "popen", "ddp_spawn": "spawn", "ddp_fork": "fork", "ddp_notebook": "fork"}

_NOISE = (
    ".*does not have many workers.*",
    ".*Total length of .* across ranks is zero.*",
    ".*has zero length.*",
    ".*GPU available but not used.*",
    ".*LeafSpec.* is deprecated.*",
    ".*`srun` command is available.*",
    ".*gradient_checkpointing.* is deprecated.*",
)
"""Warnings about what is meant here (images opened in the loop, processes without work), or others have to mend."""


def build_trainer(settings: EvaluationSettings, run_dir: Path, callbacks: Sequence[L.Callback]) -> L.Trainer:
    """A trainer that only tests: no logger, no checkpoints, no sampler of its own.

    Raises:
        UserError: torchrun started another number of processes than the settings make.
    """
    devices, num_nodes = world_of(settings)
    trainer = L.Trainer(
        accelerator=settings.accelerator,
        devices=first_devices(int(devices), size) if (size := settings.devices_per_replica) > 1 else devices,
        num_nodes=num_nodes,
        strategy=strategy_of(settings, devices, num_nodes),
        precision=settings.precision,  # type: ignore[arg-type]
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=settings.progress,
        use_distributed_sampler=False,
        # On its requeue signal Lightning writes a checkpoint here, which a later job in the same folder would load.
        default_root_dir=run_dir,
        plugins=cluster_of(),
    )
    check_world(trainer)
    meet_anew(timedelta(hours=settings.timeout_hours))
    return trainer


def world_of(settings: EvaluationSettings) -> tuple[int | str, int]:
    """Devices and nodes; ``auto`` means what torchrun says, where torchrun says something."""
    devices, num_nodes = settings.devices, settings.num_nodes
    if isinstance(devices, str) and devices.strip().isdecimal():
        devices = int(devices)
    if devices == "auto" and "LOCAL_WORLD_SIZE" in os.environ:
        devices, num_nodes = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ.get("GROUP_WORLD_SIZE", num_nodes))
    if settings.devices_per_replica > 1:
        devices = count_replicas(devices, settings.devices_per_replica, torch.cuda.device_count())
    return devices, num_nodes


def strategy_of(settings: EvaluationSettings, devices: int | str, num_nodes: int) -> Any:
    """The strategy with a time limit that fits an evaluation, where it is fsdp2 or one of ddp's kinds."""
    name = settings.strategy
    if is_lockstep(settings):
        return sharding_strategy(settings, count_devices(devices, settings.accelerator) * num_nodes)
    if name == "auto" and (num_nodes > 1 or count_devices(devices, settings.accelerator) > 1):
        name = "ddp"
    if not isinstance(name, str) or name not in _START_METHODS:
        return name
    limit = timedelta(hours=settings.timeout_hours)
    return DDPStrategy(start_method=_START_METHODS[name], timeout=limit)  # type: ignore[arg-type]


def cluster_of() -> list[Any] | None:
    """SLURM's environment without Lightning's own requeueing, where SLURM and not torchrun started the processes.

    Under torchrun in a job of SLURM the ranks are torchrun's: SLURM knows of one task per machine only.
    """
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        return [SLURMEnvironment(auto_requeue=False)]
    return None


def count_devices(devices: int | str, accelerator: str) -> int:
    """How many devices of this machine are meant: ``2``, ``"0,3"``, or all there are."""
    if isinstance(devices, str) and "," in devices:
        return len([entry for entry in devices.split(",") if entry.strip()])
    if devices in ("auto", "-1", -1):
        return max(1, torch.cuda.device_count()) if accelerator in ("auto", "gpu", "cuda") else 1
    return int(devices)


def check_world(trainer: L.Trainer) -> None:
    """Refuse a trainer of another size than what was started.

    Raises:
        UserError: torchrun started another number of processes than the settings make.
    """
    started = int(os.environ.get("WORLD_SIZE", trainer.world_size))
    if started != trainer.world_size:
        raise UserError(
            f"{started} processes were started (WORLD_SIZE), but trainer.devices and trainer.num_nodes make "
            f"{trainer.world_size}, so each would answer everything; pass trainer.devices=auto, or start it "
            "without torchrun"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's banners and its warnings about what is meant here off the screen."""
    loggers = [logging.getLogger(f"lightning.{part}.utilities.rank_zero") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for pattern in _NOISE:
            warnings.filterwarnings("ignore", message=pattern)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
