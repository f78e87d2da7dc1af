"""Checkpoints of a training: what a killed run goes on from, and nothing that another run left behind.

``checkpoints/last.json`` names the newest whole checkpoint. It is replaced in one step after that checkpoint is
written, so whatever is killed finds the old one or the new one. Files that it does not name are never loaded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from lit_simignore.engine.atomic import write_json
from lit_simignore.engine.fingerprint import differences
from lit_simignore.types import UserError

FOLDER = "checkpoints"
POINTER = "last.json"
MANIFEST = "training.json"
_SHOWN = 4


class TrainingCheckpoints(Checkpoint):
    """Saves every so many optimiser steps, and at the end; keeps the last one.

    A subclass of Lightning's, so that it comes after every other callback and finds their state as it will be.

    Args:
        run_dir: the run folder.
        every: optimiser steps between two checkpoints.
    """

    def __init__(self, run_dir: Path, every: int) -> None:
        self.folder, self.every = run_dir / FOLDER, every
        self._saved = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What was loaded needs no second copy."""
        self._saved = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Save when a step that is due has been taken."""
        step = trainer.global_step
        if step != self._saved and (step % self.every == 0 or step == trainer.max_steps):
            self._save(trainer, step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save what early stopping ended between two checkpoints."""
        if trainer.global_step != self._saved:
            self._save(trainer, trainer.global_step)

    def _save(self, trainer: L.Trainer, step: int) -> None:
        path = self.folder / f"step-{step:08d}.ckpt"
        trainer.save_checkpoint(path, weights_only=False)  # what Lightning would choose, with a word about it
        self._saved = step
        if trainer.is_global_zero:
            write_json(self.folder / POINTER, {"file": path.name, "step": step})
            for old in self.folder.glob("step-*.ckpt"):
                if old.name != path.name:
                    _remove(old)


def last_checkpoint(run_dir: Path) -> Path | None:
    """The checkpoint to go on from, ``None`` for a fresh start.

    Raises:
        UserError: the pointer is damaged or names a file that is not there; or Lightning's automatic checkpoint of
            another job lies in the folder, which it would load without being asked.
    """
    folder = run_dir / FOLDER
    strangers = sorted(folder.glob("hpc_ckpt_*")) if folder.is_dir() else []
    if strangers:
        raise UserError(f"{strangers[0]} was left by a requeued job and would be loaded instead; remove it")
    try:
        named = json.loads((folder / POINTER).read_text(encoding="utf-8"))
        path = folder / Path(str(named["file"])).name
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {folder / POINTER} ({type(error).__name__}); pass overwrite=true") from error
    if not path.exists():
        raise UserError(f"{folder / POINTER} names {path.name}, which is not there; pass overwrite=true to start anew")
    return path


def claim_folder(run_dir: Path, identity: Mapping[str, Any], overwrite: bool, write: bool) -> None:
    """Make sure that ``run_dir`` holds this training or none.

    Args:
        run_dir: the run folder.
        identity: plain data on which the trained weights depend.
        overwrite: throw away what the folder holds.
        write: whether this process is the one that writes; the others only check.

    Raises:
        UserError: it holds another training; names what differs.
    """
    path = run_dir / MANIFEST
    if overwrite and write:
        for name in (FOLDER, "adapter", "model", "before", "after"):
            _remove(run_dir / name)
        path.unlink(missing_ok=True)
    if path.exists() and not overwrite:
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path} ({type(error).__name__}); pass overwrite=true") from error
        found = differences(known, json.loads(json.dumps(identity)))
        if found:
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise UserError(
                f"{run_dir} holds another training: {'; '.join(found[:_SHOWN])}{more}. Pass overwrite=true or another "
                "run.name"
            )
    elif write:
        if last_checkpoint(run_dir) is not None:
            raise UserError(f"{run_dir} holds a checkpoint without {MANIFEST}, so nobody knows what made it; "
                            "pass overwrite=true or another run.name")  # fmt: skip
        write_json(path, identity)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
