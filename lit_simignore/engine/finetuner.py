"""Fine-tuning with pruning switched on, as a ``LightningModule``."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lit_simignore.data.conversations_batch import TrainBatch
from lit_simignore.engine.finetune_schedule import PruneSchedule, cosine_factor
from lit_simignore.engine.finetune_tuning import Tuning, keep_exact, outside_decoder, prepare_tuning, trained
from lit_simignore.engine.lockstep import shard_model
from lit_simignore.surgery.attach import attach, unwrap
from lit_simignore.surgery.prompt import IGNORED_LABEL
from lit_simignore.surgery.spans import Spans
from lit_simignore.surgery.trace import Trace
from lit_simignore.tracking import TRAIN_KEEP_RATIO, TRAIN_KEPT, TRAIN_LOSS, TRAIN_LR
from lit_simignore.types import UserError


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How weights move.

    Args:
        lr: largest learning rate of AdamW.
        warmup_ratio: share of the steps in which the learning rate rises; it falls as a cosine afterwards.
        weight_decay: decoupled, on matrices only.
        beta2: of AdamW.

    Raises:
        UserError: a value out of range.
    """

    lr: float = 2e-4
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    beta2: float = 0.999

    def __post_init__(self) -> None:
        if self.lr <= 0 or not 0 <= self.warmup_ratio < 1 or self.weight_decay < 0 or not 0 < self.beta2 < 1:
            raise UserError(
                "expected lr > 0, 0 <= warmup_ratio < 1, weight_decay >= 0 and 0 < beta2 < 1; got "
                f"{self.lr}, {self.warmup_ratio}, {self.weight_decay}, {self.beta2}"
            )


class LitFinetuner(L.LightningModule):
    """Trains a vision-language model on conversations while visual tokens are dropped in its forward.

    In a notebook::

        model, processor = ls.load("pico")
        data = ls.ConversationDataModule(conversations, ls.ConversationCollator(processor), batch_size=16)
        module = ls.LitFinetuner(model, processor, ls.Simignore(keep_ratio=0.25))
        lightning.Trainer(max_steps=100, gradient_clip_val=1.0).fit(module, data)

    The loss of a step is the mean over all answer tokens of all processes and micro-batches, so it does not depend on
    how a step is cut up. Gradients are scaled by the count of tokens just before the optimiser steps (with DeepSpeed,
    which hides them, each micro-batch has its own mean instead).

    Random numbers of a micro-batch (dropout) are drawn from ``seed``, its index and the process, so that an
    interrupted training goes on as if nothing had happened. Checkpoints hold the trained weights only.

    Args:
        model: from :func:`~lit_simignore.surgery.load.load`. It is changed in place: adapters are put in when the
            training begins, and it is attached from the first training step to the last; validation detaches it.
        processor: the model's processor.
        parts: pruners and interventions, as ``attach`` takes them; none trains on all visual tokens.
        tuning: which weights are trained.
        optimization: how they move.
        schedule: how much is pruned at which step.
        seed: of dropout.

    Raises:
        UserError: a schedule that does not fit the parts; later, as ``attach`` does.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        *parts: object,
        tuning: Tuning | None = None,
        optimization: Optimization | None = None,
        schedule: PruneSchedule | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._given: tuple[nn.Module, ...] = (model,)  # in a tuple, so that it is no submodule before it is prepared
        self.processor, self.parts, self.seed = processor, parts, seed
        self._outside: tuple[str, ...] = ()
        self._spans: Spans | None = None
        self.tuning, self.optimization = tuning or Tuning(), optimization or Optimization()
        self.schedule = schedule or PruneSchedule()
        self.schedule.check(parts)
        self.strict_loading = False
        self.model: nn.Module | None = None
        self._attached: tuple[tuple[object, ...], ExitStack, Trace] | None = None
        self._sum: dict[str, Tensor] = {}

    # -- the model

    @property
    def vlm(self) -> nn.Module:
        """The Hugging Face model itself, inside PEFT's wrapper if there is one."""
        return unwrap(self._given[0] if self.model is None else self.model)

    def configure_model(self) -> None:
        """Put adapters in, freeze the rest, shard; once, although Lightning asks before every stage."""
        if self.model is not None:
            return
        self.model = prepare_tuning(self._given[0], self.tuning)
        keep_exact(self.model, str(self.trainer.precision))
        self._outside = outside_decoder(self.vlm)
        if self.device_mesh is not None:
            shard_model(self.vlm, self.device_mesh["data_parallel"])

    def attach(self, parts: Sequence[object]) -> Trace | None:
        """Have ``parts`` prune from now on, in place of what was attached before; ``None`` where there are none."""
        if self._attached is not None and self._attached[0] == tuple(parts):
            return self._attached[2]
        self.detach()
        if not parts:
            return None
        with ExitStack() as stack:
            trace = stack.enter_context(attach(self.vlm, *parts, spans=self._spans))
            self._attached = tuple(parts), stack.pop_all(), trace
        return trace

    def detach(self) -> None:
        """Leave the model without hooks until the next training step."""
        if self._attached is not None:
            self._attached[1].close()
            self._attached = None

    def configure_callbacks(self) -> list[L.Callback]:
        """Whatever ends the training, the model is left without hooks."""
        return [_DetachOnException()]

    def on_validation_start(self) -> None:
        """Validation chooses its own pruning."""
        self.detach()

    def on_fit_end(self) -> None:
        """The model is the user's again."""
        self.detach()

    # -- one step

    def on_train_batch_start(self, batch: TrainBatch, batch_idx: int) -> None:
        """Draw the dropout of this micro-batch from its index."""
        state = np.random.SeedSequence([self.seed, batch_idx, self.global_rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]) % 2**63)

    def training_step(self, batch: TrainBatch, batch_idx: int) -> Tensor:
        """Sum of the negative log-likelihoods of the answer tokens; see the class on how it becomes the mean."""
        self._spans = batch.spans
        parts = self.schedule.parts_at(self.parts, self.trainer.global_step, self.max_steps)
        trace = self.attach(parts)
        if trace is not None:
            trace.spans = batch.spans
        total, count = answer_loss(self.vlm, batch)
        self._note(loss=total.detach(), tokens=count)
        if trace is not None:
            kept = sum(len(rows) for rows in trace.kept) / len(batch)
            self.log(TRAIN_KEPT, kept, batch_size=len(batch))
            trace.reset()
        ratios = [ratio for part in parts if (ratio := getattr(part, "keep_ratio", None)) is not None]
        if ratios:
            self.log(TRAIN_KEEP_RATIO, float(ratios[0]), batch_size=len(batch))
        if isinstance(self.trainer.strategy, DeepSpeedStrategy):
            mean = self.trainer.strategy.reduce(count.clone(), reduce_op="mean")
            return total / mean.clamp(min=1)
        return total + self._touch()

    def _touch(self) -> Tensor:
        """Zero, with a gradient for every parameter that a batch without pictures would pass by."""
        if self.trainer.world_size == 1:
            return torch.zeros((), device=self.device)
        live = trained(self.vlm)  # by name: FSDP2 puts other parameters in place
        return sum((0.0 * live[name].float().sum() for name in self._outside), torch.zeros((), device=self.device))

    def _note(self, **sums: Tensor) -> None:
        for name, value in sums.items():
            self._sum[name] = self._sum[name] + value if name in self._sum else value

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Turn the mean over processes and micro-batches into the mean over answer tokens."""
        strategy, world = self.trainer.strategy, self.trainer.world_size
        loss, tokens = (strategy.reduce(self._sum[name].clone(), reduce_op="sum") for name in ("loss", "tokens"))
        self._sum = {}
        self.log(TRAIN_LOSS, loss / tokens.clamp(min=1), prog_bar=True)
        self.log(TRAIN_LR, float(optimizer.param_groups[0]["lr"]))
        if isinstance(strategy, DeepSpeedStrategy):
            return
        # Lightning divides by the number of micro-batches, DDP and FSDP2 by that of processes.
        scale = self.trainer.accumulate_grad_batches * world / float(tokens.clamp(min=1))
        for value in trained(self).values():
            if value.grad is not None:
                value.grad.mul_(scale)

    # -- optimiser and checkpoint

    @property
    def max_steps(self) -> int:
        """Optimiser steps of the whole training."""
        steps = self.trainer.max_steps
        return steps if steps > 0 else int(self.trainer.estimated_stepping_batches)

    def configure_optimizers(self) -> Any:
        """AdamW, and the learning rate of every step."""
        wish = self.optimization
        weights = list(trained(self).values())
        groups = [
            {"params": [value for value in weights if value.ndim >= 2], "weight_decay": wish.weight_decay},
            {"params": [value for value in weights if value.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        optimizer = torch.optim.AdamW(groups, lr=wish.lr, betas=(0.9, wish.beta2))
        warmup = round(wish.warmup_ratio * self.max_steps)
        factor = partial(cosine_factor, max_steps=self.max_steps, warmup_steps=warmup)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what is trained: the rest is the model that one starts from."""
        names = trained(self).keys()
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other weights, which non-strict loading would pass by; count in the own micro-batches.

        Raises:
            UserError: names the first weight that one side lacks.
        """
        found, expected = checkpoint.get("state_dict"), trained(self).keys()
        if found is not None and (odd := sorted(found.keys() ^ expected)):
            raise UserError(
                f"the checkpoint trains other weights than this run ({odd[0]}, and {len(odd) - 1} more); "
                "start anew, or set the tuning that it was made with"
            )
        if self._trainer is not None:
            _recount(checkpoint, self._trainer.accumulate_grad_batches)


def _recount(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Begin a step where a step begins: Lightning counts micro-batches and steps whenever their number divides.

    Another number of processes, or another size of micro-batches, makes another number of them per step. With the old
    count the first step would be a part of one, and every later one would straddle two.
    """
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress", {})
    for counts in (progress.get("total", {}), progress.get("current", {})):
        counts.update(dict.fromkeys(counts, checkpoint["global_step"] * accumulate))


class _DetachOnException(L.Callback):
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(pl_module, LitFinetuner):
            pl_module.detach()


def answer_loss(model: nn.Module, batch: TrainBatch) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihood of the answer tokens, float32, and how many there are.

    Logits are computed only in columns that predict an answer token of some row, where the model can do so.

    Args:
        model: attached or not.
        batch: spans or labels tell the pruner where answers begin.
    """
    wanted = (batch.labels[:, 1:] != IGNORED_LABEL).any(dim=0).nonzero()[:, 0]
    targets = batch.labels[:, 1:][:, wanted]
    dtype = next((value.dtype for value in model.parameters() if value.is_floating_point()), torch.float32)
    inputs = {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in batch.inputs.items()
    }
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        logits = model(**inputs, use_cache=False, logits_to_keep=wanted).logits
    else:
        logits = model(**inputs, use_cache=False).logits[:, wanted]
    total = cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED_LABEL, reduction="sum")
    return total, (targets != IGNORED_LABEL).sum()
