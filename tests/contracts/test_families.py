"""What every model family must do, on tiny random models: find its visual tokens, drop them exactly, leave no trace."""

from __future__ import annotations

import itertools
import warnings
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_simignore.pruning.cdpruner import CDPruner
from lit_simignore.pruning.downsampled_image import DownsampledImage
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.random_tokens import RandomTokens
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.families import FAMILIES, family_of
from lit_simignore.types import UserError
from tests.family_reference import features_of, forward_positions, hidden_generate
from tests.masked_reference import (
    HiddenFromLayers,
    distance,
    generate,
    hidden_by_stage,
    num_hooks,
    visible_mask,
)
from tests.tiny_families import BUILDERS, FIRST_WORD, FamilyBatch, tiny_family, tiny_family_batch

TOLERANCE = 1e-4
NAMES = sorted(BUILDERS)
ATTENTION = ("sdpa", "eager")
COUNTS = {"one": (1,), "ragged": (2, 1, 0)}
PRUNERS = {"similar": Simignore(keep_ratio=0.5), "random": RandomTokens(keep_ratio=0.5)}


def _is_default(case: tuple[int, ...]) -> bool:
    """Two complementary cases per family, changing from family to family: every pair of levels meets."""
    family, *levels = case
    first = [family % 2, family // 2 % 2, 0]
    return levels in (first, [1 - level for level in first])


FACTORS = (NAMES, ATTENTION, tuple(COUNTS), tuple(PRUNERS))
CASES = [
    pytest.param(
        *(values[index] for values, index in zip(FACTORS, case, strict=True)),
        marks=[] if _is_default(case) else [pytest.mark.slow],
    )
    for case in itertools.product(*(range(len(values)) for values in FACTORS))
]


@cache
def model_of(name: str, attention: str = "sdpa") -> Any:
    return tiny_family(name, attention)


@cache
def batch_of(name: str, size: str) -> FamilyBatch:
    return tiny_family_batch(name, model_of(name), COUNTS[size])


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="attach.. got no spans")
        yield


def test_every_family_has_a_tiny_model():
    assert set(NAMES) == set(FAMILIES()) - {"causal_lm"}


def test_default_cases_cover_every_pair_of_levels():
    kept = [case.values for case in CASES if not case.marks]
    for first, second in itertools.combinations(range(len(FACTORS)), 2):
        met = {(values[first], values[second]) for values in kept}
        assert met == set(itertools.product(FACTORS[first], FACTORS[second]))


# -- where visual tokens are


@pytest.mark.parametrize("size", COUNTS)
@pytest.mark.parametrize("name", NAMES)
def test_visual_columns_are_those_that_the_model_fills(name, size):
    model, batch = model_of(name), batch_of(name, size)
    seen = {}
    with attach(model) as trace:
        decoder = model.get_decoder()
        handle = decoder.register_forward_pre_hook(lambda *call: seen.update(call[2]), with_kwargs=True)
        model(**batch.inputs)
        handle.remove()
    words = model.get_input_embeddings()(batch.inputs["input_ids"])
    filled = (seen["inputs_embeds"] != words).any(-1)
    assert torch.equal(seen["inputs_embeds"][filled], features_of(model, batch))
    assert torch.equal(filled, batch.inputs["input_ids"] == family_of(model.config).image_token_id(model.config))
    assert trace.num_visual == filled.sum(1).tolist() == batch.num_visual


@pytest.mark.parametrize("size", COUNTS)
@pytest.mark.parametrize("name", NAMES)
def test_grids_are_those_of_the_images_in_forward_and_in_generate(name, size):
    model, batch = model_of(name), batch_of(name, size)
    with attach(model) as trace:
        model(**batch.inputs)
        seen = trace.grids
        generate(model, batch.inputs, tokens=1)
    assert seen == trace.grids == batch.grids
    for total, grids in zip(trace.num_visual, seen, strict=True):
        assert not grids or sum(rows * cols for rows, cols in grids) == total


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_sees_the_projected_tokens_of_its_own_sample(name):
    model, batch = model_of(name), batch_of(name, "ragged")
    rule = PRUNERS["similar"]
    with attach(model, rule) as trace:
        model(**batch.inputs)
    ids = batch.inputs["input_ids"]
    words = model.get_input_embeddings()(ids)
    for row, features in enumerate(features_of(model, batch).split(batch.num_visual)):
        text = words[row, ids[row] >= FIRST_WORD]
        if len(features):
            assert trace.kept[row].tolist() == rule.select(features, _with_separators(model, ids[row], text)).tolist()
        else:
            assert len(trace.kept[row]) == 0


def _with_separators(model: Any, ids: Tensor, text: Tensor) -> Tensor:
    """Marks around images that no configuration names count as text; they do not get in the way of this test."""
    special = family_of(model.config).special_token_ids(model)
    chosen = torch.tensor([int(token) not in special for token in ids])
    return model.get_input_embeddings()(ids[chosen]) if bool(chosen.any()) else text


# -- keeping everything


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("name", NAMES)
def test_keeping_everything_is_bit_identical_and_leaving_restores_the_model(name, attention):
    model, batch = model_of(name, attention), batch_of(name, "ragged")
    plain_logits, plain = model(**batch.inputs).logits, generate(model, batch.inputs)
    hooks = num_hooks(model)  # after the first call: some models install hooks of their own in it
    with attach(model, RandomTokens(keep_ratio=1.0)):
        assert torch.equal(model(**batch.inputs).logits, plain_logits)
        sequences, logits, _ = generate(model, batch.inputs)
        assert torch.equal(sequences, plain[0]) and torch.equal(logits, plain[1])
    with attach(model, RandomTokens(num_keep=1)):
        assert not torch.equal(model(**batch.inputs).logits, plain_logits)
    assert num_hooks(model) == hooks
    assert torch.equal(model(**batch.inputs).logits, plain_logits)
    assert torch.equal(generate(model, batch.inputs)[1], plain[1])


# -- dropping, against the untouched model with the dropped columns hidden


@pytest.mark.parametrize(("name", "attention", "size", "pruner"), CASES)
def test_dropping_equals_hiding_in_the_prefill(name, attention, size, pruner):
    model, batch = model_of(name, attention), batch_of(name, size)
    with attach(model, PRUNERS[pruner]) as trace:
        logits = model(**batch.inputs).logits
    mask = visible_mask(batch.inputs, trace.kept)
    expected = model(**batch.inputs | {"attention_mask": mask, "position_ids": forward_positions(model, batch)}).logits
    seen = mask.bool()
    assert [len(kept) for kept in trace.kept] == [round(total / 2) for total in batch.num_visual]
    assert logits.shape == expected.shape
    assert distance(logits[seen], expected[seen]) < TOLERANCE
    assert bool((logits[~seen & batch.inputs["attention_mask"].bool()] == 0).all())


@pytest.mark.parametrize(("name", "attention", "size", "pruner"), CASES)
def test_dropping_equals_hiding_over_eight_greedy_steps(name, attention, size, pruner):
    model, batch = model_of(name, attention), batch_of(name, size)
    with attach(model, PRUNERS[pruner]) as trace:
        sequences, logits, cache = generate(model, batch.inputs)
    mask = visible_mask(batch.inputs, trace.kept)
    expected_sequences, expected = hidden_generate(model, batch, mask)
    plain = generate(model, batch.inputs)[1]
    assert torch.equal(sequences, expected_sequences)
    assert torch.equal(sequences[:, : batch.length], batch.inputs["input_ids"])
    assert distance(logits, expected) < TOLERANCE
    assert distance(logits, plain) > 0.1
    stored = int(mask.sum(1).max()) + 7
    assert {cache.get_seq_length(layer) for layer in range(len(cache.layers))} == {stored}


# -- dropping inside the decoder


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("name", NAMES)
def test_dropping_before_and_inside_the_decoder_equals_hiding_from_there_on(name, attention):
    model, batch = model_of(name, attention), batch_of(name, "ragged")
    parts = RandomTokens(keep_ratio=0.75), FastV(layer_idx=2, keep_ratio=0.5)
    with attach(model, *parts) as trace:
        sequences, logits, cache = generate(model, batch.inputs)
    mask = visible_mask(batch.inputs, trace.stages[0].kept)
    entry = hidden_generate(model, batch, mask)[1]
    with HiddenFromLayers(model, hidden_by_stage(batch.inputs, trace)):
        expected_sequences, expected = hidden_generate(model, batch, mask)
    assert torch.equal(sequences, expected_sequences)
    assert distance(logits, expected) < TOLERANCE
    assert distance(logits, entry) > 0.01, "the stage changed nothing, so nothing was tested"
    lengths = [int(cache.get_seq_length(layer)) for layer in range(len(cache.layers))]
    assert lengths[0] == lengths[1] > lengths[2] == lengths[3]


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_comes_after_the_layers_that_add_vision_features(name):
    model = model_of(name)
    depth = family_of(model.config).deepstack_layers(model.config)
    assert depth == (2 if name == "qwen3_vl" else 0)
    if depth:
        with pytest.raises(UserError, match="this decoder takes 2 to 3"), attach(model, FastV(layer_idx=1, num_keep=2)):
            pass


# -- what a family does not offer


@pytest.mark.parametrize(
    ("name", "way_out"),
    {"instructblip": "same number of tokens", "mistral3": "longest_edge", "qwen2_5_vl": "max_pixels"}.items(),
)
def test_a_smaller_picture_is_refused_with_the_way_out(name, way_out):
    with pytest.raises(UserError, match=f"do not offer: .*{way_out}"), attach(model_of(name), DownsampledImage()):
        pass


def test_a_text_tower_is_refused_with_the_way_out():
    with (
        pytest.raises(UserError, match="do not offer: no model brings"),
        attach(model_of("llava"), CDPruner(num_keep=3)),
    ):
        pass
