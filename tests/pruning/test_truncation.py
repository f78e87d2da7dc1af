from __future__ import annotations

import pytest
import torch

from lit_simignore.pruning.truncation import Truncation
from lit_simignore.types import UserError
from tests.pruning.naive_llama import NaiveLlama
from tests.pruning.released import Released
from tests.pruning.shapes import Shape


def test_nothing_visual_is_left_and_the_text_keeps_its_columns() -> None:
    reference = Released("official", "simignore_seed0")
    llama = NaiveLlama(reference, prefix="w.model.")
    rows = llama.run(reference["inputs_embeds"][0], 35, 576, [Truncation(layer_idx=3)])
    assert rows.shape[0] == len(reference["inputs_embeds"][0]) - 576
    assert llama.stages[0].positions_after.tolist() == [*range(35), *range(611, 671)]


def test_a_mean_budget_is_met_by_the_nearest_layer() -> None:
    shape = Shape(num_layers=32, num_visual=576)
    assert Truncation().with_budget("layer_mean", 190, shape).stage == 11  # 11 * 576 / 32 = 198, 10 gives 180
    assert Truncation().with_budget("layer_mean", 18, shape).stage == 1
    assert Truncation(layer_idx=5).with_budget("final", 0) == Truncation(layer_idx=5)


@pytest.mark.parametrize(
    ("definition", "number"), [("final", 3), ("layer_mean", 17), ("layer_mean", 570), ("input", 9)]
)
def test_a_budget_out_of_reach_is_refused_with_what_can_be_had(definition: str, number: float) -> None:
    with pytest.raises(UserError, match="Truncation (leaves 0|spends 18 to 558|spends 576 to 576)"):
        Truncation().with_budget(definition, number, Shape(num_layers=32, num_visual=576))


def test_before_the_first_layer_it_is_another_method() -> None:
    with pytest.raises(UserError, match="layer_idx"):
        Truncation(layer_idx=0)


def test_pure_selection_keeps_no_token() -> None:
    assert Truncation(layer_idx=2).select(torch.randn(5, 3), torch.randn(2, 3)).shape == (0,)
