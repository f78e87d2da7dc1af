"""Ways of calling a model that surprise whoever prunes it: each works as unpruned, or is refused with the way out.

What has tests elsewhere: beams, sampling, static caches, turns, drafts, loops by hand, copies of caches and compiled
decoding in test_generation and test_stage_caches; caches, masks by blocks, wrappers and unusual arguments in
test_guard_calls; families in contracts/test_family_uses; training in test_training.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.pyramiddrop import PyramidDrop
from lit_simignore.pruning.random_tokens import RandomTokens
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.types import UserError
from tests.family_reference import forward_positions, hidden_generate
from tests.masked_reference import (
    distance,
    generate,
    num_hooks,
    visible_mask,
)
from tests.surgery.guarding import ENTRY_AND_STAGE, HALF, STAGE, HalfAt, hiding, refused
from tests.surgery.test_generation import repeated_words
from tests.tiny_families import BUILDERS, tiny_family, tiny_family_batch
from tests.tiny_models import QUESTIONS, tiny_batch, tiny_llava

pytestmark = pytest.mark.usefixtures("quiet")


# -- positions that jump, without a mask: transformers takes them for several packed sequences


@pytest.mark.parametrize("parts", [(HALF,), (HalfAt(keep_ratio=0.5),), (HALF, HalfAt(keep_ratio=0.5))])
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_without_mask_and_cache_the_gaps_are_no_borders_between_documents(name, parts):
    model = tiny_family(name)
    batch = tiny_family_batch(name, model, (1,))
    bare = {key: value for key, value in batch.inputs.items() if key != "attention_mask"}
    with torch.no_grad():
        with attach(model, *parts) as trace:
            logits = model(**bare, use_cache=False).logits
        mask = visible_mask(batch.inputs, trace.stages[0].kept) if parts[0] is HALF else batch.inputs["attention_mask"]
        given = {"attention_mask": mask, "position_ids": forward_positions(model, batch)}
        with hiding(model, batch.inputs, trace):
            expected = model(**batch.inputs | given, use_cache=False).logits
    assert distance(logits[:, -4:], expected[:, -4:]) < 1e-4


@pytest.mark.parametrize("part", [HALF, STAGE])
def test_rows_that_really_are_packed_are_refused(model, even, part):
    ids = even.inputs["input_ids"][:2].flatten()[None]
    positions = torch.arange(even.length).repeat(2)[None]
    packed = {"input_ids": ids, "pixel_values": even.inputs["pixel_values"][:2], "position_ids": positions}
    refused(model, {**packed, "use_cache": False}, part, words="packed into one row.*a row of its own")
    with torch.no_grad():
        plain = model(**packed, use_cache=False).logits
        with attach(model):
            assert torch.equal(model(**packed, use_cache=False).logits, plain)


# -- one layer with another implementation than the masks are made for


@pytest.mark.parametrize(("common", "own"), [("sdpa", "eager"), ("eager", "sdpa"), ("sdpa", "flex_attention")])
def test_one_layer_with_an_implementation_of_its_own_is_refused(batch, common, own):
    model = tiny_llava(common)
    attention = model.get_decoder().layers[1].self_attn
    attention.config = copy.copy(attention.config)
    attention.config._attn_implementation_internal = own
    hooks = num_hooks(model)
    refused(model, batch.inputs, HALF, words=f"layer 1 .*{own}.*set_attn_implementation..{common}")
    assert num_hooks(model) == hooks
    model.set_attn_implementation(common)
    attention.config = model.get_decoder().config
    with torch.no_grad(), attach(model, HALF):
        model(**batch.inputs)


def test_an_implementation_without_masks_is_refused_and_taken_with_one(batch):
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register("of_a_user", sdpa_attention_forward)
    model = tiny_llava()
    with torch.no_grad():
        expected = model(**batch.inputs).logits
    model.set_attn_implementation({"text_config": "of_a_user"})
    with pytest.raises(UserError, match="registered without a mask"), attach(model, HALF):
        pass
    AttentionMaskInterface.register("of_a_user", sdpa_mask)
    alive = batch.inputs["attention_mask"].bool()
    with torch.no_grad(), attach(model, RandomTokens(keep_ratio=1.0), spans=batch.spans):
        assert distance(model(**batch.inputs).logits[alive], expected[alive]) < 1e-5


# -- sliding windows, which count slots


def gemma(window: int) -> tuple[Any, Any]:
    model = tiny_family("gemma3", sliding_window=window)
    return model, tiny_family_batch("gemma3", model)


def mistral(window: int) -> tuple[Any, Any]:
    model = tiny_family("llava_next")
    model.get_decoder().config.sliding_window = window
    return model, tiny_family_batch("llava_next", model)


@pytest.mark.parametrize("make", [gemma, mistral])
@pytest.mark.parametrize("part", [HALF, FastV(layer_idx=2, keep_ratio=0.5)])
def test_a_conversation_may_fill_the_window_and_not_outgrow_it(make, part):
    length = make(512)[1].length
    model, batch = make(length + 4)
    with torch.no_grad(), attach(model, part) as trace:
        sequences, logits, _ = generate(model, batch.inputs, tokens=5)
    mask = visible_mask(batch.inputs, trace.kept) if part is HALF else batch.inputs["attention_mask"]
    with torch.no_grad(), hiding(model, batch.inputs, trace):
        expected, expected_logits = hidden_generate(model, batch, mask, 5)
    assert torch.equal(sequences, expected) and distance(logits, expected_logits) < 1e-4
    words = f"window of {length + 4} .* grown to {length + 5}.*max_new_tokens"
    refused(model, batch.inputs, part, words=words, max_new_tokens=6)


@pytest.mark.parametrize("make", [gemma, mistral])
@pytest.mark.parametrize("part", [HALF, FastV(layer_idx=2, keep_ratio=0.5)])
def test_a_static_cache_that_outgrows_the_window_is_refused_before_it_does(make, part):
    length = make(512)[1].length
    model, batch = make(length + 4)
    options = {"cache_implementation": "static", "disable_compile": True}
    refused(model, batch.inputs, part, words="static cache.*use the default cache", max_new_tokens=6, **options)
    model = make(length + 4)[0]  # generate keeps a static cache on the model, and reuses it for shorter prompts
    with torch.no_grad(), attach(model, part):
        static = model.generate(**batch.inputs, do_sample=False, max_new_tokens=3, **options)
        assert torch.equal(static, model.generate(**batch.inputs, do_sample=False, max_new_tokens=3))


@pytest.mark.parametrize("part", [HALF, STAGE])
def test_a_prompt_longer_than_the_window_is_refused(part):
    model, batch = gemma(16)
    refused(model, batch.inputs, part, words="window of 16 positions and the prompt has 26.*shorten the prompt")


def test_whoever_keeps_everything_may_outgrow_the_window():
    model, batch = gemma(30)
    with torch.no_grad():
        plain = generate(model, batch.inputs, tokens=8)[1]
        with attach(model, RandomTokens(keep_ratio=1.0)):
            assert torch.equal(generate(model, batch.inputs, tokens=8)[1], plain)


# -- prompts in pieces


@pytest.mark.parametrize("part", [STAGE, PyramidDrop(layers=(2,), num_keep=(5,)), Simignore(num_keep=5)])
@pytest.mark.parametrize("size", [8, 30])
def test_rules_that_wait_for_the_end_of_the_prompt_refuse_pieces(model, even, part, size):
    """In one case the first piece ends within the image, in the other it holds all of it."""
    refused(model, even.inputs, part, words="prefill_chunk_size", max_new_tokens=2, prefill_chunk_size=size)


@pytest.mark.parametrize("part", [HALF, HalfAt(keep_ratio=0.5)])
def test_rules_that_read_nothing_of_the_rest_take_pieces(model, even, part):
    with torch.no_grad(), attach(model, part):
        whole = model.generate(**even.inputs, max_new_tokens=4, do_sample=False)
        pieces = model.generate(**even.inputs, max_new_tokens=4, do_sample=False, prefill_chunk_size=30)
    assert torch.equal(whole, pieces)
    refused(model, even.inputs, part, words="start a new cache", max_new_tokens=2, prefill_chunk_size=8)


# -- the last prompt token, where no spans tell


@pytest.mark.parametrize("part", [STAGE, PyramidDrop(layers=(2,), num_keep=(5,))])
def test_without_a_cache_attention_is_read_at_the_last_prompt_token_at_every_step(model, batch, part):
    with torch.no_grad(), attach(model, part) as trace:
        cached, _, _ = generate(model, batch.inputs, tokens=5)
        scores = trace.stages[0].scores
        uncached, _, _ = generate(model, batch.inputs, tokens=5, use_cache=False)
    assert torch.equal(cached, uncached) and len(trace.calls) == 6
    for call in trace.calls:
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(call.stages[0].scores, scores, strict=True))


@pytest.mark.parametrize("kind", ["prompt lookup", "assisted"])
def test_drafts_are_not_taken_for_the_last_prompt_token(model, kind):
    inputs = repeated_words(tiny_batch((1,)).inputs)
    draft = {"prompt_lookup_num_tokens": 3} if kind == "prompt lookup" else {"assistant_model": copy.deepcopy(model)}
    with torch.no_grad(), attach(model, STAGE) as trace:
        plain = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        scores = trace.stages[0].scores[0]
        drafted = model.generate(**inputs, max_new_tokens=8, do_sample=False, **draft)
    assert torch.equal(plain, drafted) and torch.allclose(trace.stages[0].scores[0], scores, atol=1e-6)


@pytest.mark.parametrize("beams", [1, 3])
def test_beams_on_a_static_cache(model, batch, beams):
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams}
    with torch.no_grad(), attach(model, *ENTRY_AND_STAGE, spans=batch.spans):
        dynamic = model.generate(**batch.inputs, **options)
        static = model.generate(**batch.inputs, **options, cache_implementation="static", disable_compile=True)
    assert torch.equal(dynamic, static)


# -- images that arrive late


@pytest.mark.parametrize("first", [1, 0], ids=["after an image", "after text"])
@pytest.mark.parametrize("part", [HALF, STAGE])
def test_an_image_in_a_later_turn_of_generate_is_refused(model, first, part):
    batch, other = tiny_batch((first,) * 3, questions=QUESTIONS[:1]), tiny_batch()
    with torch.no_grad(), attach(model, part):
        turn = model.generate(**batch.inputs, max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
        ids = torch.cat([turn.sequences, torch.full((3, 16), 4), torch.full((3, 3), 9)], 1)
        more = {"attention_mask": torch.ones_like(ids), "pixel_values": other.inputs["pixel_values"]}
        with pytest.raises(UserError, match="start a new cache with the whole conversation"):
            model.generate(input_ids=ids, past_key_values=turn.past_key_values, max_new_tokens=2, **more)
