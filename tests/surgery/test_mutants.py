"""Known ways of getting it wrong, put into the real code one at a time: the oracle must notice each of them.

Whatever these mutants change is what the comparison with the masked model stands for. Should one of them pass, that
comparison has become blind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from lit_simignore.pruning.base import Pruner
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.random_tokens import RandomTokens
from lit_simignore.pruning.sparsevlm import SparseVLM
from lit_simignore.pruning.visionzip import VisionZip
from lit_simignore.surgery import cache, choose, decode, hooks, prefill, prompt, stages
from lit_simignore.surgery.attach import attach
from tests.masked_reference import HiddenFromLayers, distance, generate, hidden_by_stage, reference_inputs
from tests.method_reference import Oracle, Recorded
from tests.surgery.parts_inside import RaggedAt
from tests.surgery.test_generation import first_turn, second_turn
from tests.surgery.test_stage0 import Ragged
from tests.tiny_families import tiny_family, tiny_family_batch

TOLERANCE = 3e-4
NOTICED = 1.0
"""Logits differ by units where something is wrong, by rounding where nothing is."""

Mutant = Callable[[pytest.MonkeyPatch], None]

ENTRY, STAGE = (Ragged(),), (RaggedAt(layer_idx=2),)
BOTH = (*ENTRY, RaggedAt(layer_idx=2, factor=2))
HIDING, CLOSED = (Ragged(apply="mask"),), (Ragged(positions="renumber"),)


def in_place_of(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Let ``change(result, *arguments)`` have the last word on what ``owner.name`` returns."""
    original = getattr(owner, name)
    assert callable(original)

    def mutated(*args: Any, **kwargs: Any) -> Any:
        return change(original(*args, **kwargs), *args, **kwargs)

    monkeypatch.setattr(owner, name, mutated)


# -- mutants


def column_off_by_one(monkeypatch):
    """Visual tokens are looked for one column too late, as in the released FastV half of Simignore."""
    in_place_of(monkeypatch, prompt.Prompt, "slots", lambda slots, *_: replace(slots, visual=slots.visual.roll(1, 1)))


def kept_off_by_one(monkeypatch):
    """The right tokens are chosen, the rows of their neighbours are kept."""

    def later(columns, keep):
        return replace(columns, index=(columns.index + 1).clamp(max=keep.shape[1] - 1))

    in_place_of(monkeypatch, prefill, "keep_columns", later)
    in_place_of(monkeypatch, stages, "keep_columns", later)


def positions_not_gathered(monkeypatch):
    """Rows before the decoder are gathered, their positions are not."""
    monkeypatch.setattr(prefill, "gather_positions", lambda positions, index: positions[..., : index.shape[1]])


def rotary_not_gathered(monkeypatch):
    """Rows inside the decoder are gathered, their rotary tables are not."""
    remembered = stages.DecoderRun.remembered

    def mutated(run, kind, value, make):
        if kind == "rotary":
            return tuple(part[:, : run.columns.width] for part in value)
        return remembered(run, kind, value, make)

    monkeypatch.setattr(stages.DecoderRun, "remembered", mutated)


def fillers_count_as_real(monkeypatch):
    """Samples that keep fewer tokens than others are filled up; the fillers are attended to."""

    def all_real(columns, *_):
        return replace(columns, valid=torch.ones_like(columns.valid), all_valid=True)

    in_place_of(monkeypatch, prefill, "keep_columns", all_real)
    in_place_of(monkeypatch, stages, "keep_columns", all_real)


def padding_counts_as_real(monkeypatch):
    """The prompt's own padding is kept and attended to."""
    monkeypatch.setattr(
        hooks, "alive_columns", lambda mask, batch, length, device: torch.ones(batch, length, dtype=torch.bool)
    )


def prefill_mask_not_gathered(monkeypatch):
    """Layers behind a stage get the first columns of the mask instead of those that are left."""

    def first_columns(result, mask, columns, *_):
        return None if mask is None else mask[..., : columns.width, : columns.width]

    in_place_of(monkeypatch, stages, "stage_prefill_mask", first_columns)


def decode_mask_not_rewritten(monkeypatch):
    """Later steps see the caller's mask, cut to what is stored."""

    def cut(result, mask, *_):
        return None if mask is None or result is None else mask[:, : result.shape[1]]

    in_place_of(monkeypatch, decode, "decode_mask", cut)


def layers_decode_mask_not_rewritten(monkeypatch):
    """Later steps see, behind a stage, the first columns of the mask that fits the layers before it."""

    def cut(result, mask, *_):
        return result if mask is None or result is None else mask[..., : result.shape[-1]]

    in_place_of(monkeypatch, stages, "stage_decode_mask", cut)


def logical_length_ignored(monkeypatch):
    """The cache answers what it stores, so a second turn begins at the wrong token."""
    plain = DynamicCache.get_seq_length
    monkeypatch.setattr(cache._Shortened, "get_seq_length", lambda self, layer_idx=0: plain(self, layer_idx or 0))


def closed_positions_forgotten(monkeypatch):
    """Positions are closed up in the prompt; later steps count as if they were not."""

    def forget(result, chosen, slots, inputs, **_):
        changed, columns = result
        return changed, replace(columns, shift=torch.zeros_like(columns.shift))

    in_place_of(monkeypatch, hooks, "shortened_inputs", forget)


def rows_restored_out_of_place(monkeypatch):
    """What comes out of the decoder is put back one column early."""

    def early(columns):
        return replace(columns, index=(columns.index - 1).clamp(min=0))

    original = hooks.scatter_rows
    monkeypatch.setattr(hooks, "scatter_rows", lambda values, columns: original(values, early(columns)))


def hidden_tokens_seen(monkeypatch):
    """``apply="mask"`` hides nothing."""
    monkeypatch.setattr(prefill, "hidden_mask", lambda mask, visible: mask)


def merged_rows_lost(monkeypatch):
    """A merged token carries its own row alone."""
    original = choose._apply

    def mutated(selection, *rest):
        original(replace(selection, merged=None), *rest)

    monkeypatch.setattr(choose, "_apply", mutated)


def deepstack_not_filtered(monkeypatch):
    """Vision features for early layers are those of the first tokens instead of the kept ones."""
    from lit_simignore.surgery.families.qwen3_vl import Qwen3VL

    def first(result, family, inputs, *_):
        rows = inputs["deepstack_visual_embeds"]
        short = [layer[: len(cut)] for layer, cut in zip(rows, result["deepstack_visual_embeds"], strict=True)]
        return {**result, "deepstack_visual_embeds": short}

    in_place_of(monkeypatch, Qwen3VL, "shortened", first)


# -- what notices them


def worst(model: Any, batch: Any, parts: tuple[Any, ...]) -> float:
    """Largest distance of any logit to the masked model's: prompt, greedy steps, and a second turn on the cache."""
    with torch.no_grad(), attach(model, *parts, spans=batch.spans) as trace:
        logits = model(**batch.inputs).logits[:, -1:]
        _, steps, _ = generate(model, batch.inputs)
        turn = second_turn(model, batch, first_turn(model, batch.inputs))
    entry = [stage for stage in trace.stages if stage.layer_idx is None]
    kept = entry[-1].kept if entry else [torch.arange(total) for total in trace.num_visual]
    reference = reference_inputs(batch.inputs, kept, renumber=parts == CLOSED)
    with torch.no_grad(), HiddenFromLayers(model, hidden_by_stage(batch.inputs, trace)):
        expected = model(**reference).logits[:, -1:]
        _, expected_steps, _ = generate(model, reference)
        positions = reference["position_ids"]
        further = torch.cat([positions, positions[:, -1:] + 1 + torch.arange(9)], 1)
        given = {"attention_mask": reference["attention_mask"], "position_ids": further}
        expected_turn = second_turn(model, batch, first_turn(model, reference), **given)
    turns = distance(torch.stack(turn.logits), torch.stack(expected_turn.logits))
    return max(distance(logits, expected), distance(steps, expected_steps), turns)


def worst_of_family(name: str, pruner: Pruner) -> float:
    """The same for one method on one family, without the second turn."""
    model, recorded = tiny_family(name), Recorded(pruner)
    batch = tiny_family_batch(name, model)
    with torch.no_grad(), attach(model, recorded.pruner) as trace:
        logits = model(**batch.inputs).logits
        steps = generate(model, batch.inputs)[1]
    oracle = Oracle(model, batch, trace, recorded)
    with torch.no_grad():
        seen = ~oracle.gone
        return max(distance(logits[seen], oracle.forward().logits[seen]), distance(steps, oracle.generate(8)[1]))


NOTICED_BY = [
    (column_off_by_one, ENTRY),
    (column_off_by_one, STAGE),
    (kept_off_by_one, ENTRY),
    (kept_off_by_one, STAGE),
    (positions_not_gathered, ENTRY),
    (rotary_not_gathered, STAGE),
    (fillers_count_as_real, ENTRY),
    (fillers_count_as_real, STAGE),
    (padding_counts_as_real, ENTRY),
    (prefill_mask_not_gathered, STAGE),
    (decode_mask_not_rewritten, ENTRY),
    (layers_decode_mask_not_rewritten, STAGE),
    (logical_length_ignored, ENTRY),
    (closed_positions_forgotten, CLOSED),
    (rows_restored_out_of_place, ENTRY),
    (rows_restored_out_of_place, STAGE),
    (hidden_tokens_seen, HIDING),
]


def named(value: Any) -> str:
    return value.__name__ if callable(value) else "+".join(type(part).__name__ for part in value)


@pytest.mark.parametrize(("mutant", "parts"), NOTICED_BY, ids=named)
def test_the_masked_model_notices(model, batch, monkeypatch, mutant, parts):
    mutant(monkeypatch)
    assert worst(model, batch, parts) > NOTICED


@pytest.mark.parametrize("parts", [ENTRY, STAGE, BOTH, HIDING, CLOSED], ids=named)
def test_without_mutants_there_is_nothing_to_notice(model, batch, parts):
    assert worst(model, batch, parts) < TOLERANCE


OF_FAMILIES = [
    (merged_rows_lost, "llava", lambda: SparseVLM(layers=(2,), keep_ratio=(0.5,), tokens_per_cluster=2)),
    (merged_rows_lost, "llava", lambda: VisionZip(keep_ratio=0.5)),
    (deepstack_not_filtered, "qwen3_vl", lambda: RandomTokens(keep_ratio=0.5)),
    (rotary_not_gathered, "qwen2_5_vl", lambda: FastV(keep_ratio=0.5)),
    (positions_not_gathered, "qwen2_5_vl", lambda: RandomTokens(keep_ratio=0.5)),
    (prefill_mask_not_gathered, "gemma3", lambda: FastV(keep_ratio=0.5)),
    (column_off_by_one, "instructblip", lambda: RandomTokens(keep_ratio=0.5)),
]


@pytest.mark.parametrize(("mutant", "name", "make"), OF_FAMILIES)
def test_the_oracle_of_the_contract_suite_notices(monkeypatch, mutant, name, make):
    assert worst_of_family(name, make()) < TOLERANCE
    mutant(monkeypatch)
    assert worst_of_family(name, make()) > NOTICED
