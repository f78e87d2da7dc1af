"""The controls: random, evenly spaced, none."""

from __future__ import annotations

import pytest
import torch

from lit_simignore.pruning.random_tokens import RandomTokens
from lit_simignore.pruning.stride import Stride
from lit_simignore.pruning.text_only import TextOnly
from lit_simignore.types import UserError

NOTHING = torch.zeros(0, 4)


def draw(key, seed=0, num_keep=5, total=50):
    return RandomTokens(num_keep=num_keep, seed=seed).select(torch.zeros(total, 4), NOTHING, key=key)


def test_a_random_set_depends_on_seed_and_key_alone():
    before = draw("a")
    torch.manual_seed(99)
    assert torch.equal(before, draw("a"))
    assert not torch.equal(draw("a"), draw("b"))
    assert not torch.equal(draw("a"), draw("a", seed=1))
    # "1" + "0a" and "10" + "a" are different samples
    assert not torch.equal(draw("0a", seed=1), draw("a", seed=10))


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    draw("a")
    assert torch.equal(torch.rand(2), expected)


def test_every_token_is_equally_likely():
    """5 of 50 tokens in 4000 draws: 400 each, standard deviation 19; six of them is a chance of one in 10^7."""
    counts = torch.zeros(50)
    for sample in range(4000):
        counts[draw(f"sample {sample}")] += 1
    assert float((counts - 400).abs().max()) < 6 * 19


def test_larger_sets_contain_smaller_ones():
    assert set(draw("a", num_keep=5).tolist()) < set(draw("a", num_keep=20).tolist())


@pytest.mark.parametrize(("total", "num_keep"), [(16, 4), (16, 16), (17, 5), (9, 1), (576, 452), (3, 8), (5, 0)])
def test_stride_spreads_its_tokens_evenly(total, num_keep):
    kept = Stride(num_keep=num_keep).select(torch.zeros(total, 4), NOTHING).tolist()
    assert len(kept) == min(total, num_keep)
    gaps = [b - a for a, b in zip(kept, kept[1:], strict=False)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    if kept:
        assert abs(kept[0] - (total - 1 - kept[-1])) <= 1


def test_text_only_keeps_nothing_and_can_spend_nothing_else():
    assert len(TextOnly().select(torch.zeros(9, 4), NOTHING)) == 0
    assert isinstance(TextOnly().with_budget("final", 0), TextOnly)
    with pytest.raises(UserError, match="spends 0 visual tokens"):
        TextOnly().with_budget("input", 8)
