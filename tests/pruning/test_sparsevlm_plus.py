from __future__ import annotations

import math

import pytest
import torch

from lit_simignore.pruning._raters import rater_weights
from lit_simignore.pruning.base import Features
from lit_simignore.pruning.sparsevlm_plus import SparseVLMPlus, rope_prior
from lit_simignore.types import UserError
from tests.pruning.naive_llama import NaiveLlama
from tests.pruning.released import Released, released


def features_of(reference: Released) -> Features:
    """What the layer behind the stored queries and keys would hand over."""
    start, count = reference.count("image_start"), reference.count("num_image_tokens")
    image, after = slice(start, start + count), slice(start + count, None)
    query, key = reference["stage0_queries"][0], reference["stage0_keys"][0]
    logits = query @ key.transpose(-1, -2) / math.sqrt(key.shape[-1])
    future = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
    attention = logits.masked_fill(future, -torch.inf).softmax(-1)
    rope = NaiveLlama(reference).rope(torch.arange(key.shape[-2]))
    embeds, hidden = reference["inputs_embeds"][0], reference["stage0_layer_output"][0]
    return Features(
        visual=hidden[image],
        text=hidden[after],
        text_attention=attention[:, after, image],
        input_visual=embeds[image],
        input_text=embeds[after],
        visual_rope=rope[:, image],
        text_rope=rope[:, after],
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_the_released_tokens_are_kept(seed: int) -> None:
    reference = released("sparsevlm_plus", seed)
    pruner = SparseVLMPlus.preset(f"released-{reference.count('retained_tokens')}")
    assert list(pruner.num_keep or ()) == reference.numbers("keep_list") and pruner.positions == "original"
    features = features_of(reference)
    assert torch.equal(rater_weights(object(), features).nonzero().flatten(), reference["raters"])
    selection = pruner.stages()[0].choose(features)
    assert torch.equal(selection.kept, reference["stage0_kept_local"])
    assert selection.scores is not None and selection.merged is None
    torch.testing.assert_close(selection.scores, reference["stage0_score"], atol=1e-4, rtol=1e-2)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_prior_is_the_released_one(seed: int) -> None:
    reference = released("sparsevlm_plus", seed)
    features = features_of(reference)
    assert features.text_rope is not None and features.visual_rope is not None
    prior = rope_prior(features.text_rope, features.visual_rope)
    torch.testing.assert_close(prior, reference["stage0_rope_prior_text_rows"], atol=1e-4, rtol=1e-4)


def test_the_prior_depends_on_distance_as_a_sum_of_cosines() -> None:
    positions, width, theta = torch.tensor([3, 50]), 8, 10000.0
    frequencies = [theta ** (-2 * i / width) for i in range(width // 2)]
    angles = torch.outer(positions.float(), torch.tensor(frequencies)).repeat(1, 2)
    rope = torch.stack([angles.cos(), angles.sin()])
    for i, p in enumerate(positions.tolist()):
        for j, q in enumerate(positions.tolist()):
            expected = sum(2 * math.cos((p - q) * f) for f in frequencies) / math.sqrt(width)
            assert float(rope_prior(rope, rope)[i, j]) == pytest.approx(expected, abs=1e-4)


def random_stage(num_visual: int = 20) -> Features:
    generator = torch.Generator().manual_seed(num_visual)
    rows, text = torch.randn(num_visual, 6, generator=generator), torch.randn(5, 6, generator=generator)
    angles = torch.arange(num_visual + 5)[:, None] * torch.tensor([0.01, 0.001, 0.01, 0.001])
    rope = torch.stack([angles.cos(), angles.sin()])
    return Features(
        visual=rows,
        text=text,
        text_attention=torch.rand(4, 5, num_visual, generator=generator),
        input_visual=rows,
        input_text=text,
        visual_rope=rope[:, :num_visual],
        text_rope=rope[:, num_visual:],
    )


@pytest.mark.parametrize("num_heads", [1, 2, 4, 14])
def test_the_loudest_heads_are_averaged_over_raters_as_plain_loops_do(num_heads: int) -> None:
    features = random_stage()
    assert features.text_attention is not None
    assert features.visual_rope is not None and features.text_rope is not None
    prior = rope_prior(features.text_rope, features.visual_rope)
    raters = rater_weights(object(), features).nonzero().flatten().tolist()
    maps = [[(head[r] / prior[r]) for r in raters] for head in features.text_attention]
    loudest = sorted(range(4), key=lambda h: -float(sum(row.sum() for row in maps[h])))[:num_heads]
    expected = torch.stack([torch.stack(maps[h]).mean(0) for h in loudest]).mean(0)
    selection = SparseVLMPlus(layers=(3,), num_keep=(6,), num_heads=num_heads).stages()[0].choose(features)
    torch.testing.assert_close(selection.scores, expected)
    assert selection.kept.tolist() == sorted(expected.topk(6).indices.tolist())


@pytest.mark.parametrize(("num_keep", "expected"), [(0, 0), (20, 20), (99, 20)])
def test_any_budget_is_met_or_capped(num_keep: int, expected: int) -> None:
    kept = SparseVLMPlus(layers=(3,), num_keep=(num_keep,)).stages()[0].choose(random_stage()).kept
    assert kept.shape == (expected,)


def test_no_head_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="num_heads must be an integer >= 1"):
        SparseVLMPlus(num_heads=0)
