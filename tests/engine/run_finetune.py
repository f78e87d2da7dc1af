"""``python -m tests.engine.run_finetune KEY=VALUE ...``: ``train.py`` that notes its losses and can die on purpose.

``dies=STEP:SIGNAL`` sends the process a signal within that optimiser step; ``talks=mixed`` trains on conversations some
of which have no picture.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L

from lit_simignore import cli, finetuning
from lit_simignore.data.conversations_shapes import ShapesConversations
from lit_simignore.engine import finetune, finetune_launch


class Watch(L.Callback):
    """Notes losses; sends the signal."""

    def __init__(self, dies: str) -> None:
        self.step, self.number = (int(part) for part in dies.split(":")) if dies else (-1, 0)
        self.losses: list[float] = []
        self.seen = 0

    def on_train_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.seen = trainer.global_step

    def on_before_backward(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step > self.seen:
            self.seen = trainer.global_step
            self.losses.append(float(trainer.callback_metrics["train/loss"]))

    def on_train_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir).parent
            (folder / "losses.json").write_text(json.dumps(self.losses))


def main(argv: list[str]) -> int:
    said = {"dies": "", "talks": ""}
    rest = []
    for argument in argv:
        key, _, value = argument.partition("=")
        if key in said:
            said[key] = value
        else:
            rest.append(argument)
    watch, build = Watch(said["dies"]), finetune_launch.build_training
    finetune.build_training = lambda settings, folder, callbacks, **options: build(
        settings, folder, [*callbacks, watch], **options
    )
    if said["talks"] == "mixed":
        talks = list(ShapesConversations(8))
        asked = talks[1].turns[0]
        bare = replace(asked, parts=tuple(part for part in asked.parts if part is not None))
        talks = [
            replace(talk, turns=(bare, talk.turns[1]), images=()) if i % 2 else talk for i, talk in enumerate(talks)
        ]
        finetuning.training_data = lambda asked: (talks, {"source": "mixed"})
    return cli.train_main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
