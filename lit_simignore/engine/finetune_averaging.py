"""An exponential moving average of the trained weights, which is what is validated and written in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lit_simignore.engine.finetune_tuning import put_state, trained
from lit_simignore.types import UserError


class AveragedWeights(L.Callback):
    """Averages after every optimiser step; the optimiser itself never sees the average.

    The arithmetic is torch's. Lightning's ``WeightAveraging`` would hold a second copy of the whole model, frozen
    weights included; here only what is trained is held twice, in float32 whatever the type of the weights. The
    average begins at the initial weights, and step ``t`` (from 0) keeps ``min(decay, (1 + t) / (10 + t))`` of it, as
    TensorFlow does, so that a short training does not end with what it began with.

    Every process holds whole weights and computes the same average: with DDP nothing is exchanged.

    Args:
        decay: share of the average that a late step keeps.

    Raises:
        UserError: not between 0 and 1.
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise UserError(f"training.ema must lie between 0 and 1, such as 0.999; got {decay}")
        self.decay, self.updates = decay, 0
        self.average: dict[str, Tensor] = {}
        self._step = 0

    def state_dict(self) -> dict[str, Any]:
        """The average goes on where the checkpoint was made."""
        return {"updates": self.updates, "average": {name: value.cpu() for name, value in self.average.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a checkpoint's average up."""
        self.updates, self.average = int(state_dict["updates"]), dict(state_dict["average"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin with the weights as they are, unless a checkpoint said otherwise."""
        self._step = trainer.global_step
        known = self.average
        self.average = {
            name: known[name].to(value.device) if name in known else value.detach().float().clone()
            for name, value in trained(pl_module).items()
        }

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Add a step that has been taken."""
        if trainer.global_step == self._step:
            return  # in the middle of an accumulation
        self._step = trainer.global_step
        current = [value.detach().float() for value in trained(pl_module).values()]
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        get_ema_multi_avg_fn(decay)(list(self.average.values()), current, None)
        self.updates += 1

    def put(self, module: L.LightningModule) -> None:
        """Give the module the average for good."""
        put_state(module, self.average)

    @contextmanager
    def in_place(self, module: L.LightningModule) -> Iterator[None]:
        """Within the block the module has the average, afterwards its own weights again, bit for bit."""
        own = {name: value.detach().clone() for name, value in trained(module).items()}
        self.put(module)
        try:
            yield
        finally:
            put_state(module, own)
