from __future__ import annotations

import math

import pytest
import torch

from lit_simignore.pruning.base import Features
from lit_simignore.pruning.prumerge import PruMerge
from lit_simignore.types import UserError
from tests.pruning.released import prumerge_features, random_image, released


@pytest.mark.parametrize("seed", [0, 1])
def test_the_released_preset_emits_the_released_rows_in_their_order(seed: int) -> None:
    reference = released("prumerge", seed)
    selection = PruMerge.preset("released").choose(prumerge_features(reference))
    assert selection.merged is not None and selection.sources is not None and selection.scores is not None
    torch.testing.assert_close(selection.scores, reference["cls_attention"][0], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(selection.merged, reference["output_tokens"][0], atol=1e-4, rtol=0)
    rest = sorted(set(range(reference.count("num_patches"))) - set(reference["kept_sorted"].tolist()))
    assert list(selection.sources[-1]) == rest
    for row, kept in zip(selection.sources, reference["kept_in_order"].tolist(), strict=False):
        assert kept in row and len(row) == reference.count("neighbours") + 1


@pytest.mark.parametrize("seed", [0, 1])
def test_in_place_the_slots_are_the_released_tokens_and_one_more(seed: int) -> None:
    reference = released("prumerge", seed)
    selection = PruMerge().choose(prumerge_features(reference))
    expected = set(reference["kept_sorted"].tolist())
    (further,) = set(selection.kept.tolist()) - expected
    assert selection.merged is not None and set(selection.kept.tolist()) >= expected
    order = {index: row for row, index in enumerate([*reference["kept_in_order"].tolist(), further])}
    rows = reference["output_tokens"][0][[order[index] for index in selection.kept.tolist()]]
    torch.testing.assert_close(selection.merged, rows, atol=1e-4, rtol=0)
    assert selection.scores is not None
    outside = [i for i in range(reference.count("num_patches")) if i not in expected]
    assert further == max(outside, key=lambda i: float(selection.scores[i]))  # type: ignore[index]


def naive_rows(features: Features, num_top: int, neighbours: int) -> tuple[list[int], list[torch.Tensor]]:
    """Kept patches by falling attention and their rows, the further row last, by plain loops."""
    query, own, keys = features.vision_last_cls_query, features.vision_last_cls_key, features.vision_last_keys
    assert query is not None and own is not None and keys is not None
    total, width = keys.shape
    exponentials = [math.exp(float(query[0] @ key) / math.sqrt(width)) for key in [own[0], *keys]]
    attention = [value / sum(exponentials) for value in exponentials[1:]]
    kept = sorted(range(total), key=lambda i: -attention[i])[:num_top]
    rows = []
    for i in kept:
        cosine = {j: float(torch.cosine_similarity(keys[i], keys[j], dim=0)) for j in range(total) if j != i}
        near = sorted(cosine, key=lambda j: -cosine[j])[:neighbours]
        rows.append(features.visual[i] + sum(attention[j] * features.visual[j] for j in near))
    rest = [j for j in range(total) if j not in kept]
    rows.append(sum(attention[j] * features.visual[j] for j in rest))  # type: ignore[arg-type]
    return kept, rows


@pytest.mark.parametrize(("num_keep", "neighbours"), [(1, 3), (2, 32), (7, 0), (7, 4), (19, 32)])
def test_a_fixed_budget_counts_the_further_row(num_keep: int, neighbours: int) -> None:
    features = random_image(20, seed=num_keep)
    selection = PruMerge(num_keep=num_keep, neighbours=neighbours, placement="appended").choose(features)
    kept, rows = naive_rows(features, num_keep - 1, neighbours)
    assert selection.merged is not None
    assert set(kept) < set(selection.kept.tolist()) or not kept
    torch.testing.assert_close(selection.merged, torch.stack(rows))


@pytest.mark.parametrize(("num_keep", "expected"), [(0, 0), (1, 1), (19, 19), (20, 20), (50, 20)])
def test_any_budget_is_met_or_capped(num_keep: int, expected: int) -> None:
    assert PruMerge(num_keep=num_keep).choose(random_image(20)).kept.shape == (expected,)


def test_without_any_outlier_the_most_attended_patch_stays() -> None:
    features = random_image(40)
    features.vision_last_cls_query = torch.zeros_like(features.vision_last_cls_query)  # type: ignore[arg-type]
    assert PruMerge().choose(features).kept.shape == (2,)


def test_a_budget_may_be_given_once_or_not_at_all() -> None:
    assert PruMerge().with_budget("input", 9).num_keep == 9  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="takes exactly one of num_keep, keep_ratio"):
        PruMerge(num_keep=3, keep_ratio=0.5)


def test_two_images_without_grids_are_refused() -> None:
    with pytest.raises(UserError, match="one class token per image: got 2"):
        PruMerge().choose(random_image(40, num_images=2))
