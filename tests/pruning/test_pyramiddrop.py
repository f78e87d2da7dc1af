from __future__ import annotations

import pytest
import torch

from lit_simignore.pruning.base import Features
from lit_simignore.pruning.pyramiddrop import PyramidDrop
from lit_simignore.types import UserError
from tests.pruning.naive_llama import NaiveLlama
from tests.pruning.released import Released, released
from tests.pruning.shapes import Shape


def run(reference: Released, pruner: PyramidDrop) -> tuple[NaiveLlama, torch.Tensor]:
    llama = NaiveLlama(reference)
    embeds = reference["inputs_embeds"][0]
    rows = llama.run(embeds, reference.count("image_start"), reference.count("num_image_tokens"), [pruner])
    return llama, rows


def rule(reference: Released, **fields: object) -> PyramidDrop:
    layers = tuple(int(layer) for layer in reference.numbers("layer_list"))
    ratios = tuple(reference.numbers("image_token_ratio_list")[1:])
    return PyramidDrop.preset("released", layers=layers, keep_ratio=ratios, **fields)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_plain_decoder_with_the_released_preset_gives_the_released_hidden_states(seed: int) -> None:
    reference = released("pyramiddrop", seed)
    llama, rows = run(reference, rule(reference))
    torch.testing.assert_close(rows, reference["final_hidden_states"][0], atol=1e-4, rtol=0)
    original = torch.arange(reference.count("num_image_tokens"))
    for number, stage in enumerate(llama.stages):
        assert torch.equal(stage.selection.kept, reference[f"stage{number}_kept_local"])
        assert stage.selection.scores is not None
        expected = reference[f"stage{number}_score"]
        torch.testing.assert_close(stage.selection.scores, expected, atol=1e-6, rtol=1e-3)
        by_rank = stage.selection.scores.argsort(descending=True, stable=True)[: len(stage.selection.kept)]
        assert torch.equal(by_rank, reference[f"stage{number}_kept_by_rank"])
        original = original[stage.selection.kept]
        assert torch.equal(original, reference[f"stage{number}_kept_original"])
        assert torch.equal(stage.positions_after, reference[f"stage{number}_position_ids"][0])


def test_by_default_positions_are_kept_which_changes_later_stages_only() -> None:
    reference = released("pyramiddrop", 1)
    llama, rows = run(reference, rule(reference, positions="original"))
    assert torch.equal(llama.stages[0].selection.kept, reference["stage0_kept_local"])
    assert torch.equal(llama.stages[0].positions_after, llama.stages[0].columns_after)
    assert not torch.allclose(rows, reference["final_hidden_states"][0], atol=1e-3)


def test_the_stages_are_ordinary_pruners_that_count_from_the_original_number() -> None:
    first, second, third = PyramidDrop().stages()
    assert [stage.stage for stage in (first, second, third)] == [8, 16, 24]
    assert all(stage.needs == PyramidDrop.needs for stage in (first, second, third))
    attention = torch.rand(2, 50, generator=torch.Generator().manual_seed(0))
    features = Features(visual=torch.zeros(50, 2), text=torch.zeros(1, 2), own_attention=attention, num_input=99)
    assert second.choose(features).kept.tolist() == sorted(attention.mean(0).topk(24).indices.tolist())
    assert first.choose(features).kept.shape == (49,)


@pytest.mark.parametrize(("num_keep", "expected"), [((9, 4), (9, 4)), ((0, 0), (0, 0)), ((90, 80), (20, 20))])
def test_counts_may_be_given_instead_of_ratios(num_keep: tuple[int, ...], expected: tuple[int, ...]) -> None:
    current, counts = 20, []
    for stage in PyramidDrop(layers=(1, 2), num_keep=num_keep).stages():
        attention = torch.rand(1, current, generator=torch.Generator().manual_seed(0))
        features = Features(
            visual=torch.zeros(current, 2), text=torch.zeros(1, 2), own_attention=attention, num_input=20
        )
        current = len(stage.choose(features).kept)
        counts.append(current)
    assert tuple(counts) == expected


def test_the_schedule_counts_what_every_layer_computes() -> None:
    schedule = PyramidDrop(layers=(1, 3), keep_ratio=(0.65, 0.31)).visual_per_layer(144, 5)
    assert schedule == [144, 93, 93, 44, 44]


@pytest.mark.parametrize(
    ("definition", "target"), [("layer_mean", 192), ("final", 64), ("flops", 320), ("layer_mean", 576)]
)
def test_budgets_scale_all_stages_by_one_factor(definition: str, target: float) -> None:
    shape = Shape(num_layers=32, num_visual=576)
    solved = PyramidDrop().with_budget(definition, target, shape)
    schedule = solved.visual_per_layer(576, 32)
    spends = {"layer_mean": sum(schedule) / 32, "final": schedule[-1], "flops": shape.flops_tokens(schedule)}
    assert abs(spends[definition] - target) <= 1
    assert solved.keep_ratio is not None
    if max(solved.keep_ratio) < 1:
        assert solved.keep_ratio[0] == pytest.approx(2 * solved.keep_ratio[1])


def test_a_budget_that_the_first_layers_already_exceed_is_refused_with_the_least() -> None:
    with pytest.raises(UserError, match="PyramidDrop spends at least 144 visual tokens \\(layer_mean\\)"):
        PyramidDrop().with_budget("layer_mean", 100, Shape(num_layers=32, num_visual=576))
    with pytest.raises(UserError, match="pass with_budget\\(..., shape=PrefillShape\\)"):
        PyramidDrop().with_budget("layer_mean", 64)


def test_a_final_budget_without_the_decoder_fixes_the_last_count_and_the_others_in_proportion() -> None:
    solved = PyramidDrop().with_budget("final", 50)
    assert solved.num_keep == (200, 100, 50) and solved.keep_ratio is None
    assert solved.visual_per_layer(150, 32)[7:9] == [150, 150]
    assert PyramidDrop().with_budget("final", 0).num_keep == (0, 0, 0)
    with pytest.raises(UserError, match="keeps nothing at its last layer"):
        PyramidDrop(keep_ratio=(0.5, 0.2, 0.0)).with_budget("final", 9)


def test_asking_the_whole_method_for_one_choice_is_refused() -> None:
    with pytest.raises(UserError, match="call choose on every one of its stages"):
        PyramidDrop().select(torch.randn(4, 2), torch.randn(1, 2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (8, 16)}, "one count per layer: 2 layers"),
        ({"layers": (8, 8, 9)}, "different layers in ascending order"),
        ({"layers": ()}, "different layers in ascending order"),
        ({"layers": (0, 8, 16)}, "layer_idx"),
        ({"keep_ratio": (0.5, 0.2, 1.2)}, "between 0 and 1"),
        ({"keep_ratio": (0.5, 0.2, 0.1), "num_keep": (3, 2, 1)}, "at most one of"),
    ],
)
def test_lists_that_do_not_fit_are_refused(fields: dict[str, tuple[float, ...]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PyramidDrop(**fields)  # type: ignore[arg-type]
