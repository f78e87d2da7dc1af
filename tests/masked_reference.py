"""The oracle for pruning: the untouched model, given a mask that hides the dropped tokens and the original positions.

A key that nobody attends to contributes nothing, so every other token's result must equal that of the shorter
sequence, up to the order of floating-point sums.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IMAGE_ID = 4


def visual_columns_of(input_ids: Tensor) -> list[Tensor]:
    """Columns of the visual tokens of every row."""
    return [(row == IMAGE_ID).nonzero()[:, 0] for row in input_ids]


def visible_mask(inputs: dict[str, Any], kept: list[Tensor]) -> Tensor:
    """The padding mask of the prompt with every visual token outside ``kept`` hidden."""
    mask = inputs["attention_mask"].clone()
    for row, columns in enumerate(visual_columns_of(inputs["input_ids"])):
        mask[row, columns] = 0
        mask[row, columns[kept[row]]] = 1
    return mask


def original_positions(inputs: dict[str, Any]) -> Tensor:
    """What ``generate`` counts: real tokens from 0 in every row."""
    mask = inputs["attention_mask"]
    return (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)


def closed_positions(inputs: dict[str, Any], kept: list[Tensor]) -> Tensor:
    """Positions counted over what stays visible."""
    mask = visible_mask(inputs, kept)
    return (mask.cumsum(-1) - 1).clamp(min=0)


def reference_inputs(inputs: dict[str, Any], kept: list[Tensor], renumber: bool = False) -> dict[str, Any]:
    """Arguments with which the UNATTACHED model must give the same result."""
    positions = closed_positions(inputs, kept) if renumber else original_positions(inputs)
    return {**inputs, "attention_mask": visible_mask(inputs, kept), "position_ids": positions}


def generate(model: Any, inputs: dict[str, Any], tokens: int = 8, **options: Any) -> tuple[Tensor, Tensor, Any]:
    """Greedy sequences, logits of every step ``(B, tokens, V)``, and the cache."""
    output = model.generate(
        **inputs,
        max_new_tokens=tokens,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )
    return output.sequences, torch.stack(output.logits, dim=1), output.past_key_values


def distance(first: Tensor, second: Tensor) -> float:
    """Largest absolute difference."""
    return float((first - second).abs().max())


def num_hooks(model: Any) -> int:
    """Hooks of every kind on every module."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.modules()
    )
