"""Every way of generating that a user may choose, on a pruned prompt: it works as unpruned, or says why not."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch

from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.types import UserError
from tests.masked_reference import distance, generate, reference_inputs
from tests.surgery.test_stage0 import Ragged
from tests.tiny_models import QUESTIONS, tiny_batch, tiny_llava

MODES = [
    pytest.param(Simignore(num_keep=4), id="drop"),
    pytest.param(Ragged(), id="ragged"),
    pytest.param(Ragged(apply="mask"), id="ragged mask"),
    pytest.param(Ragged(positions="renumber"), id="ragged renumber"),
]


def expected_inputs(batch, trace, pruner):
    return reference_inputs(batch.inputs, trace.kept, renumber=pruner.positions == "renumber")


@pytest.mark.parametrize("pruner", MODES)
def test_beams_equal_the_masked_model(model, batch, pruner):
    with torch.no_grad(), attach(model, pruner, spans=batch.spans) as trace:
        beams = model.generate(**batch.inputs, max_new_tokens=6, num_beams=3, do_sample=False)
    assert len(trace.kept) == 3, "one entry per sample, not per beam"
    reference = expected_inputs(batch, trace, pruner)
    expected = model.generate(**reference, max_new_tokens=6, num_beams=3, do_sample=False)
    assert torch.equal(beams, expected)


def test_beams_without_spans_are_traced_per_row(model, batch):
    with torch.no_grad(), pytest.warns(UserWarning, match="no spans"), attach(model, Simignore(num_keep=4)) as trace:
        model.generate(**batch.inputs, max_new_tokens=2, num_beams=2, do_sample=False)
    assert len(trace.kept) == 6


def test_sampling_with_several_returns_expands_the_spans(model, batch):
    with torch.no_grad(), attach(model, Ragged(), spans=batch.spans) as trace:
        torch.manual_seed(0)
        sampled = model.generate(**batch.inputs, max_new_tokens=4, do_sample=True, num_return_sequences=2)
    reference = reference_inputs(batch.inputs, trace.kept)
    torch.manual_seed(0)
    assert torch.equal(sampled, model.generate(**reference, max_new_tokens=4, do_sample=True, num_return_sequences=2))


@pytest.mark.parametrize("pruner", MODES)
def test_a_static_cache_gives_the_same_tokens(model, batch, pruner):
    with torch.no_grad(), attach(model, pruner, spans=batch.spans):
        dynamic, logits, _ = generate(model, batch.inputs)
        static, static_logits, _ = generate(model, batch.inputs, cache_implementation="static", disable_compile=True)
    assert torch.equal(dynamic, static) and distance(logits, static_logits) < 2e-4


def second_turn(model, batch, first, turn_tokens=5, **extra):
    """Ask again on the first turn's cache: the whole conversation as ids and mask."""
    generator = torch.Generator().manual_seed(9)
    question = torch.randint(5, 50, (3, turn_tokens), generator=generator)
    ids = torch.cat([first.sequences, question], 1)
    ones = torch.ones(3, ids.shape[1] - batch.length, dtype=torch.long)
    mask = torch.cat([extra.pop("attention_mask", batch.inputs["attention_mask"]), ones], 1)
    return model.generate(
        input_ids=ids,
        attention_mask=mask,
        past_key_values=first.past_key_values,
        max_new_tokens=5,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        **extra,
    )


def first_turn(model, inputs):
    return model.generate(**inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)


def two_masked_turns(model, batch, kept, renumber=False):
    reference = reference_inputs(batch.inputs, kept, renumber)
    positions = reference["position_ids"]
    later = positions[:, -1:] + 1 + torch.arange(9)
    return second_turn(
        model,
        batch,
        first_turn(model, reference),
        attention_mask=reference["attention_mask"],
        position_ids=torch.cat([positions, later], 1),
    )


@pytest.mark.parametrize("pruner", MODES)
def test_two_turns_on_one_cache_equal_the_masked_model(model, batch, pruner):
    with torch.no_grad(), attach(model, pruner, spans=batch.spans) as trace:
        got = second_turn(model, batch, first_turn(model, batch.inputs))
    expected = two_masked_turns(model, batch, trace.kept, pruner.positions == "renumber")
    assert torch.equal(got.sequences, expected.sequences)
    assert distance(torch.stack(got.logits), torch.stack(expected.logits)) < 2e-4


def test_a_later_attachment_continues_the_cache_of_an_earlier_one(model, batch):
    with torch.no_grad():
        with attach(model, Ragged(), spans=batch.spans) as trace:
            first = first_turn(model, batch.inputs)
        with attach(model, Simignore(num_keep=2), spans=batch.spans):
            got = second_turn(model, batch, first)
    expected = two_masked_turns(model, batch, trace.kept)
    assert torch.equal(got.sequences, expected.sequences)


def test_a_pruned_cache_is_refused_after_the_block(model, batch):
    with torch.no_grad(), attach(model, Ragged(), spans=batch.spans):
        first = first_turn(model, batch.inputs)
    with pytest.raises(UserError, match="no longer attached"):
        second_turn(model, batch, first)


def test_a_second_turn_of_a_batch_on_a_static_cache_is_refused(model, batch):
    with torch.no_grad(), attach(model, Ragged(), spans=batch.spans):
        first = model.generate(
            **batch.inputs,
            max_new_tokens=4,
            do_sample=False,
            return_dict_in_generate=True,
            cache_implementation="static",
            disable_compile=True,
        )
        with pytest.raises(UserError, match="static cache"):
            second_turn(model, batch, first, disable_compile=True)


def test_an_image_in_a_later_turn_is_refused(model, batch):
    with torch.no_grad(), attach(model, Ragged(), spans=batch.spans):
        first = first_turn(model, batch.inputs)
        with pytest.raises(UserError, match="start a new cache"):
            mask = torch.cat([batch.inputs["attention_mask"], torch.ones(3, 3 + 16, dtype=torch.long)], 1)
            model(
                input_ids=torch.full((3, 16), 4),
                attention_mask=mask,
                pixel_values=batch.inputs["pixel_values"],
                past_key_values=first.past_key_values,
            )


def test_chunked_prefill_is_refused(model, batch):
    with torch.no_grad(), attach(model, Simignore(num_keep=4), spans=batch.spans), pytest.raises(UserError):
        model.generate(**batch.inputs, max_new_tokens=3, do_sample=False, prefill_chunk_size=8)
    with (
        torch.no_grad(),
        pytest.warns(UserWarning),
        attach(model, Simignore(num_keep=4)),
        pytest.raises(UserError, match="prefill_chunk_size"),
    ):
        model.generate(**batch.inputs, max_new_tokens=3, do_sample=False, prefill_chunk_size=18)


def test_chunked_prefill_whose_first_piece_holds_the_whole_image_is_refused_too(model):
    """Nothing is missing but text; the choice would silently be another one."""
    batch = tiny_batch(questions=QUESTIONS[:1])
    options = {"max_new_tokens": 3, "do_sample": False, "prefill_chunk_size": 30}
    assert bool((batch.inputs["input_ids"][:, 30:] != 4).all())
    with torch.no_grad(), pytest.warns(UserWarning), attach(model, Simignore(num_keep=4)):
        with pytest.raises(UserError, match="prefill_chunk_size"):
            model.generate(**batch.inputs, **options)
        # neither a second turn nor a question asked by hand after the prefill is mistaken for it
        first = model(**batch.inputs)
        mask = torch.cat([batch.inputs["attention_mask"], torch.ones(3, 4, dtype=torch.long)], 1)
        model(input_ids=torch.full((3, 4), 9), attention_mask=mask, past_key_values=first.past_key_values)
        output = model.generate(**batch.inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True)
        ids = torch.cat([output.sequences, torch.full((3, 3), 9)], 1)
        model.generate(ids, attention_mask=mask, past_key_values=output.past_key_values, max_new_tokens=2)
        # a text-only prompt may come in pieces
        words = {"input_ids": batch.inputs["input_ids"][:, 20:], "attention_mask": mask[:, 20:-4]}
        model.generate(**words, max_new_tokens=2, do_sample=False, prefill_chunk_size=8)


@pytest.mark.parametrize("with_spans", [True, False])
@pytest.mark.parametrize("beams", [1, 2])
def test_generation_without_a_cache_chooses_the_same_tokens_at_every_step(model, batch, with_spans, beams):
    spans = batch.spans if with_spans else None
    pruner = Simignore(num_keep=4, aggregate="mean")
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams}
    with torch.no_grad(), pytest.warns(UserWarning) if not with_spans else _quiet():
        with attach(model, pruner, spans=spans):
            cached = model.generate(**batch.inputs, **options)
        with attach(model, pruner, spans=spans) as trace:
            uncached = model.generate(**batch.inputs, **options, use_cache=False)
    assert torch.equal(cached, uncached)
    assert len(trace.calls) == 6
    for call in trace.calls:
        assert all(torch.equal(a, b) for a, b in zip(call.stages[0].scores, trace.stages[0].scores, strict=True))


@pytest.mark.parametrize("apply", ["drop", "mask"])
@pytest.mark.parametrize("with_spans", [True, False])
@pytest.mark.parametrize("kind", ["prompt lookup", "assisted"])
def test_drafts_do_not_change_the_choice(model, kind, with_spans, apply):
    """Drafts sit in the prefill and are taken back out of the cache; the mean over text rows would notice them."""
    batch = tiny_batch((1,))
    draft = {"prompt_lookup_num_tokens": 3} if kind == "prompt lookup" else {"assistant_model": copy.deepcopy(model)}
    inputs = repeated_words(batch.inputs)
    spans = type(batch.spans)(inputs["input_ids"], batch.spans.roles, batch.spans.keys) if with_spans else None
    pruner = Simignore(num_keep=4, aggregate="mean", apply=apply)
    lengths = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    with torch.no_grad(), pytest.warns(UserWarning) if not with_spans else _quiet():
        with attach(model, pruner, spans=spans) as trace:
            plain = model.generate(**inputs, max_new_tokens=8, do_sample=False)
            expected = trace.stages[0]
        lengths.clear()
        with attach(model, pruner, spans=spans) as trace:
            drafted = model.generate(**inputs, max_new_tokens=8, do_sample=False, **draft)
    handle.remove()
    assert lengths[0] > batch.length, "no draft was part of the prefill, so nothing was tested"
    assert torch.equal(trace.stages[0].scores[0], expected.scores[0])
    assert torch.equal(trace.kept[0], expected.kept[0]) and torch.equal(plain, drafted)


def repeated_words(inputs):
    """The prompt with its last word also near its begin, so that prompt lookup finds a draft at once."""
    ids = inputs["input_ids"].clone()
    ids[0, 20] = ids[0, -1]
    return {**inputs, "input_ids": ids}


def test_a_loop_written_by_hand_needs_no_positions(model, batch):
    for pruner in (Simignore(num_keep=4), Ragged(), Ragged(apply="mask"), Ragged(positions="renumber")):
        with torch.no_grad(), attach(model, pruner, spans=batch.spans):
            first = model(**batch.inputs)
            _, logits, _ = generate(model, batch.inputs, tokens=2)
            token = model.generate(**batch.inputs, max_new_tokens=1, do_sample=False)[:, -1:]
            mask = torch.cat([batch.inputs["attention_mask"], torch.ones(3, 1, dtype=torch.long)], 1)
            second = model(input_ids=token, attention_mask=mask, past_key_values=first.past_key_values)
        # rotary attention sees differences only, so counting padding or not gives the same logits
        assert distance(second.logits[:, -1], logits[:, 1]) < 2e-4


def test_a_mask_of_the_short_prompt_is_refused(model, batch):
    with torch.no_grad(), attach(model, Ragged(), spans=batch.spans):
        first = model(**batch.inputs)
        with pytest.raises(UserError, match="whole conversation"):
            model(
                input_ids=torch.full((3, 1), 9),
                attention_mask=torch.ones(3, 5, dtype=torch.long),
                past_key_values=first.past_key_values,
            )


def test_logits_processors_and_max_length_see_the_original_prompt(model, batch):
    with torch.no_grad(), attach(model, Ragged(), spans=batch.spans) as trace:
        punished, _, _ = generate(model, batch.inputs, repetition_penalty=1.7)
        limited = model.generate(**batch.inputs, max_length=batch.length + 3, do_sample=False)
    expected, _, _ = generate(model, reference_inputs(batch.inputs, trace.kept), repetition_penalty=1.7)
    assert torch.equal(punished, expected) and limited.shape[1] == batch.length + 3


def test_output_options_keep_working(model, batch):
    with torch.no_grad(), attach(model, Simignore(num_keep=4), spans=batch.spans):
        as_tuple = model(**batch.inputs, return_dict=False)
        states = model(**batch.inputs, output_hidden_states=True).hidden_states
        few = model(**batch.inputs, logits_to_keep=2).logits
        full = model(**batch.inputs).logits
    assert as_tuple[0].shape == full.shape
    torch.testing.assert_close(few, full[:, -2:], atol=1e-5, rtol=1e-5)  # a matmul of other rows may round otherwise
    assert states[1].shape[1] < batch.length


def test_threads_generate_at_the_same_time(model, batch):
    results = {}

    def work(name):
        with torch.no_grad():
            results[name] = model.generate(**batch.inputs, max_new_tokens=6, do_sample=False)

    with torch.no_grad(), attach(model, Ragged(), spans=batch.spans) as trace:
        expected = model.generate(**batch.inputs, max_new_tokens=6, do_sample=False)
        threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 3 and all(torch.equal(result, expected) for result in results.values())
    assert len(trace.calls) == 4


def test_memory_of_the_cache_is_freed_without_the_garbage_collector(model, batch):
    with torch.no_grad(), attach(model, Ragged(), spans=batch.spans):
        _, _, cache = generate(model, batch.inputs)
        keys = weakref.ref(cache.layers[0].keys)
        gc.collect()
        gc.disable()
        try:
            del cache
            assert keys() is None
        finally:
            gc.enable()


def test_a_pruned_cache_copies_pickles_and_resets(model, batch):
    with torch.no_grad(), attach(model, Ragged(), spans=batch.spans) as trace:
        first = first_turn(model, batch.inputs)
        copied = copy.deepcopy(first.past_key_values)
        loaded = pickle.loads(pickle.dumps(first.past_key_values))
        length = batch.length + 3
        assert copied.get_seq_length() == loaded.get_seq_length() == length
        results = []
        for cache in (first.past_key_values, copied, loaded):
            first.past_key_values = cache
            results.append(second_turn(model, batch, first).sequences)
    assert all(torch.equal(result, results[0]) for result in results)
    copied.reset()
    assert copied.get_seq_length() == 0
    assert len(trace.calls) == 1


@pytest.mark.parametrize("pruner", MODES)
def test_rows_of_a_pruned_cache_can_be_reordered_repeated_and_taken(model, batch, pruner):
    order, inputs = torch.tensor([2, 0, 1]), batch.inputs

    def step(cache, rows):
        mask = torch.cat([inputs["attention_mask"][rows], torch.ones(len(rows), 1, dtype=torch.long)], 1)
        token = torch.full((len(rows), 1), 9)
        return model(input_ids=token, attention_mask=mask, past_key_values=cache).logits[:, -1]

    with torch.no_grad(), attach(model, pruner, spans=batch.spans):
        caches = [model(**inputs).past_key_values for _ in range(4)]
        expected = step(caches[0], torch.arange(3))
        caches[1].reorder_cache(order)
        assert distance(step(caches[1], order), expected[order]) < 1e-4
        caches[2].batch_repeat_interleave(2)
        twice = torch.arange(3).repeat_interleave(2)
        assert distance(step(caches[2], twice), expected[twice]) < 1e-4
        caches[3].batch_select_indices(order[:2])
        assert distance(step(caches[3], order[:2]), expected[order[:2]]) < 1e-4


@pytest.mark.slow
def test_compiled_decoding_on_a_static_cache_has_no_graph_break(model, batch):
    import torch._dynamo as dynamo
    from transformers import CompileConfig

    config = CompileConfig(backend="eager", fullgraph=True, mode="default")
    config._compile_all_devices = True
    compiled = tiny_llava()
    for pruner in (Simignore(num_keep=4), Ragged(), Ragged(positions="renumber")):
        dynamo.reset()
        dynamo.utils.counters.clear()
        with torch.no_grad(), attach(compiled, pruner, spans=batch.spans):
            plain, _, _ = generate(compiled, batch.inputs)
            fast, _, _ = generate(compiled, batch.inputs, cache_implementation="static", compile_config=config)
        assert torch.equal(plain, fast)
        assert dynamo.utils.counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
        assert sum(dynamo.utils.counters["graph_break"].values()) == 0


class _quiet:  # noqa: N801 - reads as a context
    def __enter__(self):
        return None

    def __exit__(self, *error):
        return False
