"""Ways of calling a model that surprise whoever prunes it: each works as unpruned, or is refused with the way out.

What has tests elsewhere: beams, sampling, static caches, turns, drafts, loops by hand, copies of caches and compiled
decoding in test_generation and test_stages; families in contracts/test_family_uses; training in test_training.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicLayer, QuantizedCache

from lit_simignore.pruning.fastervlm import FasterVLM
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.pyramiddrop import PyramidDrop
from lit_simignore.pruning.random_tokens import RandomTokens
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.columns import visual_columns
from lit_simignore.types import UserError
from tests.family_reference import forward_positions, hidden_generate
from tests.masked_reference import (
    HiddenFromLayers,
    distance,
    generate,
    hidden_by_stage,
    num_hooks,
    reference_inputs,
    visible_mask,
)
from tests.surgery.test_generation import repeated_words
from tests.tiny_families import BUILDERS, tiny_family, tiny_family_batch
from tests.tiny_models import QUESTIONS, tiny_batch, tiny_llava

HALF, STAGE = RandomTokens(keep_ratio=0.5), FastV(layer_idx=2, num_keep=5)
ENTRY_AND_STAGE = (HALF, STAGE)


@dataclass(kw_only=True)
class HalfAt(RandomTokens):
    """Reads nothing, inside the decoder."""

    layer_idx: int = 2


@pytest.fixture(scope="module")
def model():
    return tiny_llava()


@pytest.fixture(scope="module")
def batch():
    return tiny_batch()


@pytest.fixture(scope="module")
def even():
    """Prompts of one length: nothing calls for a mask."""
    return tiny_batch(questions=QUESTIONS[:1])


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="attach.. got no spans")
        yield


def refused(model: Any, inputs: dict[str, Any], *parts: Any, words: str, **options: Any) -> None:
    """The call is refused in one line; ``generate`` where options are given, else ``forward``."""
    with torch.no_grad(), pytest.raises(UserError, match=words) as caught, attach(model, *parts):
        model.generate(**inputs, do_sample=False, **options) if options else model(**inputs)
    assert "\n" not in str(caught.value)


def hiding(model: Any, inputs: dict[str, Any], trace: Any) -> HiddenFromLayers:
    return HiddenFromLayers(model, hidden_by_stage(inputs, trace))


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


# -- caches


def test_quantised_caches_are_refused_by_name(model, batch):
    cache = QuantizedCache.__new__(QuantizedCache)  # its backends are optional packages; the refusal needs none
    Cache.__init__(cache, layer_class_to_replicate=DynamicLayer)
    words = "got QuantizedCache: leave cache_implementation unset or use 'static'"
    for parts in ((HALF,), (STAGE,)):
        refused(model, {**batch.inputs, "past_key_values": cache}, *parts, words=words)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["offloaded", "offloaded_static"])
def test_offloaded_caches_give_the_same_tokens(batch, kind):
    model = tiny_llava().cuda()
    inputs = {name: value.cuda() for name, value in batch.inputs.items()}
    with torch.no_grad(), attach(model, *ENTRY_AND_STAGE, spans=batch.spans.to("cuda")):
        plain = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        offloaded = model.generate(
            **inputs, max_new_tokens=6, do_sample=False, cache_implementation=kind, disable_compile=True
        )
    assert torch.equal(plain, offloaded)


@pytest.mark.parametrize("parts", [(HALF,), (STAGE,), ENTRY_AND_STAGE])
def test_text_behind_the_image_can_be_taken_back_and_asked_anew(model, parts):
    """Reuse of a prompt's begin: crop, then another question. What reaches into the image is refused."""
    batch = tiny_batch((1,))
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    with torch.no_grad(), attach(model, *parts) as trace:
        cache = model(**batch.inputs).past_key_values
        cache.crop(-6)
        assert cache.get_seq_length() == batch.length - 6
        got = model(input_ids=ids[:, -6:] + 1, attention_mask=mask, past_key_values=cache).logits
        with pytest.raises(UserError, match="reach into a pruned image.*start a new cache"):
            cache.crop(-(batch.length - 12))
    other = {**batch.inputs, "input_ids": torch.cat([ids[:, :-6], ids[:, -6:] + 1], 1)}
    entry = [stage.kept for stage in trace.stages if stage.layer_idx is None] or [[torch.arange(16)]]
    with torch.no_grad(), hiding(model, batch.inputs, trace):
        expected = model(**reference_inputs(other, entry[-1])).logits
    assert distance(got, expected[:, -6:]) < 3e-4


def test_masked_tokens_are_all_there_and_can_be_taken_back(model):
    batch = tiny_batch((1,))
    with torch.no_grad(), attach(model, Simignore(num_keep=5, apply="mask")):
        cache = model(**batch.inputs).past_key_values
        cache.crop(-(batch.length - 12))
        assert cache.get_seq_length() == 12


# -- block masks


def test_rules_of_attention_refuse_block_masks():
    from lit_simignore.surgery.attention import install_tap, tapped_attention

    class Listening:
        probing = False

        def observe(self, layer_idx, heads):
            raise AssertionError

    module = nn.Module()
    module.config = tiny_llava().get_decoder().config
    rows = torch.zeros(1, 1, 2, 4)
    handle = install_tap(module, Listening())
    with pytest.raises(UserError, match="a BlockMask cannot be read; load the model with attn_implementation='sdpa'"):
        tapped_attention(module, rows, rows, rows, type("BlockMask", (), {})())
    handle.remove()


@pytest.mark.slow
def test_flex_attention_takes_rules_that_read_no_attention(batch):
    import torch._dynamo as dynamo

    flex, parts = tiny_llava("flex_attention"), (HALF, HalfAt(keep_ratio=0.5))
    with torch.no_grad(), attach(tiny := tiny_llava(), *parts, spans=batch.spans):
        expected = tiny(**batch.inputs).logits
    # what torch 2.13 compiles of it for CPUs has fixed shapes
    with torch.no_grad(), dynamo.config.patch(automatic_dynamic_shapes=False), attach(flex, *parts, spans=batch.spans):
        assert distance(flex(**batch.inputs).logits, expected) < 1e-4
    refused(flex, batch.inputs, STAGE, words="BlockMask.*'sdpa'")
    model = tiny_family("gemma3", "flex_attention")
    refused(model, tiny_family_batch("gemma3", model).inputs, HALF, words="BlockMask.*'sdpa'")


# -- wrappers


@pytest.mark.parametrize(
    "parts", [(STAGE,), (FasterVLM(num_keep=9), STAGE), (PyramidDrop(layers=(2,), num_keep=(3,)),)]
)
def test_adapters_on_the_layers_that_are_listened_to(batch, parts):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(tiny_llava(), config).eval()
    merged = copy.deepcopy(model).merge_and_unload()
    merged.generation_config = model.generation_config
    with torch.no_grad(), attach(merged, *parts, spans=batch.spans) as expected_trace:
        expected, expected_logits, _ = generate(merged, batch.inputs)
    with torch.no_grad(), attach(model, *parts, spans=batch.spans) as trace:
        sequences, logits, _ = generate(model, batch.inputs)
    assert torch.equal(sequences, expected) and distance(logits, expected_logits) < 1e-4
    assert all(torch.equal(a, b) for a, b in zip(trace.kept, expected_trace.kept, strict=True))


@pytest.mark.slow
def test_a_compiled_model_prunes_in_its_forward(batch):
    plain = tiny_llava()
    compiled = torch.compile(tiny_llava(), backend="eager")
    with torch.no_grad():
        with attach(plain, *ENTRY_AND_STAGE, spans=batch.spans):
            expected = plain(**batch.inputs).logits
        with attach(compiled, *ENTRY_AND_STAGE, spans=batch.spans) as trace:
            assert distance(compiled(**batch.inputs).logits, expected) < 1e-4
    assert [len(kept) for kept in trace.kept] == [5, 5, 5]


# -- less usual arguments


def test_a_boolean_choice_of_logits_names_columns_of_the_original_prompt(model, batch):
    columns = torch.zeros(3, batch.length, dtype=torch.bool)
    columns[:, -3:] = True
    with torch.no_grad(), attach(model, *ENTRY_AND_STAGE, spans=batch.spans):
        few = model(**batch.inputs, logits_to_keep=columns).logits
        full = model(**batch.inputs).logits
    # a matmul of other rows may round otherwise
    torch.testing.assert_close(few.flatten(0, -2), full[:, -3:].flatten(0, 1), atol=1e-5, rtol=1e-5)


def test_attention_maps_and_hidden_states_are_shown_at_their_true_lengths(batch):
    model = tiny_llava("eager")
    with torch.no_grad(), attach(model, *ENTRY_AND_STAGE, spans=batch.spans):
        output = model(**batch.inputs, output_attentions=True, output_hidden_states=True)
    maps = [shown.shape[-1] for shown in output.attentions]
    assert maps[0] == maps[1] > maps[2] == maps[3]
    assert [state.shape[1] for state in output.hidden_states] == [maps[0], *maps]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("use_cache", [True, False])
def test_generating_from_embeddings_whose_columns_are_named(model, batch, beams, use_cache):
    ids = batch.inputs["input_ids"]
    with torch.no_grad():
        embeds = model.get_input_embeddings()(ids)
        images = model.get_image_features(batch.inputs["pixel_values"], return_dict=True).pooler_output
        embeds[ids == 4] = torch.cat(list(images))
        options = {"max_new_tokens": 5, "do_sample": False, "num_beams": beams, "use_cache": use_cache}
        given = {"inputs_embeds": embeds, "attention_mask": batch.inputs["attention_mask"]}
        with attach(model, *ENTRY_AND_STAGE) as trace, visual_columns(ids == 4, keys=("a", "b", "c")):
            sequences = model.generate(**given, **options)
        per_sample = [copy.copy(stage) for stage in trace.calls[0].stages]
        for stage in per_sample:
            stage.kept = stage.kept[:: len(stage.kept) // 3]
        shown = type("Shown", (), {"stages": per_sample})
        with hiding(model, batch.inputs, shown):
            expected = model.generate(**reference_inputs(batch.inputs, per_sample[0].kept), **options)
    assert torch.equal(sequences, expected[:, batch.length :])


def test_ddp_prunes_and_gives_the_gradients_of_the_inner_model(tmp_path, batch):
    from torch import distributed

    labels = torch.full_like(batch.inputs["input_ids"], -100)
    labels[:, -4:] = batch.inputs["input_ids"][:, -4:]
    inner, model = tiny_llava(), tiny_llava()
    with attach(inner, *ENTRY_AND_STAGE, spans=batch.spans):
        inner(**batch.inputs, labels=labels).loss.backward()
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        with attach(wrapped, *ENTRY_AND_STAGE, spans=batch.spans) as trace:
            wrapped(**batch.inputs, labels=labels).loss.backward()
    finally:
        distributed.destroy_process_group()
    assert [len(kept) for kept in trace.kept] == [5, 5, 5]
    for one, other in zip(inner.parameters(), model.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None) and (one.grad is None or torch.equal(one.grad, other.grad))
