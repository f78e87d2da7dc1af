"""Samples as a ``LightningDataModule`` whose processes share the work exactly."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import lightning as L
from torch.utils.data import DataLoader

from lit_simignore.data.collate import Batch, OpenedSamples
from lit_simignore.data.sharding import BatchPlan, check_samples, equal_shard, pending_batches, plan_batches, shard
from lit_simignore.types import Sample, UserError


class SampleDataModule(L.LightningDataModule):
    """Batches of samples for ``Trainer.test``, every sample in exactly one process.

    Use it with ``Trainer(use_distributed_sampler=False)``: the sharding is here. In a notebook::

        trainer.test(LitEvaluator(model, processor, benchmark, methods), SampleDataModule(benchmark.load()))

    Args:
        samples: the whole benchmark, in its stable order.
        batch_size: samples that are answered together in one process.
        num_workers: processes that open images for each process; 0 opens them in the process itself.
        lockstep: give all processes equally many batches, some of them twice.

    Attributes:
        pending: ids of the samples that still need an answer, the same in every process; ``None`` means all.
            Batches that hold none of them are left out, the others stay as they are.

    Raises:
        UserError: no samples, ids that are not unique, or a batch size below 1.
    """

    def __init__(
        self, samples: Sequence[Sample], batch_size: int = 16, num_workers: int = 0, lockstep: bool = False
    ) -> None:
        super().__init__()
        check_samples(samples)
        self.samples = samples
        self.num_workers, self.lockstep = num_workers, lockstep
        self.plan = plan_batches(samples, batch_size)
        self.pending: Collection[str] | None = None
        # A process without work must be able to sit by: there is no collective in the loop that it could miss.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def setup(self, stage: str) -> None:
        """Refuse a trainer that would shard the shards.

        Raises:
            UserError: several processes and ``use_distributed_sampler`` left on.
        """
        trainer = self.trainer
        if trainer is None or trainer.world_size == 1:
            return
        if trainer._accelerator_connector.use_distributed_sampler:
            raise UserError(
                "SampleDataModule shares the samples out itself; expected Trainer(use_distributed_sampler=False), "
                "got the default: pass it"
            )

    def batches(self, rank: int = 0, world_size: int = 1) -> BatchPlan:
        """The batches that process ``rank`` has to answer, as positions in :attr:`samples`."""
        plan = self.plan if self.pending is None else pending_batches(self.plan, self.samples, self.pending)
        return (equal_shard if self.lockstep else shard)(plan, rank, world_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The batches of this process."""
        rank, world_size = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(
            OpenedSamples(self.samples),  # type: ignore[arg-type]
            batch_sampler=[list(batch) for batch in self.batches(rank, world_size)],
            num_workers=self.num_workers,
            collate_fn=Batch,
        )
