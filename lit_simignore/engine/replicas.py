"""Models larger than one GPU: every process spreads one over several GPUs of its own (accelerate's dispatch).

Process ``r`` of a machine has the GPUs ``r * size`` to ``(r + 1) * size - 1``. Samples are shared out over processes
as ever; nothing is gathered, so processes need not wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from lit_simignore.engine.settings import EvaluationSettings
from lit_simignore.types import UserError

_AUTO = ("auto", "-1", -1)
_HEADROOM = 0.85
"""Share of a GPU's free memory that weights may take; the rest is for the cache and activations."""


def replica_devices(place: int, size: int) -> list[int]:
    """GPUs of the process that is at ``place`` on its machine."""
    return list(range(place * size, (place + 1) * size))


def first_devices(count: int, size: int) -> list[int]:
    """The first GPU of each of ``count`` processes: where their inputs go, and what they talk to each other with."""
    return [replica_devices(place, size)[0] for place in range(count)]


def count_replicas(devices: int | str, size: int, available: int) -> int:
    """How many processes a machine has room for, or is asked for.

    Args:
        devices: processes, or ``auto`` for as many as fit.
        size: GPUs of each.
        available: GPUs of this machine.

    Raises:
        UserError: too few GPUs, or a list of them.
    """
    if isinstance(devices, str) and "," in devices:
        raise UserError(
            f"trainer.devices_per_replica={size} gives every process its own GPUs; expected a number of processes as "
            f"trainer.devices, got {devices!r}: choose GPUs with CUDA_VISIBLE_DEVICES"
        )
    count = max(1, available // size) if devices in _AUTO else int(devices)
    if count * size > available:
        raise UserError(
            f"trainer.devices={count} processes with trainer.devices_per_replica={size} need {count * size} GPUs; "
            f"this machine has {available}: lower one of them"
        )
    return count


def check_replicas(settings: EvaluationSettings, *, device_map: object = None, quantized: bool = False) -> None:
    """Refuse what does not go together with several GPUs per process, before a model is loaded.

    Args:
        settings: of the evaluation.
        device_map: one that was asked for besides.
        quantized: whether the weights are to be quantized.

    Raises:
        UserError: what was expected, what came, what to do.
    """
    size = settings.devices_per_replica
    if size < 1:
        raise UserError(f"trainer.devices_per_replica must be at least 1; got {size}")
    if size == 1:
        return
    if device_map is not None:
        raise UserError(
            f"trainer.devices_per_replica={size} makes the device map itself; expected model.device_map=null, got "
            f"{device_map}"
        )
    if quantized:
        raise UserError(
            f"trainer.devices_per_replica={size} is for whole weights; expected model.quantization=none: a quantized "
            "model is spread with model.device_map=auto and trainer.devices=1"
        )
    if settings.strategy not in ("auto", "ddp"):
        raise UserError(
            f"trainer.devices_per_replica={size} needs processes of their own; expected trainer.strategy=auto, got "
            f"{settings.strategy}"
        )
    if settings.accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        raise UserError(f"trainer.devices_per_replica={size} needs CUDA GPUs; this machine shows none to PyTorch")


def replica_options(settings: EvaluationSettings) -> dict[str, Any]:
    """What a model is loaded with in this process; empty where it has one device."""
    size = settings.devices_per_replica
    if size == 1:
        return {}
    devices = replica_devices(_place(), size)
    memory = {device: int(_HEADROOM * torch.cuda.mem_get_info(device)[0]) for device in devices}
    return {"device_map": "auto", "max_memory": memory}


def check_placed(model: Any, settings: EvaluationSettings) -> None:
    """Refuse a model part of which is not on the GPUs of its process.

    Raises:
        UserError: it did not fit, or was not spread.
    """
    placed: Mapping[str, Any] = getattr(model, "hf_device_map", {})
    if settings.devices_per_replica > 1 and not placed:
        raise UserError(
            f"trainer.devices_per_replica={settings.devices_per_replica} expects a model that is spread already; this "
            "one lies on one device: load it with device_map and max_memory, as the command does"
        )
    outside = sorted({str(place) for place in placed.values() if str(place) in ("cpu", "disk")})
    if settings.devices_per_replica > 1 and outside:
        raise UserError(
            f"the model does not fit on {settings.devices_per_replica} GPUs (part of it went to {outside[0]}); raise "
            "trainer.devices_per_replica"
        )


def _place() -> int:
    """This process's number on its machine, as whoever started it says."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
