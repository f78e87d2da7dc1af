"""Conversations as a ``LightningDataModule`` whose order depends on the seed and the step alone.

The pictures of step ``s`` are the same whatever the number of processes, after whatever interruption: a resumed
training starts the loader at its step instead of drawing and throwing away what came before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import lightning as L
import numpy as np
from torch.utils.data import DataLoader, Dataset

from lit_simignore.data.conversations import Conversation
from lit_simignore.data.conversations_batch import ConversationCollator, TrainBatch
from lit_simignore.types import UserError


class StepPlan:
    """Which conversations belong to which optimiser step, process and micro-batch.

    Args:
        total: conversations there are.
        batch_size: conversations of one optimiser step, over all processes.
        micro_batch_size: conversations that one process computes at a time.
        seed: of the order. Every conversation comes once before any comes twice.

    Raises:
        UserError: a size below 1.
    """

    def __init__(self, total: int, batch_size: int, micro_batch_size: int, seed: int = 0) -> None:
        if min(total, batch_size, micro_batch_size) < 1:
            raise UserError(
                "expected at least one conversation, and batch sizes of at least 1; got "
                f"{total}, batch_size={batch_size}, micro_batch_size={micro_batch_size}"
            )
        self.total, self.batch_size, self.micro_batch_size, self.seed = total, batch_size, micro_batch_size, seed

    def accumulate(self, world_size: int) -> int:
        """Micro-batches of one step in each process.

        Raises:
            UserError: the step cannot be cut into equal micro-batches for so many processes.
        """
        together = self.micro_batch_size * world_size
        if self.batch_size % together:
            raise UserError(
                f"batch_size ({self.batch_size} conversations per step) must be a multiple of micro_batch_size x "
                f"processes ({self.micro_batch_size} x {world_size}); change one of them"
            )
        return self.batch_size // together

    def micro_batches(self, first_step: int, rank: int, world_size: int) -> Iterator[list[int]]:
        """The endless micro-batches of one process from ``first_step`` (0-based) on, as positions."""
        count = self.accumulate(world_size)
        step = first_step
        while True:
            places = range(step * self.batch_size, (step + 1) * self.batch_size)
            chosen = [self._at(place) for place in places]
            for number in range(count):
                start = (number * world_size + rank) * self.micro_batch_size
                yield chosen[start : start + self.micro_batch_size]
            step += 1

    def _at(self, place: int) -> int:
        epoch, position = divmod(place, self.total)
        return int(_order(self.seed, epoch, self.total)[position])


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, total: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(total)


class _MicroBatches:
    """A batch sampler without an end: the trainer's ``max_steps`` ends it."""

    def __init__(self, plan: StepPlan, first_step: int, rank: int, world_size: int) -> None:
        self.arguments = (first_step, rank, world_size)
        self.plan = plan

    def __iter__(self) -> Iterator[list[int]]:
        return self.plan.micro_batches(*self.arguments)


class _Listed(Dataset[Conversation]):
    def __init__(self, conversations: Sequence[Conversation]) -> None:
        self.conversations = conversations

    def __getitem__(self, index: int) -> Conversation:
        return self.conversations[index]


class ConversationDataModule(L.LightningDataModule):
    """Training batches for :class:`~lit_simignore.engine.finetuner.LitFinetuner`.

    Use it with ``Trainer(max_steps=..., use_distributed_sampler=False, accumulate_grad_batches=...)``: the sharding
    is here, and so is the order. In a notebook on one device ``batch_size`` alone will do.

    Args:
        conversations: what is learned from; opened and tokenized when they are due.
        collator: makes batches of them.
        batch_size: conversations of one optimiser step, over all processes.
        micro_batch_size: conversations that one process computes at a time; ``None`` is ``batch_size``.
        num_workers: processes that make batches, for each process; 0 makes them in the process itself.
        seed: of the order.

    Raises:
        UserError: no conversations, or a batch size below 1.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        collator: ConversationCollator,
        batch_size: int = 16,
        micro_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.conversations, self.collator, self.num_workers = conversations, collator, num_workers
        self.plan = StepPlan(len(conversations), batch_size, micro_batch_size or batch_size, seed)

    def setup(self, stage: str) -> None:
        """Refuse a trainer that would shard the shards or count steps otherwise.

        Raises:
            UserError: says which argument of the trainer to change.
        """
        trainer = self.trainer
        if trainer is None or stage != "fit":
            return
        if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise UserError("ConversationDataModule shares the data out itself; pass use_distributed_sampler=False")
        expected = self.plan.accumulate(trainer.world_size)
        if trainer.accumulate_grad_batches != expected:
            raise UserError(
                f"these batch sizes make {expected} micro-batches per step and process; the trainer accumulates "
                f"{trainer.accumulate_grad_batches}: pass accumulate_grad_batches={expected}"
            )
        if trainer.max_steps < 1:
            raise UserError("the data has no end of its own; pass max_steps to the trainer")

    def train_dataloader(self) -> DataLoader[TrainBatch]:
        """Micro-batches of this process from the trainer's step on."""
        trainer = self.trainer
        place = (0, 0, 1) if trainer is None else (trainer.global_step, trainer.global_rank, trainer.world_size)
        return DataLoader(
            _Listed(self.conversations),  # type: ignore[arg-type]
            batch_sampler=_MicroBatches(self.plan, *place),
            num_workers=self.num_workers,
            collate_fn=self.collator,
        )
