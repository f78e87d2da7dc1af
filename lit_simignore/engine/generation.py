"""Ask a model for the answers of one batch under one method, and watch it do so."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.prepare import prepare
from lit_simignore.surgery.spans import Spans
from lit_simignore.surgery.trace import Trace
from lit_simignore.types import Sample

GREEDY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    # A checkpoint's sampling settings would only cause warnings.
    "temperature": None,
    "top_p": None,
    "top_k": None,
}


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """A batch of samples as the model takes it.

    Args:
        samples: in the order of the rows.
        inputs: for ``model.generate(**inputs)``, on the model's device, images in the model's type.
        spans: labels of the rows.
    """

    samples: tuple[Sample, ...]
    inputs: dict[str, Any]
    spans: Spans

    @property
    def width(self) -> int:
        """Columns of the padded prompts."""
        return int(self.inputs["input_ids"].shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What came back. Lists have one entry per sample.

    Args:
        outputs: the new text, without special tokens and surrounding blanks.
        tokens: the new ids ``(T,)`` int64 before the first special one, or that one if it comes first; on the CPU.
        finite: False where some logit was not a number, so that the text means nothing.
        trace: what was pruned.
        wall_ms: milliseconds that the whole batch took.
        details: further facts for the records; empty for none.
    """

    outputs: list[str]
    tokens: list[Tensor]
    finite: list[bool]
    trace: Trace
    wall_ms: float
    details: Sequence[Mapping[str, object]] = ()


class NaNWatch(LogitsProcessor):
    """Notes the rows in which some logit was not a number; asks the device nothing until :meth:`rows`."""

    def __init__(self) -> None:
        self._found: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        broken = scores.isnan().any(dim=-1)
        self._found = broken if self._found is None else self._found | broken
        return scores

    def rows(self) -> list[bool]:
        """True for every row that was ever broken; empty before the first token."""
        return [] if self._found is None else [bool(value) for value in self._found.tolist()]


def prompts_of(
    processor: Any, samples: Sequence[Sample], images: Sequence[Sequence[Image]], model: nn.Module
) -> Prompts:
    """Render and tokenize samples for ``model``.

    Raises:
        UserError: names the sample that does not fit.
    """
    device, dtype = next(model.parameters()).device, _image_dtype(model)
    inputs, spans = prepare(processor, samples, images=images, device=device)
    cast = {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    return Prompts(tuple(samples), cast, spans)


def _image_dtype(model: nn.Module) -> torch.dtype:
    """Type of the first floating-point weight: quantized checkpoints have integers among their weights."""
    return next((value.dtype for value in model.parameters() if value.is_floating_point()), torch.float32)


def answer(
    model: nn.Module, processor: Any, prompts: Prompts, parts: Sequence[object], max_new_tokens: int, **settings: Any
) -> Answers:
    """Answer a batch greedily with ``parts`` attached for the length of the call; ``settings`` go to ``generate``."""
    watch = NaNWatch()
    device = prompts.inputs["input_ids"].device
    synchronize(device)
    start = time.perf_counter()
    with attach(model, *parts, spans=prompts.spans) as trace:
        ids = generate(model, processor, prompts, max_new_tokens=max_new_tokens, watch=watch, **settings)
    synchronize(device)
    wall_ms = 1000 * (time.perf_counter() - start)
    return answers_of(ids, prompts.width, processor, watch, trace, wall_ms)


def answers_of(ids: Tensor, width: int, processor: Any, watch: NaNWatch, trace: Trace, wall_ms: float) -> Answers:
    """Read what ``generate`` returned: ``ids`` ``(B, width + T)`` of prompts and new tokens."""
    new = ids[:, width:]
    texts = processor.batch_decode(new, skip_special_tokens=True)
    broken = watch.rows() or [False] * len(ids)
    tokens = _spoken(new, processor.tokenizer.all_special_ids)
    return Answers([text.strip() for text in texts], tokens, [not row for row in broken], trace, wall_ms)


def _spoken(new: Tensor, special: Sequence[int]) -> list[Tensor]:
    """What was said of the generated ids ``(B, T)``: copies, for gradients pass through nothing of inference mode."""
    found = []
    for row in new.tolist():
        end = next((place for place, token in enumerate(row) if token in special), len(row))
        found.append(torch.tensor(row[: max(end, 1)]))
    return found


def generate(model: nn.Module, processor: Any, prompts: Prompts, *, watch: LogitsProcessor, **settings: Any) -> Any:
    """``model.generate`` without sampling, without gradients, and without a warning about padding."""
    with torch.inference_mode():
        return model.generate(  # type: ignore[operator]
            **prompts.inputs,
            **GREEDY,
            **_padding(model, processor),
            **settings,
            logits_processor=LogitsProcessorList([watch]),
        )


def _padding(model: nn.Module, processor: Any) -> dict[str, int]:
    """The padding token where the checkpoint's generation settings name none."""
    if getattr(getattr(model, "generation_config", None), "pad_token_id", None) is not None:
        return {}
    token = processor.tokenizer.pad_token_id
    token = processor.tokenizer.eos_token_id if token is None else token
    return {} if token is None else {"pad_token_id": token}


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked: without it, clocks measure the asking."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
