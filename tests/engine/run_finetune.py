"""``python -m tests.engine.run_finetune [dies=STEP:SIGNAL] KEY=VALUE ...``: ``train.py`` that kills itself in a step."""

from __future__ import annotations

import os
import sys
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


def main(argv: list[str]) -> int:
    build = finetune_launch.build_training
    for said in (argument for argument in argv if argument.startswith("dies=")):
        step, number = map(int, said.removeprefix("dies=").split(":"))
        finetune.build_training = lambda settings, folder, callbacks, **options: build(
            settings, folder, [*callbacks, Dies(step, number)], **options
        )
    return cli.train_main([argument for argument in argv if not argument.startswith("dies=")])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
