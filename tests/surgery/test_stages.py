"""Pruning inside the decoder against the same model with the dropped tokens hidden from that layer on."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from lit_simignore.metrics.flops import DecoderShape, decoder_budget
from lit_simignore.pruning.base import CountPruner, Features, Need, Pruner
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.pyramiddrop import PyramidDrop
from lit_simignore.pruning.random_tokens import RandomTokens
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.types import Selection, UserError
from tests.masked_reference import (
    HiddenFromLayers,
    distance,
    generate,
    hidden_by_stage,
    num_hooks,
    reference_inputs,
)
from tests.surgery.test_stage0 import RAGGED, Ragged, flipped
from tests.surgery.test_training import answer_labels, gradients
from tests.tiny_models import QUESTIONS, tiny_batch, tiny_llava


@dataclass(kw_only=True)
class RaggedAt(Pruner):
    """Another number of tokens for every sample, before a layer."""

    layer_idx: int = 2
    factor: int = 1

    def choose(self, features: Features) -> Selection:
        inner = RandomTokens(num_keep=RAGGED[features.key] // self.factor, seed=self.layer_idx)
        return inner.choose(features)

    def with_budget(self, definition, num_tokens, shape=None):
        raise NotImplementedError


@dataclass(kw_only=True)
class SimilarAt(Simignore):
    """Simignore on hidden states."""

    layer_idx: int = 2


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request):
    return tiny_llava(request.param)


@pytest.fixture(scope="module")
def sdpa():
    return tiny_llava()


@pytest.fixture(scope="module")
def batch():
    return tiny_batch()


PARTS = [
    pytest.param((FastV(layer_idx=2, num_keep=5),), id="FastV"),
    pytest.param((RaggedAt(layer_idx=1),), id="ragged at 1"),
    pytest.param((RaggedAt(layer_idx=1), RaggedAt(layer_idx=3, factor=2)), id="ragged twice"),
    pytest.param((SimilarAt(layer_idx=3, num_keep=4),), id="similarity of hidden states"),
    pytest.param((PyramidDrop(layers=(1, 2, 3), keep_ratio=(0.75, 0.5, 0.25)),), id="PyramidDrop"),
    pytest.param((Simignore(num_keep=9), FastV(layer_idx=2, num_keep=4)), id="Simignore then FastV"),
    pytest.param((Simignore(num_keep=9, apply="mask"), FastV(layer_idx=2, num_keep=4)), id="masked, then FastV"),
    pytest.param((Ragged(), RaggedAt(layer_idx=2, factor=2)), id="ragged before and inside"),
]


def reference_for(batch, trace):
    """Entry drops as a mask and original positions, and the hidden columns of every stage."""
    entry = [stage for stage in trace.stages if stage.layer_idx is None]
    kept = entry[-1].kept if entry else [torch.arange(16)] * 3
    return reference_inputs(batch.inputs, kept), hidden_by_stage(batch.inputs, trace)


@pytest.mark.parametrize("parts", PARTS)
def test_generate_equals_hiding_token_for_token(model, batch, parts):
    with torch.no_grad(), attach(model, *parts, spans=batch.spans) as trace:
        sequences, logits, cache = generate(model, batch.inputs)
    inputs, hidden = reference_for(batch, trace)
    with HiddenFromLayers(model, hidden):
        expected, expected_logits, _ = generate(model, inputs)
    assert torch.equal(sequences, expected)
    assert distance(logits, expected_logits) < 3e-4
    _, entry_only, _ = generate(model, inputs)
    assert distance(entry_only, logits) > 0.05, "the stages changed nothing, so nothing was tested"
    assert cache.get_seq_length() == batch.length + 7
    lengths = [int(cache.get_seq_length(layer)) for layer in range(4)]
    assert lengths == sorted(lengths, reverse=True) and lengths[3] < batch.length + 7


@pytest.mark.parametrize("parts", PARTS)
def test_prompts_of_one_length_need_masks_only_where_counts_differ(model, parts):
    """Without padding there is no mask to start from, in the prefill and in every later step."""
    batch = tiny_batch(questions=QUESTIONS[:1])
    with torch.no_grad(), attach(model, *parts, spans=batch.spans) as trace:
        sequences, logits, _ = generate(model, batch.inputs)
        uncached = model.generate(**batch.inputs, max_new_tokens=8, do_sample=False, use_cache=False)
    inputs, hidden = reference_for(batch, trace)
    with HiddenFromLayers(model, hidden):
        expected, expected_logits, _ = generate(model, inputs)
    assert torch.equal(sequences, expected) and distance(logits, expected_logits) < 3e-4
    assert torch.equal(uncached, expected)


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("padding", ["left", "right"])
def test_forward_logits_keep_their_columns(sdpa, batch, parts, padding):
    if padding == "right" and any(isinstance(part, (Ragged, RaggedAt)) for part in parts):
        pytest.skip("needs keys, and spans label the left-padded batch")
    inputs = batch.inputs if padding == "left" else flipped(batch)
    spans = batch.spans if padding == "left" else None
    import warnings

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with attach(sdpa, *parts, spans=spans) as trace:
            logits = sdpa(**inputs).logits
    shown = type(batch)(inputs, spans, batch.samples)
    reference, hidden = reference_for(shown, trace)
    reference["position_ids"] = torch.arange(batch.length)[None].expand(3, -1)
    with torch.no_grad(), HiddenFromLayers(sdpa, hidden):
        expected = sdpa(**reference).logits
    rows = reference["attention_mask"].bool() & ~hidden[max(hidden)]
    assert logits.shape == expected.shape and distance(logits[rows], expected[rows]) < 3e-4
    assert bool((logits[~rows] == 0).all())


def test_fastv_reads_the_attention_that_the_eager_model_shows(batch):
    eager, sdpa = tiny_llava("eager"), tiny_llava("sdpa")
    with torch.no_grad():
        shown = eager(**batch.inputs, output_attentions=True).attentions
    for model in (eager, sdpa):
        for layer in (1, 2, 3):
            with torch.no_grad(), attach(model, FastV(layer_idx=layer, num_keep=6), spans=batch.spans) as trace:
                model(**batch.inputs)
            for row in range(3):
                visual = batch.inputs["input_ids"][row] == 4
                expected = shown[layer - 1][row, :, -1, visual].mean(0)
                assert torch.allclose(trace.stages[0].scores[row], expected, atol=1e-6)
                assert trace.kept[row].tolist() == sorted(expected.topk(6).indices.tolist())


def test_pyramiddrop_reads_the_attention_of_its_own_layer_before_the_drop(batch):
    eager, sdpa = tiny_llava("eager"), tiny_llava("sdpa")
    with torch.no_grad():
        shown = eager(**batch.inputs, output_attentions=True).attentions
    for model in (eager, sdpa):
        with torch.no_grad(), attach(model, PyramidDrop(layers=(2,), num_keep=(6,)), spans=batch.spans) as trace:
            model(**batch.inputs)
        for row in range(3):
            visual = batch.inputs["input_ids"][row] == 4
            expected = shown[2][row, :, -1, visual].mean(0)
            assert torch.allclose(trace.stages[0].scores[row], expected, atol=1e-6)


@dataclass(kw_only=True)
class Everything(Pruner):
    """Looks at all that a decoder offers."""

    layer_idx: int = 2
    needs: ClassVar[frozenset[Need]] = frozenset(
        {
            Need.TEXT,
            Need.QUERY_ATTENTION,
            Need.OWN_ATTENTION,
            Need.TEXT_ATTENTION,
            Need.LAYER_KEYS,
            Need.FINAL_NORM,
            Need.INPUT_EMBEDDINGS,
            Need.ROPE,
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seen: list[Features] = []

    def choose(self, features: Features) -> Selection:
        self.seen.append(features)
        return Selection(kept=torch.arange(0, features.visual.shape[0], 2))

    def with_budget(self, definition, num_tokens, shape=None):
        raise NotImplementedError


def test_features_inside_the_decoder_are_what_the_model_itself_computes(batch):
    model, watcher = tiny_llava("eager"), Everything()
    with torch.no_grad():
        shown = model(**batch.inputs, output_attentions=True, output_hidden_states=True)
        with attach(model, watcher, spans=batch.spans):
            model(**batch.inputs)
    decoder = model.get_decoder()
    for row, features in enumerate(watcher.seen):
        visual = (batch.inputs["input_ids"][row] == 4).nonzero()[:, 0]
        text = batch.spans.tokens("prompt")[row].nonzero()[:, 0]
        state = shown.hidden_states[2][row]
        assert torch.allclose(features.visual, state[visual]) and torch.allclose(features.text, state[text])
        assert torch.allclose(features.query_attention, shown.attentions[1][row, :, -1, visual], atol=1e-6)
        assert torch.allclose(features.own_attention, shown.attentions[2][row, :, -1, visual], atol=1e-6)
        expected = shown.attentions[1][row][:, text][:, :, visual]
        assert torch.allclose(features.text_attention, expected, atol=1e-6)
        with torch.no_grad():
            assert torch.allclose(features.normed_visual, decoder.norm(state[visual]))
            assert torch.allclose(features.normed_text, decoder.norm(state[text]))
            cos, sin = decoder.rotary_emb(state[None], position_ids=torch.arange(batch.length)[None])
            layer = decoder.layers[1]
            keys = layer.self_attn.k_proj(layer.input_layernorm(shown.hidden_states[1][row]))
        assert torch.allclose(features.visual_rope, torch.stack([cos[0, visual], sin[0, visual]]))
        assert torch.allclose(features.text_rope, torch.stack([cos[0, text], sin[0, text]]))
        assert torch.allclose(features.input_visual, shown.hidden_states[0][row, visual])
        assert torch.allclose(features.input_text, shown.hidden_states[0][row, text])
        keys = keys.view(batch.length, 2, 16).transpose(0, 1)
        half = torch.cat([-keys[..., 8:], keys[..., :8]], -1)
        rotated = keys * cos[0] + half * sin[0]
        assert torch.allclose(features.layer_keys, rotated[:, visual], atol=1e-5)
        assert torch.allclose(features.text_keys, rotated[:, text], atol=1e-5)
        pads = int((batch.inputs["attention_mask"][row] == 0).sum())
        assert torch.equal(features.visual_columns, visual - pads) and torch.equal(features.text_columns, text - pads)
        assert features.grids == ((4, 4),) and features.num_input is None


def test_num_input_counts_what_entered_the_decoder(batch):
    model, watcher = tiny_llava(), Everything(layer_idx=3)
    parts = (Simignore(num_keep=10), FastV(layer_idx=1, num_keep=6), watcher)
    with torch.no_grad(), attach(model, *parts, spans=batch.spans):
        model(**batch.inputs)
    assert [features.num_input for features in watcher.seen] == [10, 10, 10]
    assert all(features.visual.shape[0] == 6 and features.grids == () for features in watcher.seen)
    assert all(features.input_visual.shape[0] == 10 for features in watcher.seen)


def test_keep_all_inside_the_decoder_is_bit_identical(model, batch):
    with torch.no_grad():
        plain = generate(model, batch.inputs)
        for parts in ((FastV(layer_idx=2, num_keep=16),), (Simignore(num_keep=16), RaggedKeepAll())):
            with attach(model, *parts, spans=batch.spans):
                attached = generate(model, batch.inputs)
            assert torch.equal(plain[1], attached[1]) and torch.equal(plain[0], attached[0])
            assert not hasattr(attached[2], "_lit_simignore")


class RaggedKeepAll(SimilarAt):
    def __init__(self) -> None:
        super().__init__(layer_idx=1, num_keep=99)


@pytest.mark.parametrize("fail", [False, True])
def test_the_model_is_bit_identical_after_the_block(model, batch, fail):
    configs = [layer.self_attn.config for layer in model.get_decoder().layers]
    with torch.no_grad():
        before = generate(model, batch.inputs)
        hooks = num_hooks(model)
        try:
            with attach(model, PyramidDrop(layers=(1, 2), keep_ratio=(0.5, 0.25)), spans=batch.spans):
                generate(model, batch.inputs)
                if fail:
                    raise RuntimeError
        except RuntimeError:
            assert fail
        after = generate(model, batch.inputs)
    assert num_hooks(model) == hooks and torch.equal(before[1], after[1])
    for layer, config in zip(model.get_decoder().layers, configs, strict=True):
        assert layer.self_attn.config is config
        assert not [name for name in vars(layer.self_attn) if "simignore" in name]


@pytest.mark.parametrize("parts", PARTS)
def test_a_batch_equals_batches_of_one(sdpa, batch, parts):
    with torch.no_grad(), attach(sdpa, *parts, spans=batch.spans) as trace:
        together, _, _ = generate(sdpa, batch.inputs)
        kept = trace.kept
    for row in range(3):
        real = batch.inputs["attention_mask"][row].bool()
        alone = {
            "input_ids": batch.inputs["input_ids"][row : row + 1, real],
            "attention_mask": batch.inputs["attention_mask"][row : row + 1, real],
            "pixel_values": batch.inputs["pixel_values"][row : row + 1],
        }
        spans = batch.spans.take([row])
        spans = type(spans)(spans.input_ids[:, real], spans.roles[:, real], spans.keys)
        with torch.no_grad(), attach(sdpa, *parts, spans=spans) as trace:
            tokens, _, _ = generate(sdpa, alone)
        assert torch.equal(trace.kept[0], kept[row]) and torch.equal(tokens[0, -8:], together[row, -8:])


@pytest.mark.parametrize("parts", PARTS)
def test_beams_static_caches_and_no_cache_agree_with_hiding(sdpa, batch, parts):
    options = {"max_new_tokens": 6, "do_sample": False}
    with torch.no_grad(), attach(sdpa, *parts, spans=batch.spans) as trace:
        plain = sdpa.generate(**batch.inputs, **options)
        static = sdpa.generate(**batch.inputs, **options, cache_implementation="static", disable_compile=True)
        uncached = sdpa.generate(**batch.inputs, **options, use_cache=False)
        beams = sdpa.generate(**batch.inputs, **options, num_beams=3)
    assert torch.equal(plain, static) and torch.equal(plain, uncached)
    inputs, hidden = reference_for(batch, trace)
    with HiddenFromLayers(sdpa, hidden):
        expected = sdpa.generate(**inputs, **options, num_beams=3)
    assert torch.equal(beams, expected)


@pytest.mark.parametrize("parts", [PARTS[2], PARTS[5], PARTS[6], PARTS[7]])
def test_two_turns_on_one_cache_agree_with_hiding(sdpa, batch, parts):
    from tests.surgery.test_generation import first_turn, second_turn

    with torch.no_grad(), attach(sdpa, *parts, spans=batch.spans) as trace:
        got = second_turn(sdpa, batch, first_turn(sdpa, batch.inputs))
    inputs, hidden = reference_for(batch, trace)
    positions = inputs["position_ids"]
    with HiddenFromLayers(sdpa, hidden):
        expected = second_turn(
            sdpa,
            batch,
            first_turn(sdpa, inputs),
            attention_mask=inputs["attention_mask"],
            position_ids=torch.cat([positions, positions[:, -1:] + 1 + torch.arange(9)], 1),
        )
    assert torch.equal(got.sequences, expected.sequences)
    assert distance(torch.stack(got.logits), torch.stack(expected.logits)) < 3e-4


def test_a_later_attachment_continues_a_cache_with_stages_if_its_hooks_reach_far_enough(sdpa, batch):
    from tests.surgery.test_generation import first_turn, second_turn

    def first_turn_of(*parts):
        with attach(sdpa, *parts, spans=batch.spans):
            return first_turn(sdpa, batch.inputs)

    with torch.no_grad():
        with attach(sdpa, RaggedAt(layer_idx=2), spans=batch.spans):
            expected = second_turn(sdpa, batch, first_turn(sdpa, batch.inputs)).sequences
        for later in (FastV(layer_idx=2, num_keep=3), FastV(layer_idx=1, num_keep=3)):
            first = first_turn_of(RaggedAt(layer_idx=2))
            with attach(sdpa, later, spans=batch.spans):
                assert torch.equal(second_turn(sdpa, batch, first).sequences, expected)
        for later in (FastV(layer_idx=3, num_keep=3), Simignore(num_keep=3)):
            first = first_turn_of(RaggedAt(layer_idx=2))
            with attach(sdpa, later, spans=batch.spans), pytest.raises(UserError, match="before decoder layer 2"):
                second_turn(sdpa, batch, first)
        first = first_turn_of(RaggedAt(layer_idx=2))
        with pytest.raises(UserError, match="no longer attached"):
            second_turn(sdpa, batch, first)


@pytest.mark.parametrize("kind", ["prompt lookup", "assisted"])
def test_drafts_change_nothing(sdpa, kind):
    batch = tiny_batch((1,))
    ids = batch.inputs["input_ids"].clone()
    ids[0, 20] = ids[0, -1]
    inputs = {**batch.inputs, "input_ids": ids}
    spans = type(batch.spans)(ids, batch.spans.roles, batch.spans.keys)
    draft = {"prompt_lookup_num_tokens": 3} if kind == "prompt lookup" else {"assistant_model": copy.deepcopy(sdpa)}
    parts = (Simignore(num_keep=9, aggregate="mean"), FastV(layer_idx=2, num_keep=4))
    with torch.no_grad(), attach(sdpa, *parts, spans=spans) as trace:
        plain = sdpa.generate(**inputs, max_new_tokens=8, do_sample=False)
        kept = trace.kept[0]
        drafted = sdpa.generate(**inputs, max_new_tokens=8, do_sample=False, **draft)
    assert torch.equal(trace.kept[0], kept) and torch.equal(plain, drafted)


def test_a_cache_with_stages_copies_and_pickles(sdpa, batch):
    from tests.surgery.test_generation import first_turn, second_turn

    with torch.no_grad(), attach(sdpa, Ragged(), RaggedAt(factor=2), spans=batch.spans):
        first = first_turn(sdpa, batch.inputs)
        results = []
        for cache in (copy.deepcopy(first.past_key_values), pickle.loads(pickle.dumps(first.past_key_values))):
            turn = copy.copy(first)
            turn.past_key_values = cache
            results.append(second_turn(sdpa, batch, turn).sequences)
        results.append(second_turn(sdpa, batch, first).sequences)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.slow
def test_compiled_decoding_behind_stages_has_no_graph_break(batch):
    import torch._dynamo as dynamo
    from transformers import CompileConfig

    config = CompileConfig(backend="eager", fullgraph=True, mode="default")
    config._compile_all_devices = True
    model = tiny_llava()
    for parts in ((Simignore(num_keep=9), FastV(layer_idx=2, num_keep=4)), (Ragged(), RaggedAt(factor=2))):
        dynamo.reset()
        dynamo.utils.counters.clear()
        with torch.no_grad(), attach(model, *parts, spans=batch.spans):
            plain, _, _ = generate(model, batch.inputs)
            fast, _, _ = generate(model, batch.inputs, cache_implementation="static", compile_config=config)
        assert torch.equal(plain, fast)
        assert dynamo.utils.counters["stats"]["unique_graphs"] > 0
        assert sum(dynamo.utils.counters["graph_break"].values()) == 0


@pytest.mark.parametrize("parts", [PARTS[0], PARTS[2], PARTS[4], PARTS[5]])
@pytest.mark.parametrize("use_cache", [True, False])
def test_loss_and_every_gradient_equal_hiding(sdpa, batch, parts, use_cache):
    labels = answer_labels(batch.inputs)
    with attach(sdpa, *parts, spans=batch.spans) as trace:
        output = sdpa(**batch.inputs, labels=labels, use_cache=use_cache)
    got = gradients(sdpa, output.loss)
    inputs, hidden = reference_for(batch, trace)
    inputs["position_ids"] = torch.arange(batch.length)[None].expand(3, -1)
    with HiddenFromLayers(sdpa, hidden):
        reference = sdpa(**inputs, labels=labels, use_cache=use_cache)
        expected = gradients(sdpa, reference.loss)
    assert abs(float((output.loss - reference.loss).detach())) < 1e-4
    largest = max(float(value.abs().max()) for value in expected.values())
    assert max(distance(got[name], expected[name]) for name in expected) < 1e-4 * largest


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient_and_no_choice(batch, reentrant):
    model, labels = tiny_llava().train(), answer_labels(batch.inputs)
    parts = (Simignore(num_keep=9), FastV(layer_idx=2, num_keep=5), PyramidDrop(layers=(3,), num_keep=(3,)))
    with attach(model, *parts, spans=batch.spans) as trace:
        plain = gradients(model, model(**batch.inputs, labels=labels, use_cache=False).loss)
        kept = trace.kept
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()
        checkpointed = gradients(model, model(**batch.inputs, labels=labels, use_cache=False).loss)
    assert all(torch.equal(a, b) for a, b in zip(kept, trace.kept, strict=True))
    assert max(distance(plain[name], checkpointed[name]) for name in plain) < 1e-5


def test_a_recomputed_layer_is_not_listened_to(batch):
    """Otherwise queries and keys of every step of training would stay in memory until the next one."""
    from lit_simignore.surgery.attention import Heads
    from lit_simignore.surgery.drops import Drop
    from lit_simignore.surgery.stages import LayerStages

    model = tiny_llava()
    run = LayerStages(model.get_decoder(), [Drop("FastV", FastV(layer_idx=2, num_keep=4))]).begin(*_empty_prefill())
    heads = Heads(torch.zeros(1, 4, 2, 16), torch.zeros(1, 2, 2, 16), None, 1.0)
    run.observe(1, heads)
    assert run.heads == {1: heads}
    run.finish()
    run.observe(1, heads)
    assert not run.heads


def _empty_prefill():
    from lit_simignore.surgery.prompt import Prompt
    from lit_simignore.surgery.trace import CallTrace

    nothing = torch.zeros(1, 2, dtype=torch.bool)
    prompt = Prompt(visual=nothing, text=nothing)
    return prompt, CallTrace([0], [()]), prompt.slots(~nothing, ())


def test_in_training_the_query_is_the_last_token_before_the_answer(batch):
    model = tiny_llava("eager")
    labels = answer_labels(batch.inputs, last=4)
    with torch.no_grad():
        shown = model(**batch.inputs, output_attentions=True).attentions[1]
        with attach(model, FastV(layer_idx=2, num_keep=5), spans=batch.spans) as trace:
            model(**batch.inputs, labels=labels)
    for row in range(3):
        visual = batch.inputs["input_ids"][row] == 4
        assert torch.allclose(trace.stages[0].scores[row], shown[row, :, -5, visual].mean(0), atol=1e-6)


def test_under_right_padding_the_query_is_the_last_real_token(batch):
    model, inputs = tiny_llava("eager"), flipped(batch)
    with torch.no_grad():
        shown = model(**inputs, output_attentions=True).attentions[1]
        with attach(model, FastV(layer_idx=2, num_keep=5)) as trace:
            model(**inputs)
    for row in range(3):
        visual = inputs["input_ids"][row] == 4
        last = int(inputs["attention_mask"][row].sum()) - 1
        assert torch.allclose(trace.stages[0].scores[row], shown[row, :, last, visual].mean(0), atol=1e-6)


@pytest.mark.parametrize(
    "parts",
    [
        (RaggedAt(layer_idx=2, positions="renumber"),),
        (RaggedAt(layer_idx=1, positions="renumber"), RaggedAt(layer_idx=3, factor=2, positions="renumber")),
        (RaggedAt(layer_idx=1, positions="renumber"), RaggedAt(layer_idx=3, factor=2)),
    ],
    ids=["one stage", "two stages", "closed once, gaps later"],
)
def test_positions_closed_up_inside_the_decoder_equal_a_loop_over_layers(sdpa, batch, parts):
    """The oracle recomputes the whole prompt layer by layer for every new token, one sample at a time, no cache."""
    with torch.no_grad(), attach(sdpa, *parts, spans=batch.spans) as trace:
        sequences, logits, _ = generate(sdpa, batch.inputs, tokens=5)
    closes = {part.layer_idx: part.positions == "renumber" for part in parts}
    for row in range(3):
        ids = sequences[row][int((batch.inputs["attention_mask"][row] == 0).sum()) :]
        stages = {stage.layer_idx: stage.kept[row] for stage in trace.stages}
        for step in range(5):
            with torch.no_grad():
                expected = layer_loop(sdpa, batch, row, ids[: len(ids) - 5 + step], stages, closes)
            assert distance(logits[row, step], expected) < 3e-4


def layer_loop(model, batch, row, ids, stages, closes):
    """Logits of the last token: plain layers on a shrinking list of rows with explicit positions."""
    decoder = model.get_decoder()
    image = model.get_image_features(batch.inputs["pixel_values"][row : row + 1], return_dict=True).pooler_output[0]
    hidden = model.get_input_embeddings()(ids)
    visual = (ids == 4).nonzero()[:, 0]
    hidden[visual] = image
    alive, positions = torch.arange(len(ids)), torch.arange(len(ids))
    for number, layer in enumerate(decoder.layers):
        if number in stages:
            keep = torch.ones(len(ids), dtype=torch.bool)
            keep[visual] = False
            keep[visual[stages[number]]] = True
            stay = keep[alive]
            if closes[number]:
                positions = positions - (~stay).long().cumsum(0)
            hidden, alive, positions = hidden[stay], alive[stay], positions[stay]
        rotary = decoder.rotary_emb(hidden[None], position_ids=positions[None])
        hidden = layer(hidden[None], attention_mask=None, position_embeddings=rotary, position_ids=positions[None])[0]
    return model.lm_head(decoder.norm(hidden[-1]))


def test_budgets_follow_the_layers(sdpa, batch):
    parts = (Simignore(num_keep=10), FastV(layer_idx=1, num_keep=6), RaggedAt(layer_idx=3, factor=2))
    with torch.no_grad(), attach(sdpa, *parts, spans=batch.spans) as trace:
        sdpa(**batch.inputs)
    shape = DecoderShape.from_config(sdpa.config)
    for row, budget in enumerate(trace.budgets):
        text = int(batch.inputs["attention_mask"][row].sum()) - 16
        last = RAGGED[f"s{row}"] // 2
        assert budget == decoder_budget(shape, [10, 6, 6, last], total=16, text_tokens=text)
        assert len(trace.kept[row]) == last
    assert [stage.layer_idx for stage in trace.stages] == [None, 1, 3]
    assert [stage.name for stage in trace.stages] == ["Simignore", "FastV", "RaggedAt"]


def test_masking_inside_the_decoder_is_refused(sdpa):
    with (
        pytest.raises(UserError, match="hides tokens before the decoder only"),
        attach(sdpa, SimilarAt(layer_idx=2, num_keep=4, apply="mask")),
    ):
        pass


@dataclass(kw_only=True)
class BehindImage(Pruner):
    """Notes the text that stands behind the image."""

    layer_idx: int | None = None
    text: str = "after_image"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.TEXT})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seen: list[Features] = []

    def choose(self, features: Features) -> Selection:
        self.seen.append(features)
        return Selection(kept=torch.arange(5))

    def with_budget(self, definition, num_tokens, shape=None):
        raise NotImplementedError


@pytest.mark.parametrize("layer_idx", [None, 2])
@pytest.mark.parametrize("with_spans", [True, False])
def test_the_text_behind_the_image_needs_no_spans(sdpa, batch, layer_idx, with_spans):
    import warnings

    labels, watcher = answer_labels(batch.inputs, last=4), BehindImage(layer_idx=layer_idx)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        with attach(sdpa, watcher, spans=batch.spans if with_spans else None):
            sdpa(**batch.inputs)
            sdpa(**batch.inputs, labels=labels)
    for row in range(3):
        image = (batch.inputs["input_ids"][row] == 4).nonzero()[:, 0]
        pads = int((batch.inputs["attention_mask"][row] == 0).sum())
        behind = torch.arange(int(image[-1]) + 1, batch.length) - pads
        assert torch.equal(watcher.seen[row].text_columns, behind)
        assert torch.equal(watcher.seen[3 + row].text_columns, behind[:-4]), "answers are no text"


def test_every_bundled_pruner_runs_on_llava_or_says_what_it_lacks(batch):
    """The tiny model has four layers; methods with fixed layers get some that exist."""
    import dataclasses

    from lit_simignore.pruning import PRUNERS

    model, ran = tiny_llava(), []
    for name, cls in PRUNERS().items():
        fields = {item.name for item in dataclasses.fields(cls)}
        settings = {"layers": (1, 2, 3)} if "layers" in fields else {}
        if "layer_idx" in fields:
            settings["layer_idx"] = 2
        if issubclass(cls, CountPruner):
            settings["num_keep"] = 5
        pruner = cls(**settings)
        try:
            with torch.no_grad(), attach(model, pruner, spans=batch.spans) as trace:
                model.generate(**batch.inputs, max_new_tokens=2, do_sample=False)
        except UserError as error:
            assert "text tower" in str(error), name
            continue
        assert {stage.name for stage in trace.stages} == {cls.__name__}
        ran.append(name)
    assert set(PRUNERS()) - set(ran) <= {"cdpruner"}


def test_layers_outside_the_decoder_are_refused(sdpa):
    for layer in (4, 99):
        with (
            pytest.raises(UserError, match=f"layer {layer}; this decoder takes 1 to 3"),
            attach(sdpa, FastV(layer_idx=layer, num_keep=2)),
        ):
            pass


def test_labels_on_dropped_tokens_are_refused_inside_too(sdpa, batch):
    labels = answer_labels(batch.inputs)
    labels[2, (batch.inputs["input_ids"][2] == 4).nonzero()[:, 0]] = 9
    with attach(sdpa, FastV(layer_idx=2, num_keep=3), spans=batch.spans), pytest.raises(UserError, match="sample s2"):
        sdpa(**batch.inputs, labels=labels)


def test_samples_without_an_image_pass_through_stages(sdpa):
    batch = tiny_batch((1, 0, 2))
    parts = (FastV(layer_idx=1, num_keep=6), PyramidDrop(layers=(2, 3), keep_ratio=(0.5, 0.25)))
    with torch.no_grad(), attach(sdpa, *parts, spans=batch.spans) as trace:
        sequences, logits, _ = generate(sdpa, batch.inputs)
    hidden = hidden_by_stage(batch.inputs, trace)
    with HiddenFromLayers(sdpa, hidden):
        expected, expected_logits, _ = generate(sdpa, batch.inputs)
    assert torch.equal(sequences, expected) and distance(logits, expected_logits) < 3e-4
    assert [len(kept) for kept in trace.kept] == [4, 0, 6]
