"""What a model itself answers, as tokens that can be written behind the prompt and asked where they come from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lit_simignore.engine.generation import NaNWatch, Prompts, generate
from lit_simignore.surgery.attach import attach


def own_answers(
    model: nn.Module, processor: Any, prompts: Prompts, max_new_tokens: int, parts: tuple[object, ...] = ()
) -> tuple[list[str], list[Tensor]]:
    """Greedy answers of a batch: texts, and ``(T,)`` int64 tokens for ``information_flow``.

    The tokens end before the first special one (an end token says nothing of the image); an answer that begins with
    one consists of it.
    """
    with attach(model, *parts, spans=prompts.spans):
        ids = generate(model, processor, prompts, max_new_tokens=max_new_tokens, watch=NaNWatch())
    new = ids[:, prompts.width :].clone()  # no inference tensor: it goes where gradients are taken
    texts = processor.batch_decode(new, skip_special_tokens=True)
    special = torch.tensor(sorted(set(processor.tokenizer.all_special_ids)), device=new.device)
    return [text.strip() for text in texts], [_before_special(row, special) for row in new]


def _before_special(row: Tensor, special: Tensor) -> Tensor:
    ends = torch.isin(row, special).nonzero()[:, 0]
    return row[: max(int(ends[0]), 1)] if len(ends) else row
