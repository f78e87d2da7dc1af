"""Interventions in every way of calling a model: caches, turns, beams, training, adapters, and what is refused."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch

from lit_simignore.interventions.eah import EAH
from lit_simignore.interventions.head_ablation import HeadAblation
from lit_simignore.interventions.vcd import VCD
from lit_simignore.interventions.visual_boost import VisualBoost
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.stride import Stride
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.calls import cache_in, cache_name
from lit_simignore.types import UserError
from tests.masked_reference import IMAGE_ID, distance, generate, num_hooks
from tests.naive_attention import boost_image, broadcast_densest, naively
from tests.tiny_models import tiny_llava

LAYERS = {1: broadcast_densest, 2: boost_image}
ONE = {1: partial(broadcast_densest, scale=1.0)}
PARTS = (EAH(), VisualBoost(first_layer=2, last_layer=2))


def visual_of(batch):
    return batch.inputs["input_ids"] == IMAGE_ID


def plainly(model, inputs, **options):
    with torch.no_grad():
        return generate(model, inputs, **options)


@pytest.mark.parametrize("fail", [False, True])
def test_the_model_is_bit_identical_after_the_block(model, batch, fail):
    before, hooks = plainly(model, batch.inputs)[1], num_hooks(model)
    config = model.get_decoder().layers[1].self_attn.config
    encode = model.base_model.get_image_features
    try:
        with torch.no_grad(), attach(model, *PARTS, VCD(), Stride(num_keep=5), spans=batch.spans):
            generate(model, batch.inputs)
            assert fail is False
    except AssertionError:
        assert fail
    assert num_hooks(model) == hooks and model.get_decoder().layers[1].self_attn.config is config
    assert model.base_model.get_image_features == encode and "get_image_features" not in vars(model.base_model)
    assert torch.equal(plainly(model, batch.inputs)[1], before)


def test_an_intervention_that_finds_nothing_to_do_changes_no_bit(model, batch):
    idle = (EAH(threshold=900.0), HeadAblation(heads=()), VisualBoost(alpha=0.0))
    with torch.no_grad(), attach(model, *idle) as trace:
        logits = generate(model, batch.inputs)[1]
    assert torch.equal(logits, plainly(model, batch.inputs)[1])
    assert trace.edits[0].found["winning_head"].tolist() == [-1, -1, -1]


@pytest.mark.parametrize("options", [{"cache_implementation": "static"}, {"num_beams": 3}, {"use_cache": False}])
def test_static_caches_beams_and_no_cache_agree_with_attention_written_out(model, batch, options):
    """Without a cache every step reads the prompt anew, which only EAH's choice could notice: its rows grow."""
    parts, rules = (PARTS, LAYERS) if "use_cache" not in options else (PARTS[1:], {2: boost_image})
    with torch.no_grad(), attach(model, *parts):
        tokens = model.generate(**batch.inputs, max_new_tokens=5, do_sample=False, **options)
    repeats = options.get("num_beams", 1)
    visual, mask = visual_of(batch), batch.inputs["attention_mask"]
    widened = {"attention_mask": mask.repeat_interleave(repeats, 0)}
    same = {} if "num_beams" in options else {"use_cache": True}
    with torch.no_grad(), naively(model, widened, visual.repeat_interleave(repeats, 0), rules) as oracle:
        if repeats > 1:  # rows of one sample are copies at prefill, so the oracle's memory needs no reordering
            expected = model.generate(**batch.inputs, max_new_tokens=5, do_sample=False, num_beams=repeats)
        else:
            expected = model.generate(**batch.inputs, max_new_tokens=5, do_sample=False, **same)
    assert oracle.memory and torch.equal(tokens, expected)


def test_two_turns_on_one_cache_agree_with_attention_written_out(model, batch):
    name = cache_name(model.forward)

    def talk():
        first = model.generate(**batch.inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
        more = torch.full((3, 4), 9)
        ids = torch.cat([first.sequences, more], 1)
        mask = torch.nn.functional.pad(batch.inputs["attention_mask"], (0, ids.shape[1] - batch.length), value=1)
        return generate(model, {"input_ids": ids, "attention_mask": mask, name: cache_in(first)}, tokens=4)

    with torch.no_grad(), attach(model, *PARTS):
        sequences, logits, _ = talk()
    with torch.no_grad(), naively(model, batch.inputs, visual_of(batch), LAYERS):
        expected, expected_logits, _ = talk()
    assert torch.equal(sequences, expected) and distance(logits, expected_logits) < 1e-4


def test_a_cache_copies_and_pickles_with_what_interventions_remember(model, batch):
    name, token = cache_name(model.forward), torch.full((3, 1), 9)
    mask = torch.nn.functional.pad(batch.inputs["attention_mask"], (0, 1), value=1)
    with torch.no_grad(), attach(model, *PARTS, Stride(num_keep=6)):
        first = cache_in(model(**batch.inputs))
        caches = [copy.deepcopy(first), pickle.loads(pickle.dumps(first)), first]
        results = [model(input_ids=token, attention_mask=mask, **{name: each}).logits for each in caches]
    assert all(torch.equal(result, results[0]) for result in results)
    with torch.no_grad(), attach(model, Stride(num_keep=6)):
        expected = model(input_ids=token, attention_mask=mask, **{name: cache_in(model(**batch.inputs))}).logits
    assert distance(results[0], expected) > 1e-3


@pytest.mark.parametrize("later", [(), (EAH(decode="off"), PARTS[1]), (PARTS[1], PARTS[0])])
def test_a_cache_goes_on_under_the_interventions_that_filled_it(model, batch, later):
    name, token = cache_name(model.forward), torch.full((3, 1), 9)
    mask = torch.nn.functional.pad(batch.inputs["attention_mask"], (0, 1), value=1)
    with torch.no_grad(), attach(model, *PARTS):
        cache = cache_in(model(**batch.inputs))
    with torch.no_grad(), attach(model, *PARTS):
        model(input_ids=token, attention_mask=mask, **{name: copy.deepcopy(cache)})
    with torch.no_grad(), attach(model, *later), pytest.raises(UserError, match="same interventions"):
        model(input_ids=token, attention_mask=mask, **{name: cache})
    with torch.no_grad(), pytest.raises(UserError, match="no longer attached"):
        model(input_ids=token, attention_mask=mask, **{name: cache})


def gradients(model, inputs):
    model.zero_grad()
    model(**inputs, use_cache=False).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def labelled(batch):
    labels = batch.inputs["input_ids"].clone()
    labels[:, :-4] = -100
    return {**batch.inputs, "labels": labels}


def test_loss_and_gradients_equal_attention_written_out(batch):
    model = tiny_llava()
    with attach(model, *PARTS):
        found = gradients(model, labelled(batch))
    with naively(model, batch.inputs, visual_of(batch), LAYERS):
        expected = gradients(model, labelled(batch))
    assert found.keys() == expected.keys()
    assert max(distance(found[name], expected[name]) for name in found) < 1e-4


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(batch, reentrant):
    model = tiny_llava()
    model.train()
    parts = (*PARTS, HeadAblation(layer_idx=3, heads=(1,), mode="blind"), FastV(layer_idx=2, num_keep=5))
    with attach(model, *parts, spans=batch.spans):
        plain = gradients(model, labelled(batch))
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        checkpointed = gradients(model, labelled(batch))
    assert max(distance(plain[name], checkpointed[name]) for name in plain) < 1e-5


def test_a_pruner_reads_a_layer_as_the_model_computes_it(model, batch):
    """FastV before layer 2 reads layer 1, which EAH edits: what it keeps is what it keeps alone."""
    kept = []
    for parts in ((FastV(layer_idx=2, num_keep=4),), (EAH(), FastV(layer_idx=2, num_keep=4))):
        with torch.no_grad(), attach(model, *parts, spans=batch.spans) as trace:
            model(**batch.inputs)
        kept.append(trace.kept)
    assert all(torch.equal(a, b) for a, b in zip(*kept, strict=True))
    assert max(trace.edits[0].found["winning_head"].tolist()) >= 0


def test_adapters_and_interventions_live_together(batch):
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(tiny_llava(), LoraConfig(target_modules=["q_proj", "v_proj"], r=2))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
        with attach(wrapped, *PARTS):
            sequences = wrapped.generate(**batch.inputs, max_new_tokens=5, do_sample=False)
        with naively(wrapped.get_base_model(), batch.inputs, visual_of(batch), LAYERS):
            expected = wrapped.generate(**batch.inputs, max_new_tokens=5, do_sample=False)
    assert torch.equal(sequences, expected)


@pytest.mark.slow
def test_compiled_decoding_has_no_graph_break(batch):
    import torch._dynamo as dynamo
    from transformers import CompileConfig

    config = CompileConfig(backend="eager", fullgraph=True, mode="default")
    config._compile_all_devices = True
    compiled = tiny_llava()
    dynamo.reset()
    dynamo.utils.counters.clear()
    with torch.no_grad(), attach(compiled, EAH(), Stride(num_keep=6), spans=batch.spans):
        plain, _, _ = generate(compiled, batch.inputs)
        fast, _, _ = generate(compiled, batch.inputs, cache_implementation="static", compile_config=config)
    assert torch.equal(plain, fast)
    assert dynamo.utils.counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
    assert sum(dynamo.utils.counters["graph_break"].values()) == 0


# -- second runs


def test_what_a_second_run_costs_is_counted(model, batch):
    budgets = {}
    for name, parts in {"once": (), "noise": (VCD(),), "bare": (VisualBoost(gamma=1.1),)}.items():
        with torch.no_grad(), attach(model, *parts) as trace:
            model(**batch.inputs)
        assert len(trace.calls) == 1
        budgets[name] = trace.budget.prefill_tflops
    assert budgets["noise"] == pytest.approx(2 * budgets["once"])
    assert budgets["once"] < budgets["bare"] < budgets["noise"]


def test_the_second_run_is_pruned_and_edited_like_the_first(model, batch):
    """VCD over a pruned, edited model equals that model run by hand on clean and on noisy pixels."""
    part, others = VCD(plausibility=0.0), (Stride(num_keep=6), EAH())
    pixels = batch.inputs["pixel_values"]
    noisy = torch.cat([part.second_pixels(row[None], key) for row, key in zip(pixels, batch.spans.keys, strict=True)])
    with torch.no_grad(), attach(model, *others, spans=batch.spans):
        clean = model(**batch.inputs).logits[:, -1]
        poorer = model(**{**batch.inputs, "pixel_values": noisy}).logits[:, -1]
    with torch.no_grad(), attach(model, *others, part, spans=batch.spans) as trace:
        found = model(**batch.inputs).logits[:, -1]
    assert distance(found, part.combine(clean, poorer)) < 1e-4 and len(trace.calls) == 1


def test_rows_before_the_image_ends_are_left_as_they_are(model, batch):
    part = VisualBoost(alpha=0.0, gamma=1.5, plausibility=0.0)
    with torch.no_grad():
        plain = model(**batch.inputs).logits
        with attach(model, part):
            found = model(**batch.inputs).logits
    last = [int(row.nonzero()[-1, 0]) for row in visual_of(batch)]
    for row, column in enumerate(last):
        assert torch.equal(found[row, : column + 1], plain[row, : column + 1])
        assert distance(found[row, column + 1 :], plain[row, column + 1 :]) > 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"use_cache": False}, "use_cache"),
        ({"cache_implementation": "static"}, "growing cache"),
        ({"prompt_lookup_num_tokens": 3}, "taken back"),
    ],
)
def test_ways_of_generating_that_a_second_run_cannot_follow(model, batch, options, words):
    inputs = {name: value[:1] for name, value in batch.inputs.items()}
    with torch.no_grad(), attach(model, VCD()), pytest.raises(UserError, match=words) as caught:
        model.generate(**inputs, max_new_tokens=8, do_sample=False, **options)
    assert "\n" not in str(caught.value)


def test_a_second_run_has_no_loss_and_no_rival(model, batch):
    with torch.no_grad(), attach(model, VCD()), pytest.raises(UserError, match="no loss"):
        model(**labelled(batch))
    with pytest.raises(UserError, match="takes one of them"), attach(model, VCD(), VisualBoost(gamma=1.1)):
        pass


def test_images_that_come_as_features_cannot_be_made_noisy(model, batch):
    features = model.get_image_features(pixel_values=batch.inputs["pixel_values"], return_dict=True)
    inputs = {name: value for name, value in batch.inputs.items() if name != "pixel_values"}
    with torch.no_grad(), attach(model, VCD()), pytest.raises(UserError, match="pixel_values"):
        model(**inputs, mm_encoder_outputs={"image": features})


def test_sink_counts_are_those_of_a_loop(model, batch):
    with torch.no_grad(), attach(model, EAH(threshold=1.0)) as trace:
        model(**batch.inputs)
    with torch.no_grad(), naively(model, batch.inputs, visual_of(batch), ONE) as oracle:
        model(**batch.inputs)
    assert trace.edits[0].found["sink_counts"].tolist() == [oracle.memory[1, row]["counts"] for row in range(3)]


@pytest.mark.parametrize("mutant", ["column", "head", "padding"])
def test_the_oracle_notices_known_mistakes(model, batch, mutant, monkeypatch):
    """Visual columns off by one, the wrong group's key, padding that counts."""
    from lit_simignore.interventions import eah
    from lit_simignore.surgery import edits

    if mutant == "head":
        monkeypatch.setattr(eah, "broadcast_head", partial(_shifted, eah.broadcast_head))
    else:
        original = edits.EditState.note

        def wrong(state, layer, slots):
            visual, alive = original(state, layer, slots)
            return (visual.roll(1, dims=1), alive) if mutant == "column" else (visual, torch.ones_like(alive))

        monkeypatch.setattr(edits.EditState, "note", wrong)
    with torch.no_grad(), attach(model, EAH(threshold=1.0)) as trace:
        logits = generate(model, batch.inputs)[1]
    with torch.no_grad(), naively(model, batch.inputs, visual_of(batch), ONE) as oracle:
        expected = generate(model, batch.inputs)[1]
    counts = [oracle.memory[1, row]["counts"] for row in range(3)]
    assert distance(logits, expected) > 1e-3 or trace.edits[0].found["sink_counts"].tolist() != counts


def _shifted(broadcast, inputs, head):
    return broadcast(inputs, torch.where(head < 0, head, (head + 1) % inputs.query.shape[1]))
