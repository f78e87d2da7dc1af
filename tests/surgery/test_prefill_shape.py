"""Budgets that a pruner was matched on, against what an attached model then really spent."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from lit_simignore.metrics.flops import prefill_flops
from lit_simignore.pruning import PRUNERS
from lit_simignore.pruning._layerwise import LayerwisePruner
from lit_simignore.pruning._pending import PendingBudget, meet_budgets
from lit_simignore.pruning.base import CountPruner, Pruner
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.pyramiddrop import PyramidDrop
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.pruning.text_only import TextOnly
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.prefill_shape import prompt_shape
from lit_simignore.surgery.trace import Trace
from lit_simignore.types import UserError
from tests.tiny_models import TOKENS_PER_IMAGE, Batch, tiny_batch, tiny_llava

LAYERS = 6
ASKED = {"input": 5, "final": 5, "layer_mean": 11, "flops": 11.5}


@cache
def model_and_batch() -> tuple[Any, Batch]:
    """One image of 16 visual tokens; the first prompt is also the longest."""
    return tiny_llava(num_hidden_layers=LAYERS), tiny_batch((2, 2))


def prefill(*parts: object) -> Trace:
    model, batch = model_and_batch()
    with torch.no_grad(), attach(model, *parts, spans=batch.spans) as trace:
        model(**batch.inputs)
    return trace


def build(name: str) -> Pruner:
    """With layers that fit six of them, and settings that the budget replaces."""
    cls = PRUNERS()[name]
    if issubclass(cls, LayerwisePruner):
        return cls(layers=(1, 3, 4))
    return cls(num_keep=7) if issubclass(cls, CountPruner) else cls()


def tolerance(pruner: Pruner) -> float:
    """Half a token, for counts are whole; one, where tokens kept change how many merge; truncation moves by layers."""
    if type(pruner).__name__ == "Truncation":
        return 2 * TOKENS_PER_IMAGE / LAYERS / 2 + 0.5
    if type(pruner).__name__ == "DownsampledImage":
        return 2 * 4  # asked for 11 of 16 tokens per image, or for 5: the grids below are 9 and 4
    return 1.0 if getattr(pruner, "adds_tokens", False) else 0.5


def test_a_prompt_is_counted_as_the_model_counts_it() -> None:
    model, batch = model_and_batch()
    shape = prompt_shape(model, batch.inputs)
    assert shape.num_visual == 2 * TOKENS_PER_IMAGE
    trace = prefill()
    lengths = [shape.num_visual + shape.num_text] * LAYERS
    assert trace.budgets[0].prefill_tflops == pytest.approx(prefill_flops(shape.decoder, lengths) / 1e12)
    assert shape.flops_tokens([shape.num_visual] * LAYERS) == pytest.approx(shape.num_visual)


@pytest.mark.parametrize("definition", ASKED)
@pytest.mark.parametrize("name", sorted(PRUNERS()))
def test_the_budget_that_was_asked_for_is_what_is_spent(name: str, definition: str) -> None:
    model, batch = model_and_batch()
    shape, asked = prompt_shape(model, batch.inputs), 2 * ASKED[definition]
    try:
        matched = build(name).with_budget(definition, asked, shape)
    except UserError as error:
        inside = build(name).stage is not None
        expected = (name == "text_only") or (name == "truncation" and definition == "final")
        assert expected or (inside and definition == "input"), error
        assert " at least " in str(error) or " spends " in str(error) or " leaves " in str(error)
        assert f"{asked:g}" in str(error)
        return
    try:
        trace = prefill(matched)
    except UserError as error:
        assert " needs " in str(error)
        pytest.skip(f"not on this family: {error}")
    assert getattr(trace.budgets[0], definition) == pytest.approx(asked, abs=tolerance(matched))
    if definition != "flops":  # the other prompt has another length
        assert getattr(trace.budgets[1], definition) == pytest.approx(asked, abs=tolerance(matched))


@pytest.mark.parametrize("definition", ["final", "layer_mean", "flops"])
def test_in_a_composition_what_runs_before_counts(definition: str) -> None:
    model, batch = model_and_batch()
    shape = prompt_shape(model, batch.inputs)
    waiting = PendingBudget(FastV(num_keep=0), definition, 13)
    simignore = Simignore(num_keep=20)
    for parts in ((simignore, waiting), (waiting, simignore)):
        trace = prefill(*meet_budgets(parts, shape))
        assert trace.budgets[0].input == 20
        assert getattr(trace.budgets[0], definition) == pytest.approx(13, abs=0.5)


def test_the_least_that_can_be_met_is_named() -> None:
    model, batch = model_and_batch()
    shape = prompt_shape(model, batch.inputs)
    with pytest.raises(UserError, match=r"FastV spends at least 10\.67 visual tokens \(layer_mean\).*budget of 9"):
        meet_budgets([PendingBudget(FastV(num_keep=0), "layer_mean", 9)], shape)
    behind = PendingBudget(PyramidDrop(layers=(1, 2, 3)), "layer_mean", 5)
    with pytest.raises(UserError, match="at least 5.333"):
        meet_budgets([behind], shape)
    met = meet_budgets([TextOnly(), behind], shape)
    assert prefill(*met).budgets[0].layer_mean == 0


@pytest.mark.parametrize(
    "first", [Simignore(min_similarity=0.1), FastV(num_keep=3, layer_idx=1), PRUNERS()["prumerge"]()], ids=repr
)
def test_what_is_not_known_in_advance_cannot_be_matched(first: Pruner) -> None:
    model, batch = model_and_batch()
    with pytest.raises(UserError, match="is not known in advance"):
        meet_budgets([first, PendingBudget(FastV(num_keep=0), "flops", 13)], prompt_shape(model, batch.inputs))


def test_a_prompt_without_image_has_no_budget_of_visual_tokens() -> None:
    with pytest.raises(UserError, match="this one shows none"):
        prompt_shape(tiny_llava(), tiny_batch((0, 1)).inputs)
