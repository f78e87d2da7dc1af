"""Truncation before every layer in turn, on the same samples: where does the curve stop falling?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from lit_simignore.attribution.truncation import cliff_layer
from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.engine.flow_batches import Batches, answers_of
from lit_simignore.engine.flow_store import FlowStore
from lit_simignore.engine.generation import Prompts
from lit_simignore.pruning.text_only import TextOnly
from lit_simignore.pruning.truncation import Truncation
from lit_simignore.surgery.attach import unwrap
from lit_simignore.surgery.families import family_of
from lit_simignore.types import Sample, UserError

FILE = "truncation.npz"
BASELINE = -1


def truncation_sweep(
    model: nn.Module,
    processor: Any,
    benchmark: Benchmark,
    samples: Sequence[Sample],
    store: FlowStore,
    *,
    layers: Sequence[int],
    tolerance: float,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
) -> dict[str, Any]:
    """Scores with all visual tokens dropped before each layer, and the cliff. Every layer is saved as it is done.

    Layer 0 is the model without any image. Samples without a score, or whose images cannot be opened, are left out.

    Raises:
        UserError: a layer that the decoder does not have.
    """
    swept = swept_layers(model, layers)
    known = _known(store, samples)
    for layer in (BASELINE, *swept):
        if layer not in known:
            parts = () if layer == BASELINE else (TextOnly(),) if layer == 0 else (Truncation(layer_idx=layer),)
            known[layer] = _scores(model, processor, benchmark, samples, parts, max_new_tokens, batch_size)
            _save(store, samples, known)
    scores = torch.tensor(np.stack([known[layer] for layer in (BASELINE, *swept)]))
    good = ~scores.isnan().any(dim=0)
    groups = [sample.group_id for sample, fine in zip(samples, good.tolist(), strict=True) if fine]
    common = {"file": FILE, "num_samples": len(groups), "left_out": len(samples) - len(groups)}
    if len({group or place for place, group in enumerate(groups)}) < 2:
        return {**common, "cliff": None}
    found = cliff_layer(swept, scores[1:, good], scores[0, good], groups, tolerance=tolerance, seed=seed)
    return {**common, "baseline": float(scores[0, good].mean()), "cliff": asdict(found)}


def swept_layers(model: nn.Module, layers: Sequence[int]) -> list[int]:
    """Those of ``layers`` (none means all) before which everything can be dropped; all of them if none of these can be.

    Raises:
        UserError: a layer that the decoder does not have.
    """
    base = unwrap(model)
    family = family_of(base.config)
    depth, first = len(family.decoder(base).layers), max(1, family.deepstack_layers(base.config))  # type: ignore[arg-type]
    if any(not 0 <= layer < depth for layer in layers):
        raise UserError(f"expected decoder layers from 0 to {depth - 1} in flow.layers; got {list(layers)}")
    possible = [0, *range(first, depth)]
    return sorted(set(layers) & set(possible)) or possible


def _scores(
    model: nn.Module, processor: Any, benchmark: Benchmark, samples: Sequence[Sample], parts: Sequence[object],
    max_new_tokens: int, batch_size: int,
) -> np.ndarray:  # fmt: skip
    """``(S,)`` score of every sample, NaN where there is none."""

    def work(prompts: Prompts) -> list[float | None]:
        outputs = answers_of(model, processor, benchmark, prompts, parts, max_new_tokens)
        pairs = zip(prompts.samples, outputs, strict=True)
        return [benchmark.score(benchmark.parse(output, sample), sample) for sample, output in pairs]

    batches = Batches(model, processor, batch_size)
    found = {sample.sample_id: score for sample, score in batches.run(samples, work)}
    scores = [found.get(sample.sample_id) for sample in samples]
    return np.array([np.nan if score is None else score for score in scores])


def _known(store: FlowStore, samples: Sequence[Sample]) -> dict[int, np.ndarray]:
    """Layers that an interrupted sweep over the same samples of the same run has done."""
    found = store.load(FILE)
    ids = np.array([sample.sample_id for sample in samples])
    if found is None or found.keys() != {"layers", "scores", "samples", "identity"}:
        return {}
    if not np.array_equal(found["samples"], ids) or str(found["identity"]) != store.identity:
        return {}
    return dict(zip(found["layers"].tolist(), found["scores"], strict=True))


def _save(store: FlowStore, samples: Sequence[Sample], known: dict[int, np.ndarray]) -> None:
    ids = np.array([sample.sample_id for sample in samples])
    store.save(
        FILE, layers=list(known), scores=np.stack(list(known.values())), samples=ids, identity=np.array(store.identity)
    )
