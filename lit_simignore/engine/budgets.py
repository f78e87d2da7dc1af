"""Budgets that wait for the model are met here: once it is loaded and the first prompt can be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from lit_simignore.pruning._pending import PendingBudget, meet_budgets
from lit_simignore.surgery.prefill_shape import PromptShape, prompt_shape
from lit_simignore.surgery.prepare import prepare
from lit_simignore.types import Method, Sample, UserError

_TRIES = 16


def met_budgets(
    methods: Sequence[Method], model: nn.Module, processor: Any, samples: Sequence[Sample]
) -> tuple[tuple[Method, ...], dict[str, Any] | None]:
    """``methods`` with the settings that spend the budgets that were asked for.

    Every method is matched on the same prompt, that of the first sample whose images can be opened: where images have
    a fixed number of tokens and budgets count tokens, all samples then spend the same; elsewhere the results say what
    was spent on average.

    Returns:
        The methods; and the prompt's ``sample_id``, ``visual_tokens`` and ``text_tokens``, for the record, or ``None``
        where nothing waited.

    Raises:
        UserError: names the method whose budget cannot be met, with the least that can.
    """
    if not any(isinstance(part, PendingBudget) for method in methods for part in method.parts):
        return tuple(methods), None
    sample_id, shape = _first_prompt(model, processor, samples)
    about = {"sample_id": sample_id, "visual_tokens": shape.num_visual, "text_tokens": shape.num_text}
    return tuple(_met(method, shape) for method in methods), about


def _met(method: Method, shape: PromptShape) -> Method:
    try:
        return replace(method, parts=meet_budgets(method.parts, shape))
    except UserError as error:
        raise UserError(f"{method.name}: {error}") from error


def _first_prompt(model: nn.Module, processor: Any, samples: Sequence[Sample]) -> tuple[str, PromptShape]:
    """Of the first sample that shows visual tokens; one broken image must not stop a run that records it."""
    seen: UserError | None = None
    for sample in [sample for sample in samples if sample.images][:_TRIES]:
        try:
            inputs: Mapping[str, Any] = prepare(processor, [sample])[0]
            return sample.sample_id, prompt_shape(model, inputs)
        except UserError as error:
            seen = seen or error
    raise UserError(f"budgets are matched on a prompt with an image, and none could be made: {seen or 'no images'}")
