"""A progress bar that says how fast it goes and how the first method does, from this process's own counts."""

from __future__ import annotations

import sys
import time
from typing import Any, TypeAlias

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from lit_simignore.engine.evaluator import LitEvaluator

Shown: TypeAlias = "dict[str, int | str | float | dict[str, float]]"


class EvaluationBar(TQDMProgressBar):
    """Batches of rank 0, with samples per second (through all methods) and the running score of the first method."""

    def __init__(self) -> None:
        super().__init__()
        self._began = 0.0

    def init_test_tqdm(self) -> Tqdm:
        """The bar, with a word for what is going on."""
        return Tqdm(
            desc="Evaluating",
            disable=self.is_disabled,
            leave=True,
            dynamic_ncols=True,
            file=sys.stdout,
            bar_format=self.BAR_FORMAT,
        )

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        super().on_test_start(trainer, pl_module)
        self._began = time.perf_counter()

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Learn how many batches there are; there is only one dataloader, whose number nobody needs to see."""
        self.test_progress_bar.total = trainer.num_test_batches[0]

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Show the counts."""
        self.test_progress_bar.set_postfix(self.get_metrics(trainer, pl_module), refresh=False)
        super().on_test_batch_end(trainer, pl_module, *args, **kwargs)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> Shown:
        """What stands behind the bar."""
        if not isinstance(pl_module, LitEvaluator):
            return {}
        tally = pl_module.tally
        shown: Shown = {
            "samples/s": f"{tally.samples / max(time.perf_counter() - self._began, 1e-9):.1f}"
        }
        if tally.scored:
            shown[pl_module.methods[0].name] = f"{tally.total / tally.scored:.1%}"
        if tally.errors:
            shown["errors"] = tally.errors
        return shown
