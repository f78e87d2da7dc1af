"""Pruning inside the decoder against the same model with the dropped tokens hidden from that layer on."""

from __future__ import annotations

import pytest
import torch

from lit_simignore.metrics.flops import DecoderShape, decoder_budget
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.pyramiddrop import PyramidDrop
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.types import UserError
from tests.masked_reference import (
    HiddenFromLayers,
    distance,
    generate,
    hidden_by_stage,
    num_hooks,
)
from tests.surgery.parts_inside import PARTS, RaggedAt, SimilarAt, reference_for
from tests.surgery.test_stage0 import RAGGED, Ragged, flipped
from tests.surgery.test_training import answer_labels
from tests.tiny_models import QUESTIONS, tiny_batch, tiny_llava


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request):
    return tiny_llava(request.param)


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
