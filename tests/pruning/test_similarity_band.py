"""Ignoring the middle or the ends of the similarity ranking, against slices of a sorted list."""

from __future__ import annotations

import pytest
import torch

from lit_simignore.pruning.simignore import Simignore
from lit_simignore.pruning.similarity_band import SimilarityBand
from lit_simignore.types import UserError


def rows(total: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(total, 16, generator=generator), torch.randn(5, 16, generator=generator)


def ranked(visual: torch.Tensor, text: torch.Tensor) -> list[int]:
    """Most similar first: by definition, one pair at a time."""
    best = [max(float(torch.cosine_similarity(row, word, dim=0)) for word in text) for row in visual]
    return sorted(range(len(best)), key=lambda index: -best[index])


@pytest.mark.parametrize(("total", "num_keep"), [(576, 452), (144, 113), (20, 7), (21, 8), (9, 1), (9, 9), (9, 0)])
def test_the_middle_of_the_ranking_is_ignored(total: int, num_keep: int) -> None:
    visual, text = rows(total)
    order = ranked(visual, text)
    ignored = total - num_keep
    best = (total - ignored + 1) // 2  # the more similar side keeps one more
    expected = sorted(order[:best] + order[best + ignored :])
    assert SimilarityBand(num_keep=num_keep).select(visual, text).tolist() == expected


@pytest.mark.parametrize(("total", "num_keep"), [(576, 452), (144, 113), (20, 7), (21, 7), (21, 8), (9, 1), (9, 0)])
def test_the_ends_of_the_ranking_are_ignored(total: int, num_keep: int) -> None:
    visual, text = rows(total, seed=1)
    ignored = total - num_keep
    expected = sorted(ranked(visual, text)[ignored // 2 :][:num_keep])
    assert SimilarityBand(num_keep=num_keep, ignore="ends").select(visual, text).tolist() == expected


def test_at_the_papers_size_the_ends_are_the_released_slice() -> None:
    visual, text = rows(576, seed=2)
    expected = sorted(ranked(visual, text)[62:514])
    assert SimilarityBand(num_keep=452, ignore="ends").select(visual, text).tolist() == expected


def test_without_text_it_keeps_what_simignore_keeps() -> None:
    visual, _ = rows(20)
    nothing = torch.zeros(0, 16)
    expected = Simignore(num_keep=6).select(visual, nothing)
    assert torch.equal(SimilarityBand(num_keep=6).select(visual, nothing), expected)


def test_a_wrong_band_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="SimilarityBand.ignore must be one of middle, ends; got 'mid'"):
        SimilarityBand(num_keep=3, ignore="mid")
