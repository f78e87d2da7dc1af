"""``python -m tests.engine.run_finetune [dies=PLACE:SIGNAL[:RANK]] KEY=VALUE ...``: ``train.py`` that ends itself.

With ``RANK`` only that process of several does, and not again when torchrun has started it anew. ``PLACE`` is a
micro-batch (0-based; between its forward and its backward), ``writing-N`` (half of checkpoint N, 1-based, is on disk
under its final name), or ``written-N`` (all of it, but nothing points to it yet).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L

from lit_simignore import cli
from lit_simignore.engine import finetune, finetune_checkpoints, finetune_launch
from lit_simignore.engine.resume import was_restarted


class Dies(L.Callback):
    """Sends the own process a signal between forward and backward."""

    def __init__(self, micro_batch: int, number: int) -> None:
        self.micro_batch, self.number, self.now = micro_batch, number, -1

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.now = batch_idx

    def on_before_backward(self, trainer: L.Trainer, *args: Any) -> None:
        if self.now == self.micro_batch:
            os.kill(os.getpid(), self.number)


def dying_in(micro_batch: int, number: int) -> Callable[..., L.Trainer]:
    """What builds the trainer, with a callback more."""
    build = finetune_launch.build_training

    def built(settings: Any, folder: Any, callbacks: Sequence[L.Callback], **options: Any) -> L.Trainer:
        return build(settings, folder, [*callbacks, Dies(micro_batch, number)], **options)

    return built


def dying_before_pointer(place: str, count: int, number: int) -> Callable[..., None]:
    """What writes the pointer to the newest checkpoint, ended before that; ``writing`` cuts the checkpoint in half."""
    write, seen = finetune_checkpoints.write_json, [0]

    def written(path: Path, value: Any) -> None:
        if path.name == finetune_checkpoints.POINTER:
            seen[0] += 1
            if seen[0] == count:
                newest = path.with_name(value["file"])
                if place == "writing":
                    os.truncate(newest, newest.stat().st_size // 2)
                os.kill(os.getpid(), number)
        write(path, value)

    return written


def arrange(said: str) -> None:
    """Have this process end as ``PLACE:SIGNAL`` says, if it is the one that is meant."""
    place, number, *rank = said.split(":")
    mine = os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"
    if rank and (rank[0] != mine or was_restarted()):
        return
    if place.isdecimal():
        finetune.build_training = dying_in(int(place), int(number))
    else:
        name, count = place.split("-")
        finetune_checkpoints.write_json = dying_before_pointer(name, int(count), int(number))


def main(argv: list[str]) -> int:
    for said in (argument for argument in argv if argument.startswith("dies=")):
        arrange(said.removeprefix("dies="))
    return cli.train_main([argument for argument in argv if not argument.startswith("dies=")])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
