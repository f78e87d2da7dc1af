"""Information flow of a batch: shares, maps and counts against Hugging Face's eager maps and loops over them."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_simignore.attribution.cam import class_activation
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.random_tokens import RandomTokens
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.flow import Flow, SmoothGrad, information_flow
from lit_simignore.surgery.forced import teacher_forced
from lit_simignore.types import UserError
from tests.masked_reference import num_hooks, visual_columns_of
from tests.tiny_families import BUILDERS, FamilyBatch, tiny_family, tiny_family_batch
from tests.tiny_models import tiny_batch, tiny_llava

ANSWERS = [torch.tensor([30, 31]), torch.tensor([40]), torch.tensor([50, 51, 52])]
pytestmark = pytest.mark.filterwarnings("ignore:attach.. got no spans")


@cache
def case(name: str) -> tuple[Any, FamilyBatch]:
    model = tiny_family(name)
    return model, tiny_family_batch(name, model)


def eager_maps(name: str, batch: FamilyBatch) -> tuple[Any, tuple[Tensor, ...]]:
    model = tiny_family(name, "eager")
    forced = teacher_forced(model, batch.inputs, ANSWERS)
    with torch.no_grad():
        return forced, model(**forced.inputs, use_cache=False, output_attentions=True).attentions


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl", "gemma3"])
def test_shares_and_image_attention_equal_sums_over_eager_maps(name: str) -> None:
    model, batch = case(name)
    flows = information_flow(model, batch.inputs, ANSWERS, gradients=False)
    forced, maps = eager_maps(name, batch)
    visual = visual_columns_of(forced.inputs["input_ids"])
    for row, flow in enumerate(flows):
        assert flow.cam is None and flow.grids == batch.grids[row]
        for layer in range(4):
            mean = maps[layer][row][:, forced.rows(row)].mean(dim=(0, 1))
            first = int(visual[row][0]) if len(visual[row]) else 0
            on_image = float(mean[visual[row]].sum())
            expected = [float(mean[:first].sum()), on_image, 0.0, float(mean[forced.first :].sum())]
            expected[2] = 1 - sum(expected)
            assert flow.shares[layer].tolist() == pytest.approx(expected, abs=1e-5)
            image = maps[layer][row][:, forced.rows(row)].mean(dim=1)[:, visual[row]]
            assert torch.allclose(flow.attention[layer], image, atol=1e-5)
        assert torch.allclose(flow.shares.sum(dim=1), torch.ones(4), atol=1e-5)
        assert torch.allclose(flow.even.sum(dim=1), torch.ones(4), atol=1e-5)
        assert bool(flow.visible.all()) and flow.visible.shape == (4, batch.num_visual[row])


def test_received_attention_is_the_mean_over_the_queries_behind_a_token() -> None:
    model, batch = case("llava")
    flow = information_flow(model, batch.inputs, ANSWERS, gradients=False)[1]
    forced, maps = eager_maps("llava", batch)
    real = forced.inputs["attention_mask"][1].nonzero()[:, 0].tolist()
    for place, column in enumerate(visual_columns_of(forced.inputs["input_ids"])[1].tolist()):
        below = [query for query in real if query > column]
        expected = sum(maps[2][1][:, query, column] for query in below) / len(below)
        assert torch.allclose(flow.received[2, :, place], expected, atol=1e-6)


def test_even_shares_count_the_tokens_that_a_query_sees() -> None:
    model, batch = case("llava")
    flow = information_flow(model, batch.inputs, ANSWERS, gradients=False, queries="prompt")[0]
    ids = batch.inputs["input_ids"][0][batch.inputs["attention_mask"][0].bool()]
    before = int((ids == 4).nonzero()[0])
    expected = [before / len(ids), 32 / len(ids), (len(ids) - before - 32) / len(ids), 0]
    assert flow.even[3].tolist() == pytest.approx(expected)


def test_maps_equal_a_naive_backward_pass_of_one_sample() -> None:
    model, batch = case("llava")
    flow = information_flow(model, batch.inputs, ANSWERS)[0]
    features: list[Tensor] = []
    for layer in model.get_decoder().layers:
        layer.post_attention_layernorm.register_forward_hook(lambda module, args, output: features.append(output))
    forced = teacher_forced(model, batch.inputs, ANSWERS)
    logits = model(**forced.inputs, use_cache=False).logits
    score = sum(logits[0, forced.first - 1 + t, token] for t, token in enumerate(ANSWERS[0].tolist()))
    slopes = torch.autograd.grad(score, features)
    for layer in model.get_decoder().layers:
        layer.post_attention_layernorm._forward_hooks.clear()
    columns = visual_columns_of(forced.inputs["input_ids"])[0]
    assert flow.score == pytest.approx(float(score.detach()), abs=1e-4)
    for index in range(4):
        expected = class_activation(features[index][0, columns].detach(), slopes[index][0, columns])
        assert flow.cam is not None and torch.allclose(flow.cam[index], expected, atol=1e-5)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in sorted(BUILDERS)])
def test_a_batch_gives_what_its_samples_give_alone(name: str) -> None:
    """Also a check that every family runs: left padding moves columns, not results."""
    model, batch = case(name)
    together = information_flow(model, batch.inputs, ANSWERS)
    alone = tiny_family_batch(name, model, (2,))
    single = information_flow(model, alone.inputs, ANSWERS[:1])[0]
    _assert_close(together[0], single)


def _assert_close(first: Flow, second: Flow) -> None:
    for name in ("shares", "attention", "received", "cam", "saliency"):
        a, b = getattr(first, name), getattr(second, name)
        assert torch.allclose(a, b, atol=2e-4 * max(float(b.abs().max()), 1e-3)), name


def test_left_padding_changes_nothing() -> None:
    model, batch = case("llava")
    alone = tiny_family_batch("llava", model, (2,))
    assert alone.length <= batch.length
    together = information_flow(model, batch.inputs, ANSWERS)
    _assert_close(together[0], information_flow(model, alone.inputs, ANSWERS[:1])[0])


# -- pruning, comparison, noise


@pytest.mark.parametrize("parts", [(Simignore(num_keep=5),), (FastV(layer_idx=2, num_keep=5),)])
def test_under_a_pruner_maps_are_zero_where_tokens_are_gone(parts: tuple[Any, ...]) -> None:
    model, batch = tiny_llava(), tiny_batch((1, 2, 0))
    answers = [torch.tensor([10, 11]), torch.tensor([12]), torch.tensor([13])]
    with torch.no_grad(), attach(model, *parts, spans=batch.spans) as trace:
        model(**batch.inputs)
    flows = information_flow(model, batch.inputs, answers, parts=parts, spans=batch.spans)
    for row, flow in enumerate(flows):
        kept = torch.zeros(flow.visible.shape[1], dtype=torch.bool)
        kept[trace.kept[row]] = True
        assert torch.equal(flow.visible[3], kept), "the answer had a say in what is kept"
        assert flow.cam is not None and flow.saliency is not None
        for maps in (flow.attention[3], flow.received[3], flow.cam[3], flow.saliency[3]):
            assert not bool(maps[..., ~kept].any())
        assert torch.allclose(flow.shares.sum(dim=1), torch.ones(4), atol=1e-5)
    assert float(flows[0].attention[3].sum()) > 0
    system = information_flow(model, batch.inputs, answers, gradients=False)[0].even[3, 0]
    assert float(flows[0].even[3, 0]) > float(system) > 0, "fewer tokens, and text before the image is system still"


def test_inside_an_attach_block_nothing_else_is_attached() -> None:
    model, batch = case("llava")
    with attach(model, RandomTokens(num_keep=3)):
        flow = information_flow(model, batch.inputs, ANSWERS, gradients=False)[0]
        with pytest.raises(UserError, match="leave parts= out"):
            information_flow(model, batch.inputs, ANSWERS, parts=[RandomTokens(num_keep=1)], spans=object())  # type: ignore[arg-type]
    assert int(flow.visible[0].sum()) == 3 and num_hooks(model.get_decoder()) == 0


def test_the_released_target_is_read_where_an_image_counts_as_one_token() -> None:
    model, batch = case("llava")
    flow = information_flow(model, batch.inputs, ANSWERS, mode="released")[1]
    start = int(batch.inputs["attention_mask"][1].argmax())
    ids = batch.inputs["input_ids"][1, start:]
    short = len(ids) - 16 + 1
    forced = teacher_forced(model, batch.inputs, ANSWERS)
    with torch.no_grad():
        logits = model(**forced.inputs, use_cache=False).logits[1, start:]
    assert flow.score == pytest.approx(float(logits[short, 40]), abs=1e-4)


def test_smoothing_is_the_mean_over_noisy_pictures() -> None:
    model, batch = case("llava")
    smoothed = information_flow(model, batch.inputs, ANSWERS, smoothing=SmoothGrad(sigma=0.3, num_samples=2, seed=4))
    random = torch.Generator().manual_seed(4)
    pixels = batch.inputs["pixel_values"]
    runs = []
    for _ in range(2):
        noisy = pixels + 0.3 * torch.randn(pixels.shape, generator=random)
        runs.append(information_flow(model, {**batch.inputs, "pixel_values": noisy}, ANSWERS))
    for row in range(3):
        expected = (runs[0][row].cam + runs[1][row].cam) / 2  # type: ignore[operator]
        assert torch.allclose(smoothed[row].cam, expected, atol=1e-6)  # type: ignore[arg-type]
    plain = information_flow(model, batch.inputs, ANSWERS)
    assert torch.equal(plain[0].attention, smoothed[0].attention), "noise is for the maps alone"
    assert not torch.allclose(plain[0].cam, smoothed[0].cam, atol=1e-5)  # type: ignore[arg-type]


def test_bad_choices_are_refused_in_one_line() -> None:
    model, batch = case("llava")
    with pytest.raises(UserError, match="queries must be one of answer, prompt"):
        information_flow(model, batch.inputs, ANSWERS, queries="all")
    with pytest.raises(UserError, match="pass spans="):
        information_flow(model, batch.inputs, ANSWERS, parts=[RandomTokens(num_keep=1)])
