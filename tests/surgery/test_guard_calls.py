"""Caches, masks and wrappers that surprise whoever prunes: each works as unpruned, or is refused with the way out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicLayer, QuantizedCache

from lit_simignore.pruning.fastervlm import FasterVLM
from lit_simignore.pruning.pyramiddrop import PyramidDrop
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.columns import visual_columns
from lit_simignore.types import UserError
from tests.masked_reference import (
    distance,
    generate,
    reference_inputs,
    visible_mask,
)
from tests.surgery.guarding import ENTRY_AND_STAGE, HALF, STAGE, HalfAt, hiding, refused
from tests.tiny_families import tiny_family, tiny_family_batch
from tests.tiny_models import tiny_batch, tiny_llava

pytestmark = pytest.mark.usefixtures("quiet")


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


def test_a_head_with_a_bias_gives_dropped_rows_its_bias_and_others_their_logits(batch):
    model = tiny_llava()
    plain = model.lm_head
    model.lm_head = nn.Linear(plain.in_features, plain.out_features)
    with torch.no_grad():
        model.lm_head.weight.copy_(plain.weight)
        with attach(model, HALF, spans=batch.spans) as trace:
            logits = model(**batch.inputs).logits
        expected = model(**reference_inputs(batch.inputs, trace.kept)).logits
    seen = visible_mask(batch.inputs, trace.kept).bool()
    dropped = ~seen & batch.inputs["attention_mask"].bool()
    assert distance(logits[seen], expected[seen]) < 1e-4
    assert bool((logits[dropped] == model.lm_head.bias).all())
