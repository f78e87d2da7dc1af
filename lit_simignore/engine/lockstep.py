"""Models whose weights are shared out over the processes (FSDP2), so that all of them must compute in step.

A layer gathers its weights from every process whenever it runs. Hence every process runs every layer equally often:
shards are padded to one length with batches that are answered twice (records count once, by their sample), whole
batches run under every method, generation goes on until the last process is done, and a failure is nobody's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn

from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.engine.memory import AUTO
from lit_simignore.engine.settings import EvaluationSettings
from lit_simignore.surgery.families import family_of
from lit_simignore.types import Sample, UserError

FSDP2 = "fsdp2"
_TENSOR_PARALLEL = ("tp", "tensor_parallel")


def is_lockstep(settings: EvaluationSettings) -> bool:
    """Whether processes share one model's weights out."""
    return settings.strategy == FSDP2


def check_lockstep(settings: EvaluationSettings) -> None:
    """Refuse settings with which processes in step would wait for each other for ever.

    Raises:
        UserError: what was expected, what came, what to do.
    """
    if settings.strategy in _TENSOR_PARALLEL:
        raise UserError(
            f"trainer.strategy={settings.strategy} is not there: tensor parallelism splits attention heads over the "
            "processes, and methods that look at all heads would each see a share; use trainer.strategy=fsdp2, or "
            "trainer.devices_per_replica on one machine"
        )
    if not is_lockstep(settings):
        return
    if settings.on_error != "raise":
        raise UserError(
            "trainer.strategy=fsdp2 answers in step, where the others would wait for a process whose sample fails; "
            f"expected trainer.on_error=raise, got {settings.on_error}"
        )
    if settings.batch_size == AUTO:
        raise UserError(
            "trainer.strategy=fsdp2 answers in step, so no process can halve its batch; expected a number as "
            "trainer.batch_size, got auto"
        )


def check_written(benchmark: Benchmark, samples: Sequence[Sample]) -> None:
    """Refuse answers that are chosen: how often the model runs for them depends on the options of a batch.

    Raises:
        UserError: some sample has candidates.
    """
    if any(benchmark.candidates(sample) is not None for sample in samples):
        raise UserError(
            "trainer.strategy=fsdp2 answers in step, and options of different length take a different number of "
            "steps; expected benchmark.scoring=generate"
        )


def sharding_strategy(settings: EvaluationSettings, world_size: int) -> ModelParallelStrategy:
    """FSDP2 over all processes."""
    # One file, whole, in the first process: checkpoints do not depend on how many processes wrote them.
    return ModelParallelStrategy(
        data_parallel_size=world_size,
        tensor_parallel_size=1,
        save_distributed_checkpoint=False,
        timeout=timedelta(hours=settings.timeout_hours),
    )


def shard_model(base: Any, mesh: Any) -> None:
    """Shard a model over the processes of ``mesh`` with FSDP2: every decoder layer by itself, the rest together.

    ``generate`` and ``get_image_features`` are made to gather weights like a forward, and transformers is told to
    keep generation in step over the processes (``synced_gpus``).
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for layer in _layers(base):
        fully_shard(layer, mesh=mesh)
    fully_shard(base, mesh=mesh)
    for name in ("generate", "get_image_features"):
        if hasattr(base, name):
            register_fsdp_forward_method(base, name)
    base._is_fsdp_managed_module = True  # what generate reads to set synced_gpus


def _layers(base: nn.Module) -> Sequence[nn.Module]:
    return list(family_of(base.config).decoder(base).layers)  # type: ignore[arg-type]
