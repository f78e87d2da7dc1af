"""What users do with a pruned model of any family: beams, static caches, turns, loops of their own, training."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_simignore.pruning.random_tokens import RandomTokens
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.types import UserError
from tests.family_reference import forward_positions, generate_inputs, hidden_generate
from tests.masked_reference import distance, generate, visible_mask
from tests.tiny_families import BUILDERS, FIRST_WORD, VOCAB, FamilyBatch, tiny_family, tiny_family_batch

NAMES = sorted(BUILDERS)
MANY_AXES = [name for name in NAMES if name.startswith("qwen")]
OWN_GENERATE = "instructblip"
HALF = RandomTokens(keep_ratio=0.5)


@cache
def case(name: str) -> tuple[Any, FamilyBatch]:
    model = tiny_family(name)
    return model, tiny_family_batch(name, model)


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="attach.. got no spans")
        yield


@pytest.mark.parametrize("name", NAMES)
def test_beams_equal_the_masked_model(name):
    model, batch = case(name)
    options = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False}
    with torch.no_grad(), attach(model, HALF) as trace:
        beams = model.generate(**batch.inputs, **options)
    assert len(trace.kept) == 9 and trace.grids == [grids for grids in batch.grids for _ in range(3)]
    inner = model.language_model if name == OWN_GENERATE else model
    with torch.no_grad():
        reference = generate_inputs(model, batch, visible_mask(batch.inputs, trace.kept[::3]))
        assert torch.equal(beams, inner.generate(**reference, **options))


@pytest.mark.parametrize("name", NAMES)
def test_a_static_cache_gives_the_same_tokens(name):
    model, batch = case(name)
    with torch.no_grad(), attach(model, HALF):
        dynamic, logits, _ = generate(model, batch.inputs)
        static, static_logits, _ = generate(model, batch.inputs, cache_implementation="static", disable_compile=True)
    assert torch.equal(dynamic, static) and distance(logits, static_logits) < 2e-4


def _second_turn(model: Any, name: str, inputs: dict[str, Any], first: Any) -> tuple[Tensor, Tensor]:
    question = torch.randint(FIRST_WORD, VOCAB, (3, 5), generator=torch.Generator().manual_seed(9))
    ids = torch.cat([first.sequences, question], 1)
    more = {"attention_mask": _widened(inputs["attention_mask"], ids, 1)}
    for key in ("mm_token_type_ids", "token_type_ids"):
        if key in inputs:
            more[key] = _widened(inputs[key], ids, 1 if name == "paligemma" else 0)
    if "position_ids" in inputs:
        known = inputs["position_ids"]
        further = known[..., -1:] + 1 + torch.arange(ids.shape[1] - known.shape[-1])
        more["position_ids"] = torch.cat([known, further], -1)
    return generate(model, {"input_ids": ids, "past_key_values": first.past_key_values, **more}, tokens=4)[:2]


def _widened(values: Tensor, ids: Tensor, filling: int) -> Tensor:
    tail = values.new_full((ids.shape[0], ids.shape[1] - values.shape[1]), filling)
    return torch.cat([values, tail], 1)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {OWN_GENERATE}))
def test_a_second_turn_on_the_same_cache_equals_the_masked_model(name):
    model, batch = case(name)
    options = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True}
    with torch.no_grad():
        with attach(model, HALF) as trace:
            first = model.generate(**batch.inputs, **options)
            sequences, logits = _second_turn(model, name, batch.inputs, first)
        reference = generate_inputs(model, batch, visible_mask(batch.inputs, trace.kept))
        expected = _second_turn(model, name, reference, model.generate(**reference, **options))
    assert torch.equal(sequences, expected[0])
    assert distance(logits, expected[1]) < 2e-4


@pytest.mark.parametrize("name", sorted(set(NAMES) - {OWN_GENERATE}))
def test_a_loop_without_positions_equals_generate(name):
    model, batch = case(name)
    mask = batch.inputs["attention_mask"]
    with torch.no_grad(), attach(model, HALF):
        _, logits, _ = generate(model, batch.inputs, tokens=3)
        output = model(**batch.inputs)
        for step in range(2):
            mask = torch.cat([mask, torch.ones(3, 1, dtype=torch.long)], 1)
            token = output.logits[:, -1:].argmax(-1)
            output = model(input_ids=token, attention_mask=mask, past_key_values=output.past_key_values)
            assert distance(output.logits[:, -1], logits[:, step + 1]) < 2e-4


def test_a_loop_over_the_forward_of_instructblip_equals_its_generate():
    model, batch = case(OWN_GENERATE)
    images = {key: value for key, value in batch.inputs.items() if key.startswith(("pixel", "qformer"))}
    mask = batch.inputs["attention_mask"]
    with torch.no_grad(), attach(model, HALF):
        _, logits, _ = generate(model, batch.inputs, tokens=3)
        output = model(**batch.inputs)
        for step in range(2):
            mask = torch.cat([mask, torch.ones(3, 1, dtype=torch.long)], 1)
            token, cache = output.logits[:, -1:].argmax(-1), output.language_model_outputs.past_key_values
            output = model(**images, input_ids=token, attention_mask=mask, past_key_values=cache)
            assert distance(output.logits[:, -1], logits[:, step + 1]) < 2e-4


@pytest.mark.parametrize("name", NAMES)
def test_generating_without_a_cache_keeps_the_same_tokens(name):
    if name == OWN_GENERATE:
        pytest.skip("without a cache, its language model is given ids and the image is lost, pruned or not")
    model, batch = case(name)
    with torch.no_grad(), attach(model, HALF):
        cached, logits, _ = generate(model, batch.inputs, tokens=4)
        free, free_logits, _ = generate(model, batch.inputs, tokens=4, use_cache=False)
    assert torch.equal(cached, free) and distance(logits, free_logits) < 2e-4


@pytest.mark.parametrize("name", NAMES)
def test_masking_and_closing_gaps_equal_the_masked_model(name):
    model, batch = case(name)
    with torch.no_grad(), attach(model, Simignore(keep_ratio=0.5, apply="mask")) as trace:
        sequences, logits, _ = generate(model, batch.inputs)
    with torch.no_grad():
        expected = hidden_generate(model, batch, visible_mask(batch.inputs, trace.kept))
    assert torch.equal(sequences, expected[0]) and distance(logits, expected[1]) < 2e-4


@pytest.mark.parametrize("name", MANY_AXES)
def test_closing_gaps_is_refused_where_positions_have_height_and_width(name):
    model, batch = case(name)
    renumber = Simignore(keep_ratio=0.5, positions="renumber")
    with torch.no_grad(), attach(model, renumber), pytest.raises(UserError, match="height and width"):
        model(**batch.inputs)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(MANY_AXES)))
def test_closed_gaps_equal_the_masked_model_at_closed_positions(name):
    model, batch = case(name)
    with torch.no_grad(), attach(model, Simignore(keep_ratio=0.5, positions="renumber")) as trace:
        sequences, logits, _ = generate(model, batch.inputs)
    mask = visible_mask(batch.inputs, trace.kept)
    inner = model.language_model if name == OWN_GENERATE else model
    with torch.no_grad():
        closed = {**generate_inputs(model, batch, mask), "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
        expected = generate(inner, closed)
    assert torch.equal(sequences, expected[0]) and distance(logits, expected[1]) < 2e-4


def test_paligemma_2_has_two_kinds_of_mask_and_soft_caps():
    model = tiny_family("paligemma", "eager", model_type="gemma2", query_pre_attn_scalar=16, sliding_window=128)
    batch = tiny_family_batch("paligemma", model)
    with torch.no_grad():
        with attach(model, HALF) as trace:
            sequences, logits, _ = generate(model, batch.inputs)
        expected = hidden_generate(model, batch, visible_mask(batch.inputs, trace.kept))
    assert torch.equal(sequences, expected[0]) and distance(logits, expected[1]) < 2e-4


# -- training


def _gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_every_gradient_equal_the_masked_model(name):
    model, batch = case(name)
    labels = torch.full_like(batch.inputs["input_ids"], -100)
    labels[:, -4:] = batch.inputs["input_ids"][:, -4:]
    with attach(model, HALF) as trace:
        output = model(**batch.inputs, labels=labels)
    got = _gradients(model, output.loss)
    hidden = {
        "attention_mask": visible_mask(batch.inputs, trace.kept),
        "position_ids": forward_positions(model, batch),
    }
    reference = model(**batch.inputs | hidden, labels=labels)
    expected = _gradients(model, reference.loss)
    assert abs(float((output.loss - reference.loss).detach())) < 1e-4
    assert set(got) == set(expected)
    largest = max(float(value.abs().max()) for value in expected.values())
    assert max(distance(got[name], expected[name]) for name in expected) < 1e-4 * largest
    assert any("vision" in name or "visual" in name for name in got)


# -- what is refused


def test_a_prompt_longer_than_gemmas_window_is_refused():
    model = tiny_family("gemma3", sliding_window=8)
    batch = tiny_family_batch("gemma3", model)
    with torch.no_grad(), attach(model, HALF), pytest.raises(UserError, match="within a window of 8 positions"):
        model.generate(**batch.inputs, max_new_tokens=1)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_videos_are_refused_in_forward_and_in_generate(name):
    model, batch = case(name)
    ids = batch.inputs["input_ids"].clone()
    ids[ids == 4] = 5
    names = {"pixel_values": "pixel_values_videos", "image_grid_thw": "video_grid_thw"}
    inputs = {names.get(key, key): value for key, value in batch.inputs.items()}
    inputs |= {"input_ids": ids, "mm_token_type_ids": (ids == 5).int() * 2}
    with torch.no_grad(), attach(model, HALF):
        with pytest.raises(UserError, match="video input cannot be pruned"):
            model(**inputs)
        with pytest.raises(UserError, match="video input cannot be pruned"):
            model.generate(**inputs, max_new_tokens=1)


def test_instructblip_with_an_encoder_decoder_is_refused():
    model = tiny_family("instructblip")
    model.config.use_decoder_only_language_model = False
    with pytest.raises(UserError, match="encoder-decoder"), attach(model, HALF):
        pass
