"""``python -m tests.engine.run_finetune [dies=STEP:SIGNAL] KEY=VALUE ...``: ``train.py`` that ends itself in a step."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L

from lit_simignore import cli
from lit_simignore.engine import finetune, finetune_launch


class Dies(L.Callback):
    """Sends the own process a signal between forward and backward."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def on_before_backward(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


def dying_in(step: int, number: int) -> Callable[..., L.Trainer]:
    """What builds the trainer, with a callback more."""
    build = finetune_launch.build_training

    def built(settings: Any, folder: Any, callbacks: Sequence[L.Callback], **options: Any) -> L.Trainer:
        return build(settings, folder, [*callbacks, Dies(step, number)], **options)

    return built


def main(argv: list[str]) -> int:
    for said in (argument for argument in argv if argument.startswith("dies=")):
        finetune.build_training = dying_in(*map(int, said.removeprefix("dies=").split(":")))
    return cli.train_main([argument for argument in argv if not argument.startswith("dies=")])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
