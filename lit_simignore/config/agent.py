"""Jobs that W&B's agent starts: each gets a run folder of its own, and all of a sweep lie in one folder."""

from __future__ import annotations

import os

from lit_simignore.config.compose import slug


def agents_folder() -> str | None:
    """``SWEEP/RUN`` within ``run.dir`` for a process that ``wandb agent`` started, else ``None``.

    An evaluation's usual folder changes with model and data only. An agent's jobs share these and differ in their
    methods' fields, so that the second one would find another run in its folder.
    """
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    return f"{slug(sweep)}/{slug(run)}" if sweep and run else None
