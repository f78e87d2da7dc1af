"""How an evaluation is run, apart from what is evaluated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lit_simignore.engine.efficiency import TimingPlan


@dataclass(kw_only=True)
class EvaluationSettings:
    """Settings of :func:`~lit_simignore.engine.evaluate.evaluate`. Only the first group can change an answer.

    Args:
        max_new_tokens: tokens generated at most per answer; ``None`` takes the benchmark's.
        precision: Lightning's precision; ``None`` computes in the type of the weights.
        batch_size: samples that are answered together in one process; ``auto`` begins with 64. A batch that does not
            fit into memory is halved, whatever its size, and the records say so.
        share_images: let the untouched model read a picture once for all questions of a batch about it.

        model_name: as the results call the model; ``None`` takes the checkpoint's name.
        benchmark_name: as the results call the benchmark; ``None`` takes its class.
        command: the command line, for the record.
        seed: of the bootstrap; greedy answers need none.

        accelerator: as Lightning's Trainer takes it.
        devices: number of devices or ``auto``; under torchrun ``auto`` takes what torchrun started.
        num_nodes: machines.
        devices_per_replica: GPUs that each process spreads its model over; ``devices`` then counts processes.
        strategy: as Lightning's Trainer takes it; ``auto`` is ddp for several processes, ``fsdp2`` shares the weights
            of one model out over all of them, which then answer in step.
        timeout_hours: how long processes wait for the slowest one.
        num_workers: processes that open images, for each process; 0 opens them in the process itself.
        progress: show progress bars.
        on_error: ``record`` a failing sample and go on, or ``raise``.
        overwrite: throw away what the run folder holds, instead of continuing.
        report_samples: so many samples, the first ones, are kept with picture and kept tokens.
        efficiency: the timing pass; ``None`` leaves it out.
    """

    max_new_tokens: int | None = None
    precision: str | None = None
    batch_size: int | str = 16
    share_images: bool = True

    model_name: str | None = None
    benchmark_name: str | None = None
    command: str = ""
    seed: int = 0

    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: int = 1
    devices_per_replica: int = 1
    strategy: Any = "auto"
    timeout_hours: float = 24.0
    num_workers: int = 0
    progress: bool = True
    on_error: str = "record"
    overwrite: bool = False
    report_samples: int = 24
    efficiency: TimingPlan | None = field(default_factory=TimingPlan)
