from __future__ import annotations

import pytest
import torch

from lit_simignore.pruning.base import Features
from lit_simignore.pruning.prumerge_plus import PruMergePlus
from tests.pruning.released import prumerge_features, random_image, released


@pytest.mark.parametrize("seed", [0, 1])
def test_the_released_preset_emits_the_released_rows_in_their_order(seed: int) -> None:
    reference = released("prumerge_plus", seed)
    selection = PruMergePlus.preset("released").choose(prumerge_features(reference))
    assert selection.merged is not None and selection.sources is not None
    torch.testing.assert_close(selection.merged, reference["output_tokens"][0], atol=1e-4, rtol=0)
    kept = set(range(reference.count("num_patches"))) - set(selection.sources[-1])
    assert sorted(kept) == reference["kept_sorted"].tolist()
    assert all(own in row for own, row in zip(reference["kept_in_order"].tolist(), selection.sources, strict=False))


def with_outliers(num_patches: int, outliers: int) -> Features:
    """The first ``outliers`` patches share nearly all attention; the others' is equal."""
    features = random_image(num_patches)
    assert features.vision_last_keys is not None and features.vision_last_cls_query is not None
    features.vision_last_keys = torch.zeros_like(features.vision_last_keys)
    features.vision_last_keys[:outliers] = features.vision_last_cls_query / features.vision_last_cls_query.norm()
    return features


def stayed(pruner: PruMergePlus, features: Features) -> set[int]:
    sources = pruner.choose(features).sources
    assert sources is not None
    further = max(sources, key=len)
    return set(range(features.visual.shape[0])) - set(further)


def test_the_grid_covers_images_of_any_size_unless_the_released_end_is_asked_for() -> None:
    features = with_outliers(700, 20)
    grid = set(range(0, 700, int(700 // 20 / 3)))
    assert stayed(PruMergePlus(), features) == grid | set(range(20))
    assert stayed(PruMergePlus.preset("released"), features) == {i for i in grid if i < 575} | set(range(20))


def test_many_outliers_make_the_stride_one_instead_of_zero() -> None:
    features = with_outliers(40, 9)  # int(40 / 9) = 4, a third of it is 1: the whole grid stays
    assert PruMergePlus().choose(features).kept.tolist() == list(range(40))
    features = random_image(2)  # 1 of 2: the release's stride would be 0
    assert PruMergePlus().choose(features).kept.tolist() == [0, 1]


@pytest.mark.parametrize(("num_keep", "expected"), [(0, 0), (1, 1), (2, 2), (15, 15), (39, 39), (40, 40), (90, 40)])
def test_any_budget_is_met_or_capped(num_keep: int, expected: int) -> None:
    kept = PruMergePlus(num_keep=num_keep).choose(random_image(40)).kept
    assert kept.shape == (expected,) and torch.equal(kept, kept.unique())


def test_a_fixed_budget_spreads_what_the_outliers_leave() -> None:
    features = random_image(100, seed=2)
    adaptive = PruMergePlus(placement="appended").choose(features)
    assert adaptive.scores is not None
    quartiles = torch.quantile(adaptive.scores, torch.tensor([0.25, 0.75]))
    outliers = (adaptive.scores > quartiles[1] + 1.5 * (quartiles[1] - quartiles[0])).nonzero().flatten().tolist()
    sources = PruMergePlus(num_keep=21, placement="appended").choose(features).sources
    assert sources is not None and 0 < len(outliers) < 20
    found = set(range(100)) - set(sources[-1])
    others = [i for i in range(100) if i not in outliers]
    count = 20 - len(outliers)
    spread = [others[(2 * k + 1) * len(others) // (2 * count)] for k in range(count)]
    assert found == set(outliers) | set(spread)
