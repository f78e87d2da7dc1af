"""How a job is started: this project's own command, as a list of arguments, with what its machine gives it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lit_simignore.sweep.definition import PROGRAMS
from lit_simignore.types import UserError

_CHECKOUT = Path(__file__).resolve().parents[2]
_INSTALLED = {"eval.py": "lit-simignore-eval", "train.py": "lit-simignore-train"}


def program_command(program: str) -> list[str]:
    """What runs ``eval.py`` or ``train.py`` of this project: the checkout's file, or the installed command.

    Never a file of that name in the current folder, which could be anybody's.

    Raises:
        UserError: neither is there.
    """
    assert program in PROGRAMS
    for path in (_CHECKOUT / program, Path(sys.executable).parent / _INSTALLED[program]):
        if path.is_file():
            return [sys.executable, str(path)]
    raise UserError(f"found neither {program} beside the package nor {_INSTALLED[program]}; install the package again")


def visible_devices() -> list[str]:
    """The GPUs that jobs can be given, as CUDA_VISIBLE_DEVICES names them; empty without any."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [word.strip() for word in given.split(",") if word.strip() not in ("", "-1")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def shares(devices: Sequence[str], workers: int, per_job: int) -> list[list[str]]:
    """Which devices each worker's jobs see: ``per_job`` each, none where there are none.

    Raises:
        UserError: there are too few.
    """
    if devices and workers * per_job > len(devices):
        raise UserError(
            f"{workers} workers with {per_job} GPU(s) each need {workers * per_job} GPUs, here are {len(devices)}; "
            f"give --workers {max(1, len(devices) // per_job)}"
        )
    return [list(devices[worker * per_job : (worker + 1) * per_job]) for worker in range(workers)]


def environment(devices: Sequence[str], workers: int) -> Mapping[str, str]:
    """The environment of a job: its devices, and on CPUs its share of the cores unless somebody has said."""
    found = dict(os.environ)
    if devices:
        found["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    else:
        found.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    return found
