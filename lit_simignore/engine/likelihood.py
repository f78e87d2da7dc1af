"""Let a model choose among given answers by their likelihood, instead of writing one."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from torch import nn

from lit_simignore.engine.generation import Answers, Prompts, synchronize
from lit_simignore.metrics.likelihood import most_likely
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.candidates import candidate_log_probs, candidate_tokens
from lit_simignore.types import Candidates


def choose(
    model: nn.Module, processor: Any, prompts: Prompts, parts: Sequence[object], candidates: Sequence[Candidates]
) -> Answers:
    """The answers of a batch, each the name of its most likely candidate, with ``parts`` attached meanwhile.

    Args:
        model: as for :func:`~lit_simignore.engine.generation.answer`.
        processor: its processor.
        prompts: the batch.
        parts: pruners and interventions; none of them sees a candidate.
        candidates: for every sample of the batch.
    """
    tokens = [
        candidate_tokens(processor, sample, mine.texts)
        for sample, mine in zip(prompts.samples, candidates, strict=True)
    ]
    device = prompts.inputs["input_ids"].device
    synchronize(device)
    start = time.perf_counter()
    with attach(model, *parts, spans=prompts.spans) as trace:
        log_probs = candidate_log_probs(model, prompts.inputs, tokens)
    synchronize(device)
    wall_ms = 1000 * (time.perf_counter() - start)
    chosen = [
        most_likely(values, list(map(len, ids)), per_token=mine.per_token)
        for mine, values, ids in zip(candidates, log_probs, tokens, strict=True)
    ]
    return Answers(
        outputs=[mine.names[place] for mine, place in zip(candidates, chosen, strict=True)],
        tokens=[ids[place] for ids, place in zip(tokens, chosen, strict=True)],
        finite=[not any(map(math.isnan, values)) for values in log_probs],
        trace=trace,
        wall_ms=wall_ms,
        details=[{"log_probs": [round(value, 4) for value in values]} for values in log_probs],
    )
