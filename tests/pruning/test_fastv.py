from __future__ import annotations

import pytest
import torch

from lit_simignore.pruning.base import Features
from lit_simignore.pruning.fastv import FastV
from lit_simignore.types import UserError
from tests.pruning.naive_llama import NaiveLlama
from tests.pruning.released import Released
from tests.pruning.shapes import Shape


def last_logits(reference: Released, kept: torch.Tensor | None, *pruners: FastV) -> torch.Tensor:
    llama = NaiveLlama(reference, prefix="w.model.")
    start, count = reference.count("image_start"), reference.count("image_tokens")
    rows = llama.run(reference["inputs_embeds"][0], start, count, pruners, kept)
    return rows[-1] @ reference["w.lm_head.weight"].T


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_plain_decoder_with_fastv_gives_the_released_logits(seed: int) -> None:
    reference = Released("official", f"simignore_seed{seed}")
    fastv = FastV(layer_idx=reference.count("fastv_layer"), num_keep=reference.count("fastv_keep"))
    close = {"atol": 1e-4, "rtol": 0}
    torch.testing.assert_close(last_logits(reference, None), reference["dense_last_logits"][0], **close)
    torch.testing.assert_close(last_logits(reference, None, fastv), reference["fastv_last_logits"][0], **close)
    kept = reference["kept_image_tokens"].nonzero().flatten()
    both = last_logits(reference, kept, fastv)
    torch.testing.assert_close(both, reference["simignore_then_fastv_last_logits"][0], **close)


def test_the_score_is_the_mean_over_heads_and_ties_go_to_the_first() -> None:
    attention = torch.tensor([[0.1, 0.4, 0.0, 0.1], [0.3, 0.0, 0.1, 0.3]])
    features = Features(visual=torch.zeros(4, 2), text=torch.zeros(1, 2), query_attention=attention)
    selection = FastV(num_keep=2).choose(features)
    assert selection.kept.tolist() == [0, 1]
    torch.testing.assert_close(selection.scores, torch.tensor([0.2, 0.2, 0.05, 0.2]))


@pytest.mark.parametrize(("fields", "expected"), [({"num_keep": 0}, 0), ({"num_keep": 9}, 5), ({"keep_ratio": 0.5}, 2)])
def test_any_budget_is_met_or_capped(fields: dict[str, float], expected: int) -> None:
    features = Features(visual=torch.zeros(5, 2), text=torch.zeros(1, 2), query_attention=torch.rand(2, 5))
    assert FastV(**fields).choose(features).kept.shape == (expected,)  # type: ignore[arg-type]


def test_a_budget_after_the_last_layer_needs_no_decoder() -> None:
    assert FastV.preset("paper").with_budget("final", 64) == FastV(layer_idx=2, num_keep=64)


def test_a_mean_over_layers_is_solved_for() -> None:
    shape = Shape(num_layers=32, num_visual=576)
    solved = FastV(layer_idx=2, num_keep=1).with_budget("layer_mean", 192, shape)
    assert solved == FastV(layer_idx=2, num_keep=166)  # (2 * 576 + 30 * 166) / 32 = 191.6
    flops = FastV(layer_idx=2, keep_ratio=0.5).with_budget("flops", 300, shape)
    assert flops == FastV(layer_idx=2, num_keep=round(((32 * 300**2 - 2 * 576**2) / 30) ** 0.5))


def test_a_budget_that_the_first_layers_already_exceed_is_refused_with_the_least() -> None:
    shape = Shape(num_layers=32, num_visual=576)
    with pytest.raises(UserError, match="FastV spends at least 36 visual tokens \\(layer_mean\\).*got a budget of 30"):
        FastV(layer_idx=2, num_keep=1).with_budget("layer_mean", 30, shape)
    with pytest.raises(UserError, match="FastV spends at least 576 visual tokens \\(input\\)"):
        FastV(layer_idx=2, num_keep=1).with_budget("input", 64, shape)


@pytest.mark.parametrize("definition", ["input", "layer_mean", "flops"])
def test_without_the_decoder_other_budgets_are_refused_with_what_to_pass(definition: str) -> None:
    with pytest.raises(UserError, match="pass with_budget\\(..., shape=PrefillShape\\)"):
        FastV(num_keep=1).with_budget(definition, 64)


@pytest.mark.parametrize(("definition", "number"), [("tokens", 3), ("final", -1), ("final", float("nan"))])
def test_what_is_no_budget_is_refused(definition: str, number: float) -> None:
    with pytest.raises(UserError, match="budget"):
        FastV(num_keep=1).with_budget(definition, number)


@pytest.mark.parametrize("layer", [0, -1, 1.5, True])
def test_a_layer_that_nothing_runs_before_is_refused(layer: int) -> None:
    with pytest.raises(UserError, match="layer_idx"):
        FastV(num_keep=1, layer_idx=layer)


def test_presets_take_other_budgets_and_refuse_other_names() -> None:
    assert FastV.preset("paper", num_keep=8) == FastV(layer_idx=2, num_keep=8)
    with pytest.raises(UserError, match="unknown FastV preset 'papers'; did you mean 'paper'"):
        FastV.preset("papers")
    with pytest.raises(UserError, match="unknown FastV field 'layer'"):
        FastV.preset("paper", layer=3)
