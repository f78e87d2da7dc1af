"""The oracle for pruning: the untouched model, given a mask that hides the dropped tokens and the original positions.

A key that nobody attends to contributes nothing, so every other token's result must equal that of the shorter
sequence, up to the order of floating-point sums.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_simignore.surgery.calls import cache_in

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
    return output.sequences, torch.stack(output.logits, dim=1), cache_in(output)


def distance(first: Tensor, second: Tensor) -> float:
    """Largest absolute difference."""
    return float((first - second).abs().max())


def num_hooks(model: Any) -> int:
    """Hooks of every kind on every module."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.modules()
    )


class HiddenFromLayers:
    """The untouched model, except that from given layers on some prompt columns are hidden from attention.

    Args:
        model: not attached.
        hidden: for every first layer, ``(B, N)`` bool of the columns that are hidden from there on.
    """

    def __init__(self, model: Any, hidden: dict[int, Tensor]) -> None:
        self.model, self.hidden, self.handles = model, hidden, []

    def __enter__(self) -> HiddenFromLayers:
        for number, layer in enumerate(self.model.get_decoder().layers):
            starts = [start for start in self.hidden if start <= number]
            if starts:
                hook = self._hook(self.hidden[max(starts)], number)
                self.handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _hook(self, hidden: Tensor, number: int) -> Any:
        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            rows, cache, mask = args[0], cache_in(kwargs), kwargs.get("attention_mask")
            batch, queries = rows.shape[:2]
            past = int(cache.get_seq_length(number)) if cache is not None else 0
            keys = mask.shape[-1] if mask is not None else past + queries
            seen = torch.ones(batch, 1, 1, keys, dtype=torch.bool)
            seen[:, 0, 0, : hidden.shape[1]] = ~hidden.repeat_interleave(batch // hidden.shape[0], 0)
            causal = torch.arange(keys) <= (torch.arange(queries) + past)[:, None]
            if mask is None:
                mask = causal[None, None]
                if self.model.get_decoder().config._attn_implementation == "eager":
                    mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(rows.dtype).min)
            least = torch.finfo(rows.dtype).min
            mask = mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, least)
            return args, {**kwargs, "attention_mask": mask}

        return before


def hidden_by_stage(inputs: dict[str, Any], trace: Any) -> dict[int, Tensor]:
    """For :class:`HiddenFromLayers`: what every stage inside the decoder dropped."""
    columns = visual_columns_of(inputs["input_ids"])
    found = {}
    for stage in trace.stages:
        if stage.layer_idx is None:
            continue
        hidden = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
        for row, kept in enumerate(stage.kept):
            hidden[row, columns[row]] = True
            hidden[row, columns[row][kept]] = False
        found[stage.layer_idx] = hidden
    return found
