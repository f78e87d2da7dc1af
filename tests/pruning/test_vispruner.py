from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lit_simignore.pruning.vispruner import VisPruner, thin_out
from lit_simignore.types import UserError
from tests.pruning.released import random_image, released, vision_features


def naive_thin_out(rows: torch.Tensor, listed: list[int], num_keep: int, round_size: int) -> list[int]:
    while len(listed) > num_keep:
        even, odd = listed[::2], listed[1::2]
        rating = {i: max((float(F.cosine_similarity(rows[i], rows[j], dim=0)) for j in odd), default=0.0) for i in even}
        even = sorted(even, key=lambda i: -rating[i])
        listed = even[min(round_size, len(listed) - num_keep, len(even)) :] + odd
    return listed


@pytest.mark.parametrize("seed", [0, 1])
def test_the_released_tokens_are_kept(seed: int) -> None:
    reference = released("vispruner", seed)
    rows = reference["features"][0]
    features = vision_features(torch.cat([rows[:1], rows]), vision_attention=reference["cls_attention"][0])
    num_keep, share = reference.count("visual_token_num"), reference.number("important_ratio")
    selection = VisPruner.preset("released", num_keep=num_keep, important_ratio=share).choose(features)
    assert torch.equal(selection.kept, reference["kept_sorted"])
    assert torch.equal(features.visual[selection.kept], reference["output_tokens"][0])


@pytest.mark.parametrize("seed", [0, 1])
def test_every_round_leaves_the_list_in_the_released_order(seed: int) -> None:
    reference = released("vispruner", seed)
    ranked = reference["cls_attention"][0].mean(dim=0).argsort(descending=True, stable=True)
    important, diverse = reference["important_in_order"][0], reference["diverse_in_order"][0]
    assert torch.equal(ranked[: len(important)], important)
    unit = F.normalize(reference["features"][0], dim=-1)
    assert torch.equal(thin_out(unit, ranked[len(important) :], len(diverse), 8), diverse)


@pytest.mark.parametrize(("length", "num_keep"), [(21, 6), (20, 7), (9, 0), (2, 1), (1, 0), (5, 5)])
def test_odd_lengths_and_small_rests_agree_with_plain_loops(length: int, num_keep: int) -> None:
    rows = torch.randn(25, 6, generator=torch.Generator().manual_seed(length))
    listed = torch.randperm(25, generator=torch.Generator().manual_seed(num_keep))[:length]
    found = thin_out(F.normalize(rows, dim=-1), listed, num_keep, round_size=4)
    assert found.tolist() == naive_thin_out(rows, listed.tolist(), num_keep, 4)


@pytest.mark.parametrize(("num_keep", "expected"), [(0, 0), (1, 1), (2, 2), (24, 24), (25, 25), (99, 25)])
def test_any_budget_is_met_or_capped(num_keep: int, expected: int) -> None:
    kept = VisPruner(num_keep=num_keep).choose(random_image(25)).kept
    assert kept.shape == (expected,) and torch.equal(kept, kept.unique())


def test_a_share_outside_0_to_1_is_refused() -> None:
    with pytest.raises(UserError, match="important_ratio must lie between 0 and 1"):
        VisPruner(num_keep=3, important_ratio=1.5)
