"""Caches of a model that prunes inside its decoder: beams, turns, drafts, copies, compiled decoding."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.types import UserError
from tests.masked_reference import (
    HiddenFromLayers,
    distance,
    generate,
)
from tests.surgery.parts_inside import PARTS, RaggedAt, reference_for
from tests.surgery.test_stage0 import Ragged
from tests.tiny_models import tiny_batch, tiny_llava


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
