"""Rows beside the kernel: which they are, what they see, and what stays the kernel's own."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from lit_simignore.interventions._kernel import ROWS_AT_ONCE
from lit_simignore.interventions.base import KernelInputs, LayerContext, RowEdit, attend
from tests.interventions.layer import SCALING, Layer, prompt, sdpa

BATCH = [prompt(19, [slice(3, 11)], seed=1), prompt(12, [slice(2, 5)], seed=2)]


def edit_of(rows: Tensor, amount: float, columns: slice = slice(None)) -> RowEdit:
    def change(logits: Tensor, _: Tensor) -> Tensor:
        changed = logits.clone()
        changed[..., columns] += amount
        return changed

    return RowEdit(rows, change)


def test_an_edit_that_changes_nothing_gives_the_kernels_result_and_other_rows_keep_its_bits() -> None:
    layer = Layer(BATCH)
    rows = torch.zeros(2, 19, dtype=torch.bool)
    rows[0, [4, 18]] = True
    inputs = layer.inputs()
    plain = layer.kernel(inputs.query, inputs.key, inputs.value)
    output = attend(layer.kernel, dataclasses.replace(inputs, row_edits=(edit_of(rows, 0.0),)), layer.context())
    assert torch.allclose(output, plain, atol=1e-5)
    assert torch.equal(output[~rows], plain[~rows])


def test_edits_of_one_row_follow_each_other_and_others_stay_apart() -> None:
    layer = Layer(BATCH[:1])
    both, second = torch.zeros(1, 19, dtype=torch.bool), torch.zeros(1, 19, dtype=torch.bool)
    both[0, 15:], second[0, 17] = True, True

    def square(logits: Tensor, _: Tensor) -> Tensor:
        return logits.square()

    edits = (edit_of(both, 1.0, slice(0, 5)), RowEdit(second, square))
    output = attend(layer.kernel, dataclasses.replace(layer.inputs(), row_edits=edits), layer.context())
    sample = BATCH[0]
    for row in (15, 17):
        logits = torch.einsum("hd,hkd->hk", sample.query[:, row], sample.key.repeat_interleave(2, 0)) * SCALING
        logits[:, :5] += 1
        logits = logits.square() if row == 17 else logits
        weights = logits[:, : row + 1].softmax(-1)
        expected = torch.einsum("hk,hkd->hd", weights, sample.value.repeat_interleave(2, 0)[:, : row + 1])
        assert torch.allclose(output[0, row], expected, atol=1e-5)


def test_more_rows_than_fit_at_once_are_all_computed() -> None:
    length = 2 * ROWS_AT_ONCE + 3
    layer = Layer([prompt(length, [slice(2, 9)], seed=4)])
    every = torch.ones(1, length, dtype=torch.bool)
    inputs = layer.inputs()
    edited = dataclasses.replace(inputs, row_edits=(edit_of(every, 3.0),))  # the same shift everywhere: no change
    output = attend(layer.kernel, edited, layer.context())
    assert torch.allclose(output, layer.kernel(inputs.query, inputs.key, inputs.value), atol=1e-5)


@pytest.mark.parametrize("mask_kind", ["none", "bool"])
def test_several_tokens_of_a_later_turn_see_what_lies_before_each(mask_kind: str) -> None:
    sample, new = BATCH[0], 4
    query, key, value = sample.query[None, :, -new:], sample.key[None], sample.value[None]
    attended = torch.ones(new, 19, dtype=torch.bool).tril(19 - new)[None, None]
    context = LayerContext(
        2, 4, sample.visual[None, :-new], torch.ones(1, 15, dtype=torch.bool), SCALING, prefill=False,
        mask=None if mask_kind == "none" else attended,
    )  # fmt: skip
    edited = KernelInputs(query, key, value, (edit_of(torch.ones(1, new, dtype=torch.bool), 0.0),))

    def nothing(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return torch.zeros_like(sdpa(query, key, value, attended))

    output = attend(nothing, edited, context)
    assert torch.allclose(output, sdpa(query, key, value, attended), atol=1e-5)


def test_attention_that_is_not_causal_sees_everything() -> None:
    layer = Layer(BATCH[:1])
    context = dataclasses.replace(layer.context(), mask=None, causal=False)
    assert context.sees(torch.arange(3), 19, 19) is None


def test_an_additive_mask_keeps_its_values() -> None:
    """Position biases travel in additive masks; a row beside the kernel must not lose them."""
    layer = Layer(BATCH[:1], mask_kind="additive")
    bias = torch.randn(1, 1, 19, 19, generator=torch.Generator().manual_seed(0))
    context = dataclasses.replace(layer.context(), mask=layer.mask() + bias)
    rows = torch.ones(1, 19, dtype=torch.bool)
    inputs = dataclasses.replace(layer.inputs(), row_edits=(edit_of(rows, 0.0),))

    def kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return sdpa(query, key, value, context.mask)

    plain = kernel(inputs.query, inputs.key, inputs.value)
    assert torch.allclose(attend(kernel, inputs, context), plain, atol=1e-5)
