"""Tokens that Simignore only hid and that FastV brings back, as in the released run: hiding ends at FastV's layer."""

from __future__ import annotations

import warnings

import pytest
import torch

from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.pyramiddrop import PyramidDrop
from lit_simignore.pruning.random_tokens import RandomTokens
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.types import UserError
from tests.family_reference import hidden_generate
from tests.masked_reference import (
    HiddenFromLayers,
    distance,
    generate,
    hidden_by_stage,
    num_hooks,
    reference_inputs,
    visual_columns_of,
)
from tests.surgery.test_generation import first_turn, second_turn
from tests.surgery.test_stage0 import Ragged
from tests.surgery.test_training import answer_labels, gradients
from tests.tiny_families import BUILDERS, tiny_family, tiny_family_batch
from tests.tiny_models import QUESTIONS, tiny_batch, tiny_llava

HIDE = Simignore(num_keep=3, apply="mask")
PARTS = [
    pytest.param((HIDE, FastV(layer_idx=2, num_keep=9, hidden="return")), id="some come back"),
    pytest.param((Ragged(apply="mask"), FastV(layer_idx=1, num_keep=16, hidden="return")), id="all come back"),
    pytest.param(
        (HIDE, FastV(layer_idx=2, num_keep=9, hidden="return"), PyramidDrop(layers=(3,), num_keep=(4,))),
        id="and most go again",
    ),
]


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request):
    return tiny_llava(request.param)


@pytest.fixture(scope="module")
def sdpa():
    return tiny_llava()


@pytest.fixture(scope="module", params=["padded", "one length"])
def batch(request):
    return tiny_batch() if request.param == "padded" else tiny_batch(questions=QUESTIONS[:1])


def hidden_until(inputs, trace):
    """For :class:`HiddenFromLayers`: what Simignore hid before the first stage, then what every stage dropped."""
    hidden = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    for row, columns in enumerate(visual_columns_of(inputs["input_ids"])):
        hidden[row, columns] = True
        hidden[row, columns[trace.stages[0].kept[row]]] = False
    return {0: hidden, **hidden_by_stage(inputs, trace)}


@pytest.mark.parametrize("parts", PARTS)
def test_generate_equals_hiding_only_before_the_stage(model, batch, parts):
    with torch.no_grad(), attach(model, *parts, spans=batch.spans) as trace:
        sequences, logits, cache = generate(model, batch.inputs)
    whole = reference_inputs(batch.inputs, [torch.arange(16)] * 3)
    with HiddenFromLayers(model, hidden_until(batch.inputs, trace)):
        expected, expected_logits, _ = generate(model, whole)
    assert torch.equal(sequences, expected) and distance(logits, expected_logits) < 3e-4
    hidden, kept = trace.stages[0].kept, trace.stages[1].kept
    assert any(set(back.tolist()) - set(seen.tolist()) for seen, back in zip(hidden, kept, strict=True))
    assert int(cache.get_seq_length(0)) == cache.get_seq_length() == batch.length + 7
    with torch.no_grad():
        assert distance(logits, generate(model, batch.inputs)[1]) > 0.05


@pytest.mark.parametrize("parts", PARTS)
def test_beams_static_caches_turns_and_no_cache_agree(sdpa, parts):
    batch, options = tiny_batch(), {"max_new_tokens": 6, "do_sample": False}
    with torch.no_grad(), attach(sdpa, *parts, spans=batch.spans) as trace:
        plain = sdpa.generate(**batch.inputs, **options)
        static = sdpa.generate(**batch.inputs, **options, cache_implementation="static", disable_compile=True)
        uncached = sdpa.generate(**batch.inputs, **options, use_cache=False)
        beams = sdpa.generate(**batch.inputs, **options, num_beams=3)
        turn = second_turn(sdpa, batch, first_turn(sdpa, batch.inputs))
    assert torch.equal(plain, static) and torch.equal(plain, uncached)
    whole = reference_inputs(batch.inputs, [torch.arange(16)] * 3)
    with HiddenFromLayers(sdpa, hidden_until(batch.inputs, trace)):
        assert torch.equal(beams, sdpa.generate(**whole, **options, num_beams=3))
        positions = torch.cat([whole["position_ids"], whole["position_ids"][:, -1:] + 1 + torch.arange(9)], 1)
        mask = whole["attention_mask"]
        expected = second_turn(sdpa, batch, first_turn(sdpa, whole), attention_mask=mask, position_ids=positions)
    assert torch.equal(turn.sequences, expected.sequences)


def test_a_later_attachment_goes_on_only_if_it_can_hide_in_the_early_layers(sdpa):
    batch, parts = tiny_batch(), PARTS[0].values[0]
    with torch.no_grad(), attach(sdpa, *parts, spans=batch.spans):
        expected = second_turn(sdpa, batch, first_turn(sdpa, batch.inputs)).sequences
    with torch.no_grad(), attach(sdpa, *parts, spans=batch.spans):
        first = first_turn(sdpa, batch.inputs)
    with (
        attach(sdpa, FastV(layer_idx=2, num_keep=9), spans=batch.spans),
        pytest.raises(UserError, match="hidden=.return"),
    ):
        second_turn(sdpa, batch, first)
    with torch.no_grad(), attach(sdpa, FastV(layer_idx=3, num_keep=1, hidden="return"), spans=batch.spans):
        assert torch.equal(second_turn(sdpa, batch, first).sequences, expected)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_every_family_brings_tokens_back(name):
    model = tiny_family(name)
    batch = tiny_family_batch(name, model)
    parts = RandomTokens(keep_ratio=0.25), FastV(layer_idx=2, keep_ratio=0.75, hidden="return")
    parts[0].apply = "mask"  # a rule that reads no text, so that no family differs in what counts as text
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        with attach(model, *parts) as trace:
            sequences, logits, _ = generate(model, batch.inputs)
        with HiddenFromLayers(model, hidden_until(batch.inputs, trace)):
            expected, expected_logits = hidden_generate(model, batch, batch.inputs["attention_mask"])
    assert torch.equal(sequences, expected) and distance(logits, expected_logits) < 1e-4
    assert [len(kept) for kept in trace.kept] == [round(0.75 * total) for total in batch.num_visual]


@pytest.mark.parametrize("parts", PARTS)
def test_loss_and_every_gradient_equal_hiding(sdpa, parts):
    batch = tiny_batch()
    labels = answer_labels(batch.inputs)
    with attach(sdpa, *parts, spans=batch.spans) as trace:
        output = sdpa(**batch.inputs, labels=labels)
    got = gradients(sdpa, output.loss)
    with HiddenFromLayers(sdpa, hidden_until(batch.inputs, trace)):
        expected = gradients(sdpa, sdpa(**batch.inputs, labels=labels).loss)
    largest = max(float(value.abs().max()) for value in expected.values())
    assert max(distance(got[name], expected[name]) for name in expected) < 1e-4 * largest


def test_nothing_hidden_and_nothing_dropped_is_bit_identical(model):
    batch = tiny_batch()
    with torch.no_grad():
        plain = generate(model, batch.inputs)
        hooks = num_hooks(model)  # after the first call, in which transformers installs hooks of its own
        everything = Simignore(num_keep=99, apply="mask"), FastV(layer_idx=2, num_keep=99, hidden="return")
        with attach(model, *everything, spans=batch.spans):
            attached = generate(model, batch.inputs)
    assert torch.equal(plain[1], attached[1]) and not hasattr(attached[2], "_lit_simignore")
    assert num_hooks(model) == hooks


def test_budgets_count_hidden_tokens_until_they_are_dropped(sdpa):
    batch = tiny_batch()
    with torch.no_grad(), attach(sdpa, *PARTS[0].values[0], spans=batch.spans) as trace:
        sdpa(**batch.inputs)
    assert (trace.budget.input, trace.budget.final, trace.budget.layer_mean) == (16, 9, 12.5)


def test_closed_positions_are_refused_where_tokens_come_back(sdpa):
    parts = Simignore(num_keep=3, apply="mask", positions="renumber"), FastV(num_keep=9, hidden="return")
    with pytest.raises(UserError, match="need their positions"), attach(sdpa, *parts):
        pass


def test_an_unknown_word_for_what_hidden_tokens_do_is_refused():
    with pytest.raises(UserError, match="FastV.hidden must be one of stay, return; got 'back'"):
        FastV(num_keep=3, hidden="back")
