from __future__ import annotations

import pytest
import torch

from lit_simignore.pruning.base import Features
from lit_simignore.pruning.dart import DART
from lit_simignore.types import UserError
from tests.pruning.released import Released, released


def features_of(reference: Released) -> Features:
    start, count = reference.count("vision_token_start_index"), reference.count("vision_token_length")
    image, after = slice(start, start + count), slice(start + count, None)
    rows, keys = reference["normed_hidden_states"][0], reference["keys"][0]
    columns = torch.arange(len(rows))
    return Features(
        visual=rows[image],
        text=rows[after],
        normed_visual=rows[image],
        normed_text=rows[after],
        layer_keys=keys[:, image],
        text_keys=keys[:, after],
        visual_columns=columns[image],
        text_columns=columns[after],
    )


def released_rule(reference: Released, **fields: object) -> DART:
    return DART.preset(
        "released",
        keep_ratio=1 - reference.number("reduction_ratio"),
        pivot_visual=reference.count("pivot_image_token"),
        pivot_text=reference.count("pivot_text_token"),
        **fields,
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_the_released_preset_keeps_the_released_tokens(seed: int) -> None:
    reference = released("dart", seed)
    kept = released_rule(reference).choose(features_of(reference)).kept
    assert torch.equal(kept, reference["kept_image_relative_sorted"])


@pytest.mark.parametrize(("seed", "different"), [(0, 6), (1, 1)])
def test_pivots_by_norm_differ_from_the_release_in_the_tokens_that_its_set_order_explains(
    seed: int, different: int
) -> None:
    reference = released("dart", seed)
    kept = released_rule(reference, pivot_order="norm").choose(features_of(reference)).kept.tolist()
    assert len(set(reference["kept_image_relative_sorted"].tolist()) - set(kept)) == different


def random_layer(num_visual: int = 30, num_text: int = 6, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_visual + num_text, 8, generator=generator)
    keys = torch.randn(2, num_visual + num_text, 4, generator=generator)
    return Features(
        visual=rows[:num_visual],
        text=rows[num_visual:],
        normed_visual=rows[:num_visual],
        normed_text=rows[num_visual:],
        layer_keys=keys[:, :num_visual],
        text_keys=keys[:, num_visual:],
    )


def naive_dart(features: Features, num_keep: int, pivot_visual: int, pivot_text: int) -> list[int]:
    """The exact quota, pivots by norm, by plain loops."""
    assert features.layer_keys is not None and features.text_keys is not None
    norms = [float(key.abs().sum()) for key in features.layer_keys.transpose(0, 1)]
    text_norms = [float(key.abs().sum()) for key in features.text_keys.transpose(0, 1)]
    visual = sorted(range(len(norms)), key=lambda i: -norms[i])[: min(pivot_visual, num_keep)]
    text = sorted(range(len(text_norms)), key=lambda i: -text_norms[i])[:pivot_text]
    pivots = [features.visual[i] for i in visual] + [features.text[i] for i in text]
    kept = list(visual)
    for place, pivot in enumerate(pivots):
        quota = (num_keep - len(visual)) // len(pivots) + (place < (num_keep - len(visual)) % len(pivots))
        cosine = {
            i: float(torch.cosine_similarity(pivot, features.visual[i], dim=0))
            for i in range(len(norms))
            if i not in kept
        }
        kept += sorted(cosine, key=lambda i: cosine[i])[:quota]
    return sorted(kept)


@pytest.mark.parametrize(
    ("num_keep", "visual", "text"), [(1, 4, 4), (3, 4, 4), (13, 4, 4), (20, 3, 5), (29, 1, 0), (17, 0, 2), (12, 2, 9)]
)
def test_the_default_meets_the_budget_exactly_as_plain_loops_do(num_keep: int, visual: int, text: int) -> None:
    features = random_layer(seed=num_keep)
    kept = DART(num_keep=num_keep, pivot_visual=visual, pivot_text=text).choose(features).kept
    assert kept.tolist() == naive_dart(features, num_keep, visual, text)
    assert len(kept) == num_keep


@pytest.mark.parametrize(("num_keep", "expected"), [(0, 0), (30, 30), (99, 30)])
def test_none_and_all_are_possible(num_keep: int, expected: int) -> None:
    assert DART(num_keep=num_keep).choose(random_layer()).kept.shape == (expected,)


def test_text_that_is_missing_leaves_the_visual_pivots_to_choose() -> None:
    features = random_layer(num_text=0)
    assert DART(num_keep=11).choose(features).kept.tolist() == naive_dart(features, 11, 4, 4)


def test_no_pivot_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="DART needs at least one pivot"):
        DART(num_keep=3, pivot_visual=0, pivot_text=0)


def test_outside_a_decoder_the_method_says_what_it_misses() -> None:
    with pytest.raises(UserError, match="DART reads Features.layer_keys"):
        DART(num_keep=2).select(torch.randn(6, 3), torch.randn(2, 3))
