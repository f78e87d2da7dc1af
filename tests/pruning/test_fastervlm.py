from __future__ import annotations

import pytest
import torch

from lit_simignore.pruning.fastervlm import FasterVLM
from lit_simignore.types import UserError
from tests.pruning.released import random_image, released, vision_features


@pytest.mark.parametrize("seed", [0, 1])
def test_the_released_tokens_are_kept_in_the_released_order(seed: int) -> None:
    reference = released("fastervlm", seed)
    hidden = torch.cat([torch.zeros_like(reference["features"][0, :1]), reference["features"][0]])
    features = vision_features(hidden, vision_attention=reference["cls_attention"][0])
    selection = FasterVLM(num_keep=reference.count("visual_token_num")).choose(features)
    assert torch.equal(selection.kept, reference["kept_sorted"])
    assert selection.scores is not None and torch.equal(selection.scores, reference["mean_attention"][0])
    assert torch.equal(features.visual[selection.kept], reference["output_tokens"][0])


def test_several_images_share_the_budget_in_proportion_to_their_size() -> None:
    features = random_image(16 + 32, num_images=2)
    features.grids = ((4, 4), (4, 8))
    assert features.vision_attention is not None
    features.vision_attention[:, :16] += 10  # competing over all images, the first would take everything
    kept = FasterVLM(num_keep=10).choose(features).kept
    first, second = kept[kept < 16], kept[kept >= 16]
    scores = features.vision_attention.mean(dim=0)
    assert first.tolist() == sorted(scores[:16].topk(3).indices.tolist())
    assert (second - 16).tolist() == sorted(scores[16:].topk(7).indices.tolist())


@pytest.mark.parametrize(("num_keep", "expected"), [(0, 0), (1, 1), (9, 9), (50, 9)])
def test_any_budget_is_met_or_capped(num_keep: int, expected: int) -> None:
    assert FasterVLM(num_keep=num_keep).choose(random_image(9)).kept.shape == (expected,)


def test_without_a_class_token_the_method_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="FasterVLM reads Features.vision_attention"):
        FasterVLM(num_keep=2).select(torch.randn(4, 3), torch.randn(2, 3))
