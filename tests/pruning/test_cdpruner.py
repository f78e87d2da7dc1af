from __future__ import annotations

import pytest
import torch

from lit_simignore.pruning.base import Features
from lit_simignore.pruning.cdpruner import CDPruner, greedy_dpp
from lit_simignore.types import UserError
from tests.pruning.released import Released, random_image, released


def samples_of(reference: Released) -> list[Features]:
    return [
        Features(visual=rows, text=rows[:0], joint_visual=joint, text_tower=reference["clip_text_embeds"])
        for rows, joint in zip(reference["projected_features"], reference["clip_image_embeds"], strict=True)
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_released_preset_reproduces_the_released_batch(seed: int) -> None:
    reference = released("cdpruner", seed)
    pruner = CDPruner.preset("released", num_keep=reference.count("visual_token_num"))
    selections = pruner.choose_batch(samples_of(reference))
    for number, (selection, sample) in enumerate(zip(selections, samples_of(reference), strict=True)):
        assert torch.equal(selection.kept, reference["kept_sorted"][number])
        assert selection.scores is not None
        torch.testing.assert_close(selection.scores, reference["relevance"][number], atol=1e-4, rtol=0)
        order = greedy_dpp(sample.visual, selection.scores, len(selection.kept))
        assert torch.equal(order, reference["kept_in_order"][number])


def test_by_default_a_sample_does_not_depend_on_its_neighbours() -> None:
    reference = released("cdpruner", 1)
    samples, alone = samples_of(reference), reference["kept_in_order_each_image_alone"]
    pruner = CDPruner(num_keep=reference.count("visual_token_num"))
    for selection, expected in zip(pruner.choose_batch(samples), alone, strict=True):
        assert torch.equal(selection.kept, expected.sort().values)
    together = CDPruner.preset("released", num_keep=20).choose_batch(samples)
    assert not torch.equal(together[1].kept, alone[1].sort().values)


def test_the_greedy_step_adds_the_token_with_the_largest_determinant() -> None:
    generator = torch.Generator().manual_seed(2)
    rows, relevance = torch.randn(9, 6, generator=generator), torch.rand(9, generator=generator) + 0.1
    unit = torch.nn.functional.normalize(rows.double(), dim=-1)
    kernel = relevance.double().outer(relevance.double()) * (unit @ unit.T)
    chosen: list[int] = []
    for _ in range(5):
        left = [i for i in range(9) if i not in chosen]
        volumes = {i: float(torch.linalg.det(kernel[[*chosen, i]][:, [*chosen, i]])) for i in left}
        chosen.append(max(left, key=lambda i: volumes[i]))
    assert greedy_dpp(rows, relevance, 5).tolist() == chosen


@pytest.mark.parametrize("num_keep", [0, 1, 11, 12, 30])
def test_more_tokens_than_the_features_have_rank_are_still_distinct(num_keep: int) -> None:
    features = random_image(12, width=4)
    kept = CDPruner(num_keep=num_keep).choose(features).kept
    assert kept.shape == (min(num_keep, 12),) and kept.unique().shape == kept.shape


def test_beyond_the_rank_the_most_relevant_tokens_fill_up() -> None:
    rows = torch.eye(2)[[0, 0, 0, 1, 1]]
    relevance = torch.tensor([1.0, 0.5, 0.7, 0.9, 0.2])
    assert greedy_dpp(rows, relevance, 4).tolist() == [0, 3, 2, 1]


def test_equal_relevance_everywhere_leaves_pure_diversity() -> None:
    features = random_image(10)
    assert features.joint_visual is not None
    features.joint_visual = features.joint_visual[:1].expand(10, -1)
    scores = CDPruner(num_keep=3).choose(features).scores
    assert scores is not None and torch.isfinite(scores).all() and scores.unique().numel() == 1


def test_a_model_without_a_text_tower_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="CDPruner reads Features.joint_visual"):
        CDPruner(num_keep=2).select(torch.randn(4, 3), torch.randn(2, 3))


def test_an_empty_sample_keeps_nothing() -> None:
    empty = torch.zeros(0, 4)
    features = Features(visual=empty, text=empty, joint_visual=empty, text_tower=torch.ones(1, 4))
    assert all(CDPruner(num_keep=3, relevance_range=r).choose(features).kept.shape == (0,) for r in ("sample", "batch"))
