"""The data module by itself, as in a notebook, and under a trainer that would shard again."""

from __future__ import annotations

import os

import lightning as L
import pytest
from lightning.pytorch.strategies import DDPStrategy
from PIL import Image

from lit_simignore.data.collate import Batch
from lit_simignore.data.datamodule import SampleDataModule
from lit_simignore.types import Role, Sample, Segment, UserError


def picture() -> Image.Image:
    """Its colour tells which process drew it."""
    red, green, blue = os.getpid().to_bytes(3, "big")
    return Image.new("RGB", (1, 1), (red, green, blue))


SAMPLES = [Sample(f"s{i}", (Segment("x" * i, Role.QUESTION),), images=(picture,)) for i in range(5)]


def ids(data: SampleDataModule) -> list[list[str]]:
    return [[sample.sample_id for sample in batch.samples] for batch in data.test_dataloader()]


def test_it_works_without_a_trainer() -> None:
    data = SampleDataModule(SAMPLES, batch_size=2)
    assert ids(data) == [["s4", "s3"], ["s2", "s1"], ["s0"]]
    assert all(isinstance(batch, Batch) for batch in data.test_dataloader())


def test_only_whole_batches_that_are_needed_are_loaded() -> None:
    data = SampleDataModule(SAMPLES, batch_size=2)
    data.pending = {"s1"}
    assert ids(data) == [["s2", "s1"]]
    data.pending = set()
    assert ids(data) == []


def test_images_are_opened_in_the_worker() -> None:
    data = SampleDataModule(SAMPLES, batch_size=5, num_workers=1)
    (batch,) = data.test_dataloader()
    drawn_by = {int.from_bytes(images[0].getpixel((0, 0)), "big") for images in batch.images}
    assert len(drawn_by) == 1
    assert os.getpid() not in drawn_by


def test_a_trainer_that_would_shard_the_shards_is_refused() -> None:
    class Nothing(L.LightningModule):
        def test_step(self, batch: Batch) -> None:
            raise AssertionError

    data = SampleDataModule(SAMPLES)
    forked = DDPStrategy(start_method="fork")
    data.trainer = L.Trainer(accelerator="cpu", devices=2, strategy=forked, logger=False, enable_checkpointing=False)
    with pytest.raises(UserError, match="use_distributed_sampler=False"):
        data.setup("test")
