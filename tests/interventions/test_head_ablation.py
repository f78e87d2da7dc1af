"""Ablated heads against attention maps that are edited by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_simignore.interventions.eah import EAH
from lit_simignore.interventions.head_ablation import HeadAblation
from lit_simignore.types import UserError
from tests.interventions.layer import Layer, Prompt, prompt

HEADS = (1, 2)
BATCH = [prompt(19, [slice(3, 11)], seed=1), prompt(12, [slice(2, 5), slice(7, 9)], seed=2), prompt(7, [], seed=3)]


def naive(sample: Prompt, mode: str) -> Tensor:
    maps = sample.maps()
    for head in HEADS:
        for row in range(sample.length):
            if mode == "uniform":
                maps[head, row] = 0
                maps[head, row, : row + 1] = 1 / (row + 1)
            elif mode == "blind" and bool(sample.visual[:row].any()) and not bool(sample.visual[row]):
                maps[head, row, sample.visual] = 0
                maps[head, row] /= maps[head, row].sum()
    outputs = sample.outputs(maps)
    if mode == "zero":
        outputs[:, list(HEADS)] = 0
    return outputs


@pytest.mark.parametrize("mode", ["zero", "uniform", "blind"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mask_kind", ["bool", "additive", "padding"])
def test_a_padded_batch_agrees_with_maps_edited_by_hand(mode: str, side: str, mask_kind: str) -> None:
    part = HeadAblation(heads=HEADS, mode=mode)
    for sample, output in zip(BATCH, Layer(BATCH, side=side, mask_kind=mask_kind).run(part), strict=True):
        assert torch.allclose(output, naive(sample, mode), atol=1e-5)


@pytest.mark.parametrize("mode", ["zero", "uniform", "blind"])
def test_a_later_step_is_ablated_like_a_row_of_the_prefill(mode: str) -> None:
    part = HeadAblation(heads=HEADS, mode=mode)
    shorter = [Prompt(*(p[:, :-1] for p in (each.query, each.key, each.value)), each.visual[:-1]) for each in BATCH]
    layer = Layer(shorter)
    layer.run(part)
    step = layer.step(part, BATCH)
    for row, sample in enumerate(BATCH):
        assert torch.allclose(step[row, 0], naive(sample, mode)[-1], atol=1e-5)


def test_other_heads_keep_their_bits() -> None:
    layer = Layer(BATCH)
    plain = layer.run(HeadAblation())
    for mode in ("zero", "uniform"):
        for before, after in zip(plain, layer.run(HeadAblation(heads=HEADS, mode=mode)), strict=True):
            assert torch.equal(before[:, [0, 3]], after[:, [0, 3]])


def test_a_batch_without_images_has_nothing_to_be_blind_for() -> None:
    layer = Layer([prompt(7, [], seed=3)])
    inputs = layer.inputs()
    assert HeadAblation(heads=[0], mode="blind").edit(inputs, layer.context()) is inputs


def test_two_interventions_on_one_layer_follow_each_other() -> None:
    layer = Layer(BATCH)
    context, eah = layer.context(), EAH()
    inputs = eah.edit(layer.inputs(), context)
    both = HeadAblation(heads=[0], mode="zero").edit(inputs, layer.context())
    assert both.query is inputs.query
    twice = HeadAblation(heads=[2], mode="zero").edit(both, layer.context())
    assert twice.gain is not None and twice.gain.tolist() == [[0, 1, 0, 1]]


def test_heads_that_are_not_there_are_refused_in_one_line() -> None:
    layer = Layer(BATCH)
    with pytest.raises(UserError, match="names head 4; this decoder has heads 0 to 3"):
        layer.run(HeadAblation(heads=[4]))
    with pytest.raises(UserError, match="HeadAblation.heads"):
        HeadAblation(heads=[-1])
    with pytest.raises(UserError, match="HeadAblation.mode"):
        HeadAblation(mode="mean")


def test_no_heads_means_no_layers() -> None:
    assert HeadAblation(layer_idx=[0, 2]).layers(4) == ()
    assert HeadAblation(layer_idx=[0, 2], heads=[1]).layers(4) == (0, 2)
