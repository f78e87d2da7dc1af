"""Samples in batches for an analysis: what fails together is tried in halves, what fails alone is left out by name."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from lit_simignore.benchmarks.base import Benchmark
from lit_simignore.data.collate import Opened, one_line, open_sample
from lit_simignore.engine.generation import Prompts, answer, prompts_of
from lit_simignore.engine.likelihood import choose
from lit_simignore.types import Sample, UserError

T = TypeVar("T")


class Batches:
    """Goes through samples for one model.

    Args:
        model: the model.
        processor: its processor.
        size: samples at a time.

    Attributes:
        left_out: why samples are missing, by their ids.
    """

    def __init__(self, model: nn.Module, processor: Any, size: int) -> None:
        self.model, self.processor, self.size = model, processor, size
        self.left_out: dict[str, str] = {}

    def run(self, samples: Sequence[Sample], work: Callable[[Prompts], Sequence[T]]) -> Iterator[tuple[Sample, T]]:
        """What ``work`` returns for every sample (one entry per sample of its batch), in order."""
        for start in range(0, len(samples), self.size):
            opened = [open_sample(sample) for sample in samples[start : start + self.size]]
            for entry in opened:
                if entry.error is not None:
                    self.left_out[entry.sample.sample_id] = entry.error
            yield from self._try([entry for entry in opened if entry.error is None], work)

    def _try(self, opened: Sequence[Opened], work: Callable[[Prompts], Sequence[T]]) -> list[tuple[Sample, T]]:
        if not opened:
            return []
        samples = [entry.sample for entry in opened]
        try:
            prompts = prompts_of(self.processor, samples, [entry.images for entry in opened], self.model)
            return list(zip(samples, work(prompts), strict=True))
        # the model or its processor may fail in any way, for lack of memory too: that costs the samples concerned
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # they hold the tensors for which there was no room
            said = one_line(error)
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.memory.empty_cache()
        if len(opened) == 1:
            self.left_out[samples[0].sample_id] = said
            return []
        half = (len(opened) + 1) // 2
        return [*self._try(opened[:half], work), *self._try(opened[half:], work)]


def answers_of(
    model: nn.Module, processor: Any, benchmark: Benchmark, prompts: Prompts, parts: Sequence[object], tokens: int
) -> list[str]:
    """Answers as an evaluation gets them: written, or chosen where the benchmark offers samples some.

    Raises:
        UserError: it offers some to a part of them only; :class:`Batches` then asks in smaller batches.
    """
    offered = [benchmark.candidates(sample) for sample in prompts.samples]
    given = [candidates for candidates in offered if candidates is not None]
    if given and len(given) < len(offered):
        raise UserError("answers that are written and answers that are chosen do not share a batch")
    if given:
        return choose(model, processor, prompts, parts, given).outputs
    return answer(model, processor, prompts, parts, tokens).outputs
