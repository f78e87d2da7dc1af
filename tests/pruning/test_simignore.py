"""Simignore's rule against naive loops over pairs."""

from __future__ import annotations

import math

import pytest
import torch

from lit_simignore.pruning.base import Features
from lit_simignore.pruning.least_similar import LeastSimilar
from lit_simignore.pruning.simignore import Simignore, walk_pairs
from lit_simignore.types import UserError


def rows(seed=0, visual=30, text=7, width=16):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(visual, width, generator=generator), torch.randn(text, width, generator=generator)


def naive_similarity(v, t, measure):
    if measure == "cosine":
        return float(v @ t) / (math.sqrt(float(v @ v)) * math.sqrt(float(t @ t)))
    if measure == "euclidean":
        return -math.sqrt(sum((float(a) - float(b)) ** 2 for a, b in zip(v, t, strict=True)))
    return -sum(abs(float(a) - float(b)) for a, b in zip(v, t, strict=True))


def naive_score(values, aggregate, top_m):
    if aggregate == "max":
        return max(values)
    best = sorted(values, reverse=True)[: top_m if aggregate == "top_m" else len(values)]
    return sum(best) / len(best)


@pytest.mark.parametrize("aggregate", ["max", "mean", "top_m"])
@pytest.mark.parametrize("measure", ["cosine", "euclidean", "manhattan"])
def test_scores_and_choice_equal_a_loop_over_pairs(measure, aggregate):
    visual, text = rows()
    rule = Simignore(num_keep=9, similarity=measure, aggregate=aggregate, top_m=2)
    selection = rule.choose(Features(visual=visual, text=text))
    scores = [naive_score([naive_similarity(v, t, measure) for t in text], aggregate, 2) for v in visual]
    assert torch.allclose(selection.scores, torch.tensor(scores), atol=1e-4)
    best = sorted(sorted(range(30), key=lambda i: -scores[i])[:9])
    assert selection.kept.tolist() == best


def test_distances_use_raw_rows_so_that_they_rank_otherwise_than_the_cosine():
    visual, text = rows()
    visual = visual * torch.linspace(0.1, 4, 30)[:, None]
    by_cosine = Simignore(num_keep=9).select(visual, text)
    by_distance = Simignore(num_keep=9, similarity="euclidean").select(visual, text)
    assert not torch.equal(by_cosine, by_distance)


def test_top_m_beyond_the_text_is_the_mean():
    visual, text = rows()
    features = Features(visual=visual, text=text)
    mean = Simignore(num_keep=3, aggregate="mean").choose(features).scores
    assert torch.allclose(Simignore(num_keep=3, aggregate="top_m", top_m=99).choose(features).scores, mean, atol=1e-6)


def naive_walk(pairs, num_keep, first, step):
    """The released loop: one pair after the other, appending tokens that are new."""
    flat = sorted(
        (-float(pairs[i, j]), i * pairs.shape[1] + j, i) for i in range(pairs.shape[0]) for j in range(pairs.shape[1])
    )
    kept = []
    for _, _, token in flat[first::step]:
        if len(kept) == num_keep:
            break
        if token not in kept:
            kept.append(token)
    return sorted(kept)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("first", "step"), [(0, 1), (1, 1), (0, 2), (3, 5), (500, 1)])
@pytest.mark.parametrize("num_keep", [0, 1, 12, 29, 40])
def test_the_walk_over_sorted_pairs_is_the_released_loop(seed, first, step, num_keep):
    pairs = torch.rand(30, 4, generator=torch.Generator().manual_seed(seed))
    assert walk_pairs(pairs, num_keep, first, step).tolist() == naive_walk(pairs, num_keep, first, step)


def test_the_plain_walk_is_the_top_of_the_largest_similarities():
    visual, text = rows(visual=100)
    kept = Simignore(num_keep=40).select(visual, text)
    pairs = torch.nn.functional.normalize(visual, dim=1) @ torch.nn.functional.normalize(text, dim=1).T
    assert torch.equal(kept, walk_pairs(pairs, 40, 0, 1))


def test_a_walk_that_skips_pairs_can_end_with_fewer_tokens():
    visual, text = rows(text=1)
    assert len(Simignore(num_keep=30, step=2).select(visual, text)) == 15


def test_ties_go_to_the_lower_index():
    visual, text = torch.ones(6, 4), torch.ones(2, 4)
    assert Simignore(num_keep=3).select(visual, text).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("threshold", "count"), [(0.9, 1), (0.5, 2), (0.0, 3), (-1.0, 4), (1.1, 0)])
def test_a_threshold_keeps_all_tokens_that_reach_it(threshold, count):
    text = torch.tensor([[1.0, 0.0]])
    visual = torch.tensor([[0.0, 1.0], [3.0, 0.0], [-1.0, 0.0], [1.0, 1.0]])  # cosines 0, 1, -1, 0.71
    kept = Simignore(min_similarity=threshold).select(visual, text)
    assert len(kept) == count and set(kept.tolist()) == set([1, 3, 0, 2][:count])


@pytest.mark.parametrize(("mass", "count"), [(0.0, 0), (0.4, 1), (0.5, 1), (0.6, 2), (0.9, 3), (1.0, 4)])
def test_mass_keeps_the_fewest_tokens_that_hold_that_share(mass, count):
    text = torch.tensor([[0.0]])
    visual = torch.tensor([[9.0], [4.0], [6.0], [7.0]])  # minus distance: 0, 5, 3, 2 above the farthest
    kept = Simignore(similarity_mass=mass, similarity="euclidean").select(visual, text)
    assert len(kept) == count and set(kept.tolist()) == set([1, 2, 3, 0][:count])


def test_mass_over_equal_similarities_is_a_share_of_the_tokens():
    assert len(Simignore(similarity_mass=0.5).select(torch.ones(6, 4), torch.ones(2, 4))) == 3


def test_without_text_a_count_keeps_evenly_spaced_tokens():
    visual, nothing = torch.randn(16, 8), torch.zeros(0, 8)
    assert Simignore(num_keep=4).select(visual, nothing).tolist() == [2, 6, 10, 14]
    assert Simignore(num_keep=4, first=1).select(visual, nothing).tolist() == [2, 6, 10, 14]
    assert len(Simignore(num_keep=0).select(visual, nothing)) == 0
    assert len(Simignore(num_keep=99).select(visual, nothing)) == 16
    assert len(Simignore(min_similarity=0.9).select(visual, nothing)) == 16
    assert len(Simignore(similarity_mass=0.25).select(visual, nothing)) == 4


def test_a_zero_row_is_similar_to_nothing_and_breaks_nothing():
    visual, text = rows()
    visual[3] = 0
    selection = Simignore(num_keep=5).choose(Features(visual=visual, text=text))
    assert float(selection.scores[3]) == 0 and bool(selection.scores.isfinite().all())


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({}, "exactly one of num_keep, keep_ratio, min_similarity, similarity_mass; got none"),
        ({"num_keep": 3, "min_similarity": 0.1}, "exactly one of"),
        ({"num_keep": 3, "similarity": "cosin"}, "did you mean 'cosine'"),
        ({"num_keep": 3, "aggregate": "median"}, "aggregate must be one of max, mean, top_m"),
        ({"num_keep": 3, "text": "caption"}, "text must be one of options, question, prompt"),
        ({"num_keep": 3, "positions": "gapped"}, "positions"),
        ({"num_keep": 3, "apply": "hide"}, "apply must be one of drop, mask"),
        ({"num_keep": 3, "top_m": 0}, "top_m must be an integer >= 1"),
        ({"num_keep": 3, "step": 0}, "step >= 1"),
        ({"num_keep": 3, "first": -1}, "first >= 0"),
        ({"num_keep": 3, "step": 2, "aggregate": "mean"}, "aggregate='max'"),
        ({"min_similarity": 0.1, "step": 2}, "num_keep or keep_ratio"),
        ({"min_similarity": math.nan}, "finite"),
        ({"similarity_mass": 1.2}, "between 0 and 1"),
    ],
)
def test_bad_fields_are_refused_with_what_to_do(bad, said):
    with pytest.raises(UserError, match=said.replace("(", r"\(")) as caught:
        Simignore(**bad)
    assert "\n" not in str(caught.value)


def test_presets_are_the_released_constants_and_take_overrides():
    seven = Simignore.preset("released-7b")
    assert (seven.num_keep, seven.first, seven.step, seven.text, seven.apply) == (452, 1, 1, "options", "mask")
    thirteen = Simignore.preset("released-13b")
    assert (thirteen.num_keep, thirteen.first, thirteen.step) == (451, 0, 2)
    paper = Simignore.preset("paper")
    assert (paper.num_keep, paper.first, paper.step, paper.text) == (452, 0, 1, "prompt")
    ratio = Simignore.preset("released-7b", keep_ratio=0.5, apply="drop")
    assert (ratio.num_keep, ratio.keep_ratio, ratio.apply, ratio.first) == (None, 0.5, "drop", 1)
    with pytest.raises(UserError, match="did you mean 'released-7b'"):
        Simignore.preset("released-7")
    with pytest.raises(UserError, match="num_keep"):
        Simignore.preset("paper", num_kept=3)


def test_a_budget_replaces_whatever_budget_was_set():
    spent = Simignore(min_similarity=0.3, text="options").with_budget("layer_mean", 12)
    assert (spent.num_keep, spent.min_similarity, spent.text) == (12, None, "options")
    with pytest.raises(UserError, match="apply='drop'"):
        Simignore(num_keep=3, apply="mask").with_budget("input", 12)


def test_rows_of_different_widths_are_refused():
    with pytest.raises(UserError, match="one width"):
        Simignore(num_keep=2).select(torch.zeros(4, 3), torch.zeros(2, 5))


def test_least_similar_without_text_spreads_out_too():
    assert LeastSimilar(num_keep=4).select(torch.randn(16, 8), torch.zeros(0, 8)).tolist() == [2, 6, 10, 14]


def test_least_similar_keeps_exactly_what_simignore_would_drop():
    visual, text = rows()
    most, least = Simignore(num_keep=10).select(visual, text), LeastSimilar(num_keep=20).select(visual, text)
    assert sorted(most.tolist() + least.tolist()) == list(range(30))
