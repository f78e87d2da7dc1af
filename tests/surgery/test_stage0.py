"""Pruning before the decoder against the same model with the dropped tokens hidden by a mask."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from lit_simignore.pruning.base import Features, Pruner
from lit_simignore.pruning.random_tokens import RandomTokens
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.pruning.text_only import TextOnly
from lit_simignore.surgery.attach import attach
from lit_simignore.types import Selection
from tests.masked_reference import distance, generate, num_hooks, reference_inputs, visible_mask
from tests.tiny_models import QUESTIONS, tiny_batch, tiny_llava

RAGGED = {"s0": 3, "s1": 7, "s2": 5}


@dataclass(kw_only=True)
class Ragged(Pruner):
    """Another number of tokens for every sample, by key."""

    apply: str = "drop"

    def choose(self, features: Features) -> Selection:
        inner = RandomTokens(num_keep=RAGGED[features.key])
        return Selection(kept=inner.choose(features).kept)

    def with_budget(self, definition: str, num_tokens: float, shape: object = None) -> Pruner:
        raise NotImplementedError


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request):
    return tiny_llava(request.param)


PRUNERS = [
    pytest.param(Simignore(num_keep=4), id="equal counts"),
    pytest.param(Ragged(), id="ragged"),
    pytest.param(Ragged(apply="mask"), id="ragged mask"),
    pytest.param(Simignore(num_keep=4, apply="mask"), id="mask"),
    pytest.param(TextOnly(), id="none kept"),
]


@pytest.mark.parametrize("pruner", PRUNERS)
def test_generate_equals_the_masked_model_token_for_token(model, batch, pruner):
    with torch.no_grad(), attach(model, pruner, spans=batch.spans) as trace:
        sequences, logits, _ = generate(model, batch.inputs)
    expected, expected_logits, _ = generate(model, reference_inputs(batch.inputs, trace.kept))
    plain, plain_logits, _ = generate(model, batch.inputs)
    assert torch.equal(sequences, expected)
    assert distance(logits, expected_logits) < 2e-4
    assert distance(logits, plain_logits) > 0.1, "the pruner changed nothing, so nothing was tested"
    assert torch.equal(sequences[:, : batch.length], batch.inputs["input_ids"])


@pytest.mark.parametrize("pruner", PRUNERS)
def test_prompts_of_one_length_need_masks_only_where_counts_differ(model, pruner):
    """Without padding there is no mask to start from, in the prefill and in every later step."""
    batch = tiny_batch(questions=QUESTIONS[:1])
    assert bool(batch.inputs["attention_mask"].all())
    with torch.no_grad(), attach(model, pruner, spans=batch.spans) as trace:
        sequences, logits, _ = generate(model, batch.inputs)
    expected, expected_logits, _ = generate(model, reference_inputs(batch.inputs, trace.kept))
    assert torch.equal(sequences, expected) and distance(logits, expected_logits) < 2e-4


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("apply", ["drop", "mask"])
def test_renumbered_positions_equal_a_mask_with_closed_positions(model, batch, pruner, apply):
    pruner = type(pruner)(**{**vars(pruner), "positions": "renumber"})
    with torch.no_grad(), attach(model, pruner, spans=batch.spans) as trace:
        sequences, logits, _ = generate(model, batch.inputs)
    expected, expected_logits, _ = generate(model, reference_inputs(batch.inputs, trace.kept, renumber=True))
    original, original_logits, _ = generate(model, reference_inputs(batch.inputs, trace.kept))
    assert torch.equal(sequences, expected)
    assert distance(logits, expected_logits) < 2e-4
    assert distance(logits, original_logits) > 0.1


def test_drop_shortens_every_layers_cache_and_answers_the_original_length(model, batch):
    with torch.no_grad(), attach(model, Ragged(), spans=batch.spans):
        _, _, cache = generate(model, batch.inputs, tokens=8)
    longest = max(int(batch.inputs["attention_mask"][row].sum()) - 16 + RAGGED[f"s{row}"] for row in range(3))
    assert {int(cache.get_seq_length(layer)) for layer in range(4)} == {longest + 7}
    assert cache.get_seq_length() == batch.length + 7


def test_mask_leaves_every_layers_cache_at_full_length(model, batch):
    with torch.no_grad(), attach(model, Simignore(num_keep=4, apply="mask"), spans=batch.spans) as trace:
        _, _, cache = generate(model, batch.inputs, tokens=8)
    assert {int(cache.get_seq_length(layer)) for layer in range(4)} == {batch.length + 7}
    assert trace.budget.input == 16 and [len(kept) for kept in trace.kept] == [4, 4, 4]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_forward_logits_keep_their_columns_and_dropped_rows_are_zero(model, batch, padding, use_cache):
    inputs = batch.inputs if padding == "left" else flipped(batch)
    spans = batch.spans if padding == "left" else None
    pruner = Simignore(num_keep=4)
    with (
        torch.no_grad(),
        pytest.warns() if spans is None else no_warning(),
        attach(model, pruner, spans=spans) as trace,
    ):
        logits = model(**inputs, use_cache=use_cache).logits
    with torch.no_grad():
        # a forward without position_ids counts columns, not real tokens
        positions = torch.arange(batch.length)[None].expand(3, -1)
        visible = visible_mask(inputs, trace.kept)
        expected = model(**{**inputs, "attention_mask": visible, "position_ids": positions}).logits
    rows = visible.bool()
    assert logits.shape == expected.shape
    assert distance(logits[rows], expected[rows]) < 2e-4
    assert bool((logits[~rows] == 0).all())


def test_keep_all_is_bit_identical_and_touches_nothing(model, batch):
    snapshot = {name: value.clone() for name, value in batch.inputs.items()}
    with torch.no_grad():
        plain, plain_logits, plain_cache = generate(model, batch.inputs)
        forward = model(**batch.inputs).logits
        for pruner in (Simignore(num_keep=99), Simignore(keep_ratio=1.0, apply="mask"), Simignore(similarity_mass=1.0)):
            with attach(model, pruner, spans=batch.spans):
                sequences, logits, cache = generate(model, batch.inputs)
                attached = model(**batch.inputs).logits
            assert torch.equal(sequences, plain) and torch.equal(logits, plain_logits)
            assert torch.equal(attached, forward)
            assert type(cache) is type(plain_cache) and not hasattr(cache, "_lit_simignore")
    assert all(torch.equal(batch.inputs[name], snapshot[name]) for name in snapshot)


def test_pruning_leaves_the_callers_tensors_alone(model, batch):
    snapshot = {name: value.clone() for name, value in batch.inputs.items()}
    with torch.no_grad(), attach(model, Simignore(num_keep=3), spans=batch.spans):
        generate(model, batch.inputs)
        model(**batch.inputs)
    assert all(torch.equal(batch.inputs[name], snapshot[name]) for name in snapshot)


@pytest.mark.parametrize("fail", [False, True])
def test_the_model_is_bit_identical_after_the_block(model, batch, fail):
    with torch.no_grad():
        before, before_logits, _ = generate(model, batch.inputs)
        hooks = num_hooks(model)
        with (
            pytest.raises(ValueError, match="image size") if fail else no_warning(),
            attach(model, Simignore(num_keep=3), spans=batch.spans),
        ):
            generate(model, batch.inputs)
            if fail:
                model(**{**batch.inputs, "pixel_values": batch.inputs["pixel_values"][:, :, :5]})
        after, after_logits, cache = generate(model, batch.inputs)
    assert num_hooks(model) == hooks
    assert torch.equal(before, after) and torch.equal(before_logits, after_logits)
    assert type(cache).__name__ == "DynamicCache"


@pytest.mark.parametrize("pruner", PRUNERS[:3])
def test_a_batch_equals_batches_of_one(model, batch, pruner):
    with torch.no_grad(), attach(model, pruner, spans=batch.spans) as trace:
        together, _, _ = generate(model, batch.inputs)
        kept = trace.kept
    for row in range(3):
        single = {name: value[row : row + 1] for name, value in batch.inputs.items()}
        real = single["attention_mask"][0].bool()
        alone = {
            "input_ids": single["input_ids"][:, real],
            "attention_mask": single["attention_mask"][:, real],
            "pixel_values": single["pixel_values"],
        }
        spans = batch.spans.take([row])
        spans = type(spans)(spans.input_ids[:, real], spans.roles[:, real], spans.keys)
        with torch.no_grad(), attach(model, pruner, spans=spans) as trace:
            tokens, _, _ = generate(model, alone)
        assert torch.equal(trace.kept[0], kept[row])
        assert torch.equal(tokens[0, -8:], together[row, -8:])


def test_samples_without_an_image_sit_in_the_same_batch(model):
    batch = tiny_batch((1, 0, 1))
    with torch.no_grad(), attach(model, Simignore(num_keep=4), spans=batch.spans) as trace:
        sequences, logits, _ = generate(model, batch.inputs)
    expected, expected_logits, _ = generate(model, reference_inputs(batch.inputs, trace.kept))
    assert torch.equal(sequences, expected) and distance(logits, expected_logits) < 2e-4
    assert trace.num_visual == [16, 0, 16] and [len(kept) for kept in trace.kept] == [4, 0, 4]
    assert trace.budgets[1].total == 0


def test_a_batch_without_any_image_is_bit_identical(model):
    batch = tiny_batch((0, 0))
    with torch.no_grad():
        plain = generate(model, batch.inputs)
        with attach(model, Simignore(num_keep=4), spans=batch.spans) as trace:
            attached = generate(model, batch.inputs)
    assert torch.equal(plain[1], attached[1]) and trace.num_visual == [0, 0]


def test_several_images_per_sample_are_one_budget_and_one_numbering(model):
    batch = tiny_batch((2, 1, 3))
    with torch.no_grad(), attach(model, Simignore(num_keep=6), spans=batch.spans) as trace:
        sequences, logits, _ = generate(model, batch.inputs)
    expected, expected_logits, _ = generate(model, reference_inputs(batch.inputs, trace.kept))
    assert torch.equal(sequences, expected) and distance(logits, expected_logits) < 2e-4
    assert trace.num_visual == [32, 16, 48]
    assert trace.grids == [((4, 4),) * 2, ((4, 4),), ((4, 4),) * 3]
    assert [len(kept) for kept in trace.kept] == [6, 6, 6]


def test_two_pruners_run_one_after_the_other(model, batch):
    with torch.no_grad(), attach(model, Simignore(num_keep=8), RandomTokens(num_keep=3), spans=batch.spans) as trace:
        _, logits, _ = generate(model, batch.inputs)
    first, second = trace.stages
    assert all(set(b.tolist()) < set(a.tolist()) for a, b in zip(first.kept, second.kept, strict=True))
    assert [len(kept) for kept in trace.kept] == [3, 3, 3]
    _, expected, _ = generate(model, reference_inputs(batch.inputs, trace.kept))
    assert distance(logits, expected) < 2e-4


@dataclass(kw_only=True)
class MeanOfHalves(Pruner):
    """Two tokens: the mean of the first half and that of the second."""

    def choose(self, features: Features) -> Selection:
        half = features.visual.shape[0] // 2
        merged = torch.stack([part.mean(0) for part in features.visual.chunk(2)])
        sources = (tuple(range(half)), tuple(range(half, 2 * half)))
        return Selection(kept=torch.tensor([0, half]), merged=merged, sources=sources)

    def with_budget(self, definition: str, num_tokens: float, shape: object = None) -> Pruner:
        raise NotImplementedError


def merged_by_hand(model, batch, row):
    """Decoder inputs of one sample with its 16 visual rows replaced by two means, at columns 0 and 8 of the image."""
    real = batch.inputs["attention_mask"][row].bool()
    ids = batch.inputs["input_ids"][row][real]
    image = model.get_image_features(batch.inputs["pixel_values"][row : row + 1], return_dict=True).pooler_output[0]
    embeds = model.get_input_embeddings()(ids)
    start = int((ids == 4).nonzero()[0])
    embeds[start : start + 16] = image
    embeds[start], embeds[start + 8] = image[:8].mean(0), image[8:].mean(0)
    dropped = [start + i for i in range(16) if i % 8]
    keep = torch.tensor([i for i in range(len(ids)) if i not in dropped])
    return embeds[keep][None], keep[None]


def test_merged_rows_replace_the_rows_that_carry_them(model, batch):
    with torch.no_grad(), attach(model, MeanOfHalves(), spans=batch.spans) as trace:
        _, logits, _ = generate(model, batch.inputs, tokens=1)
    for row in range(3):
        with torch.no_grad():
            embeds, positions = merged_by_hand(model, batch, row)
            mask = torch.ones(1, embeds.shape[1], dtype=torch.long)
            expected = model(inputs_embeds=embeds, position_ids=positions, attention_mask=mask).logits[0, -1]
        assert distance(logits[row, 0], expected) < 2e-4
    assert trace.stages[0].sources[0] == (tuple(range(8)), tuple(range(8, 16)))


def test_gradients_flow_through_merged_rows(model, batch):
    with attach(model, MeanOfHalves(), spans=batch.spans):
        got = model(**batch.inputs).logits[:, -1].sum()
    model.zero_grad(set_to_none=True)
    got.backward()
    through = model.model.multi_modal_projector.linear_1.weight.grad.clone()
    total = sum(
        model(inputs_embeds=embeds, position_ids=positions, attention_mask=torch.ones_like(positions))
        .logits[0, -1]
        .sum()
        for embeds, positions in (merged_by_hand(model, batch, row) for row in range(3))
    )
    model.zero_grad(set_to_none=True)
    total.backward()
    by_hand = model.model.multi_modal_projector.linear_1.weight.grad
    model.zero_grad(set_to_none=True)
    assert distance(through, by_hand) < 1e-4 * float(by_hand.abs().max())


def test_without_parts_the_model_is_untouched_and_the_baseline_is_recorded(model, batch):
    with torch.no_grad():
        plain = generate(model, batch.inputs)
        with attach(model, spans=batch.spans) as trace:
            attached = generate(model, batch.inputs)
    assert torch.equal(plain[1], attached[1])
    assert trace.num_visual == [16, 16, 16] and [len(kept) for kept in trace.kept] == [16, 16, 16]
    assert trace.budget.total == trace.budget.final == trace.budget.flops == 16


def flipped(batch):
    """The same batch, padded on the right."""
    ids, mask = batch.inputs["input_ids"].clone(), batch.inputs["attention_mask"].clone()
    for row in range(ids.shape[0]):
        pads = int((mask[row] == 0).sum())
        ids[row], mask[row] = ids[row].roll(-pads), mask[row].roll(-pads)
    return {**batch.inputs, "input_ids": ids, "attention_mask": mask}


class no_warning:  # noqa: N801 - reads as a context
    def __enter__(self):
        return None

    def __exit__(self, *error):
        return False
