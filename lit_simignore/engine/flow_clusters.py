"""Which visual tokens lead an answer astray: the image's clusters are left out in turn, and the model answers again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lit_simignore.attribution.clusters import Ablation, ablations, kmeans, verdicts
from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.data.collate import open_sample
from lit_simignore.engine.flow_batches import answers_of
from lit_simignore.engine.generation import Prompts, prompts_of
from lit_simignore.pruning._given import Given
from lit_simignore.surgery.capture import capture
from lit_simignore.types import Sample


def leave_clusters_out(
    model: nn.Module,
    processor: Any,
    benchmark: Benchmark,
    sample: Sample,
    num_clusters: int,
    max_new_tokens: int,
    *,
    seed: int = 0,
    batch_size: int = 8,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Cluster a sample's visual tokens and answer it without every cluster and every pair of clusters.

    Returns:
        ``(I,)`` int64 cluster of every visual token, and per set ``clusters``, ``num_kept``, ``output`` and
        ``verdict`` (spy, needed, neutral; empty where the benchmark has no score for the sample). The first entry is
        the answer with all tokens.
    """
    images = open_sample(sample).images
    prompts = prompts_of(processor, [sample], [images], model)
    labels = _clusters(model, prompts, num_clusters, seed)
    whole = Ablation((), torch.arange(len(labels.labels)))
    sets = [whole, *ablations(labels)]
    outputs: list[str] = []
    for start in range(0, len(sets), batch_size):
        some = sets[start : start + batch_size]
        copies = [replace(sample, sample_id=f"{sample.sample_id}#{start + i}") for i in range(len(some))]
        given = Given(kept={copy.sample_id: item.kept for copy, item in zip(copies, some, strict=True)})
        batch = prompts_of(processor, copies, [images] * len(copies), model)
        outputs += answers_of(model, processor, benchmark, batch, (given,), max_new_tokens)
    found = _verdicts(benchmark, sample, outputs)
    table = [
        {"clusters": list(item.clusters), "num_kept": len(item.kept), "output": output, "verdict": verdict}
        for item, output, verdict in zip(sets, outputs, found, strict=True)
    ]
    return labels.labels.cpu(), table


def _clusters(model: nn.Module, prompts: Prompts, number: int, seed: int) -> Any:
    """Clusters of the rows that enter the decoder."""
    with torch.no_grad(), capture(model, layers=[0]) as seen:
        model(**prompts.inputs)
    assert seen.inputs is not None
    layout = seen.layers[0].layout
    return kmeans(seen.inputs[0, layout.visual[0]], number, seed=seed)


def _verdicts(benchmark: Benchmark, sample: Sample, outputs: Sequence[str]) -> list[str]:
    scores = [benchmark.score(benchmark.parse(output, sample), sample) for output in outputs]
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        return [""] * len(outputs)
    return ["", *verdicts(known[0] >= 0.5, [score >= 0.5 for score in known[1:]])]
