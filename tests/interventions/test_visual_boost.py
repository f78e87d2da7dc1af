"""PAI's boost against one row of logits written out, and its guidance token by token."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lit_simignore.interventions.eah import EAH
from lit_simignore.interventions.visual_boost import VisualBoost, last_alive
from lit_simignore.types import UserError
from tests.interventions.layer import SCALING, Layer, Prompt, prompt

BATCH = [prompt(19, [slice(3, 11)], seed=1), prompt(12, [slice(2, 5), slice(7, 9)], seed=2), prompt(7, [], seed=3)]


def naive_last_row(sample: Prompt, alpha: float, maps_of: int | None = None) -> Tensor:
    """``(H, d)`` of the last token, one head and one key at a time."""
    heads, groups = len(sample.query), len(sample.key)
    rows = []
    for head in range(heads):
        asking = head if maps_of is None else maps_of
        weights = []
        for key in range(sample.length):
            logit = SCALING * float(sample.query[asking, -1] @ sample.key[asking // (heads // groups), key])
            weights.append(math.exp(logit + alpha * abs(logit) * bool(sample.visual[key])))
        value = sample.value[head // (heads // groups)]
        rows.append(sum(weight / sum(weights) * value[key] for key, weight in enumerate(weights)))
    return torch.stack(rows)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mask_kind", ["bool", "additive", "padding"])
def test_the_last_row_of_every_sample_is_boosted_and_no_other(side: str, mask_kind: str) -> None:
    outputs = Layer(BATCH, side=side, mask_kind=mask_kind).run(VisualBoost(alpha=0.5))
    for sample, output in zip(BATCH, outputs, strict=True):
        plain = sample.outputs(sample.maps())
        assert torch.allclose(output[:-1], plain[:-1], atol=1e-5)
        assert torch.allclose(output[-1], naive_last_row(sample, 0.5), atol=1e-5)
    assert float((outputs[0][-1] - BATCH[0].outputs(BATCH[0].maps())[-1]).abs().max()) > 0.1


def test_every_later_step_is_boosted() -> None:
    shorter = [Prompt(*(p[:, :-1] for p in (each.query, each.key, each.value)), each.visual[:-1]) for each in BATCH]
    for part in (VisualBoost(alpha=0.5), VisualBoost.preset("released", alpha=0.5)):
        layer = Layer(shorter)
        layer.run(part)
        step = layer.step(part, BATCH)
        for row, sample in enumerate(BATCH):
            assert torch.allclose(step[row, 0], naive_last_row(sample, 0.5), atol=1e-5)


def test_the_released_preset_predicts_the_first_token_without_the_boost() -> None:
    layer = Layer(BATCH)
    inputs = layer.inputs()
    assert VisualBoost.preset("released").edit(inputs, layer.context()) is inputs


def test_behind_eah_the_shared_map_is_boosted() -> None:
    layer = Layer(BATCH[:1])
    context = layer.context()
    eah = EAH()
    inputs = eah.edit(layer.inputs(), context)
    winner = int(context.memory["winning_head"][0])

    class Both(VisualBoost):
        def edit(self, _, context):
            return super().edit(inputs, context)

    (output,) = layer.run(Both(alpha=0.5))
    assert torch.allclose(output[-1], naive_last_row(BATCH[0], 0.5, maps_of=winner), atol=1e-5)


def test_a_hidden_visual_token_is_not_boosted_into_view() -> None:
    """Masking pruners leave the token in place; its logit must stay out of the softmax."""
    sample = BATCH[0]
    layer = Layer([sample])
    hidden = layer.attended().clone()
    hidden[:, :, :, 3:6] = False
    layer.attended = lambda: hidden  # type: ignore[method-assign]
    changed = Prompt(sample.query, sample.key.clone(), sample.value.clone(), sample.visual)
    changed.key[:, 3:6], changed.value[:, 3:6] = 50.0, 1e4
    other = Layer([changed])
    other.attended = lambda: hidden  # type: ignore[method-assign]
    first, second = layer.run(VisualBoost(alpha=0.9))[0], other.run(VisualBoost(alpha=0.9))[0]
    assert torch.equal(first[-1], second[-1])


def test_guidance_is_the_released_formula_token_by_token() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, second = 3 * torch.randn(2, 11, generator=generator), 3 * torch.randn(2, 11, generator=generator)
    scores = VisualBoost(gamma=1.3, plausibility=0.1).combine(logits, second)
    for row in range(2):
        total, other = (sum(math.exp(float(x)) for x in part[row]) for part in (logits, second))
        with_image = [float(x) - math.log(total) for x in logits[row]]
        without = [float(x) - math.log(other) for x in second[row]]
        for token in range(11):
            expected = 1.3 * (with_image[token] - without[token]) + without[token]
            if math.exp(with_image[token]) < 0.1 * math.exp(max(with_image)):
                expected = -math.inf
            assert math.isclose(float(scores[row, token]), expected, abs_tol=1e-5)
    assert bool(scores.isinf().any()) and bool(scores.isfinite().any())


def test_layers_run_from_the_first_to_the_last() -> None:
    assert VisualBoost().layers(32) == tuple(range(2, 32))
    assert VisualBoost(first_layer=1, last_layer=2).layers(4) == (1, 2)
    assert VisualBoost(alpha=0, gamma=1.1).layers(4) == ()
    assert not VisualBoost().contrasts and VisualBoost.preset("released").contrasts
    with pytest.raises(UserError, match="edits decoder layers 2 to 1; this decoder has layers 0 to 1"):
        VisualBoost().layers(2)
    with pytest.raises(UserError, match="layers 2 to 9"):
        VisualBoost(last_layer=9).layers(4)


@pytest.mark.parametrize(
    "bad", [{"alpha": -1.0}, {"gamma": 0.9}, {"plausibility": 1.1}, {"first_layer": -1}, {"last_layer": 1}]
)
def test_a_bad_field_is_refused_in_one_line(bad: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"VisualBoost.{next(iter(bad))}"):
        VisualBoost(**bad)


def test_the_last_real_slot_is_found_on_either_side() -> None:
    alive = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    assert last_alive(alive).int().tolist() == [[0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]
