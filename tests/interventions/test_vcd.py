"""VCD's noise, contrast and cut, one step and one token at a time."""

from __future__ import annotations

import math

import pytest
import torch

from lit_simignore.interventions._contrast import cut_implausible, extrapolate
from lit_simignore.interventions.vcd import VCD, diffuse, signal_shares
from lit_simignore.types import UserError


def test_the_schedule_multiplies_up_what_each_step_leaves() -> None:
    share, shares = 1.0, []
    for step in range(1000):
        added = 1 / (1 + math.exp(6 - 12 * step / 999)) * (0.005 - 0.00001) + 0.00001
        share *= 1 - added
        shares.append(share)
    assert torch.allclose(signal_shares(), torch.tensor(shares, dtype=torch.float64), rtol=1e-9)
    assert 0.5 < shares[500] < 0.9 and shares[999] < 0.1


def test_noise_has_the_schedules_mean_and_spread() -> None:
    pixels = torch.full((3, 100, 100), 2.0)
    share = float(signal_shares()[700])
    noisy = diffuse(pixels, 700, torch.Generator().manual_seed(0))
    assert math.isclose(float(noisy.mean()), 2 * math.sqrt(share), abs_tol=0.02)
    assert math.isclose(float(noisy.std()), math.sqrt(1 - share), abs_tol=0.02)


def test_noise_belongs_to_the_sample_and_the_seed_alone() -> None:
    pixels = torch.randn(2, 3, 5, 5)
    before = pixels.clone()
    first = VCD().second_pixels(pixels, "a")
    torch.manual_seed(99)
    assert torch.equal(first, VCD().second_pixels(pixels, "a"))
    assert torch.equal(pixels, before)
    assert not torch.equal(first, VCD().second_pixels(pixels, "b"))
    assert not torch.equal(first, VCD(seed=1).second_pixels(pixels, "a"))
    assert VCD().second_pixels(pixels.bfloat16(), "a").dtype == torch.bfloat16


def test_scores_are_the_papers_formula_token_by_token() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, second = 2 * torch.randn(3, 9, generator=generator), 2 * torch.randn(3, 9, generator=generator)
    scores = VCD(alpha=0.7, plausibility=0.2).combine(logits, second)
    for row in range(3):
        likely = [math.exp(float(x)) for x in logits[row]]
        for token in range(9):
            expected = 1.7 * float(logits[row, token]) - 0.7 * float(second[row, token])
            if likely[token] < 0.2 * max(likely):
                expected = -math.inf
            assert math.isclose(float(scores[row, token]), expected, abs_tol=1e-5)


def test_greedy_and_sampling_choose_among_the_same_tokens() -> None:
    """With sampling, tokens come as often as the softmax of the contrasted scores says, and cut ones never."""
    logits, second = torch.tensor([[2.0, 1.8, 1.0, -4.0]]), torch.tensor([[2.5, 0.5, 1.0, -20.0]])
    scores = VCD().combine(logits, second)
    assert int(scores.argmax()) == 1 and int(logits.argmax()) == 0
    torch.manual_seed(0)
    drawn = torch.multinomial(scores.softmax(-1)[0], 20000, replacement=True).bincount(minlength=4) / 20000
    weights = [math.exp(1.5), math.exp(3.1), math.exp(1.0)]
    expected = torch.tensor([*(weight / sum(weights) for weight in weights), 0.0])
    assert torch.allclose(drawn, expected, atol=0.015)
    assert float(drawn[3]) == 0  # the contrast alone would have made it the likeliest


def test_a_token_that_was_ruled_out_before_stays_ruled_out() -> None:
    logits = torch.tensor([[1.0, -math.inf, 0.5]])
    for second in (torch.tensor([[0.0, -math.inf, 0.0]]), torch.tensor([[0.0, 3.0, 0.0]])):
        for strength in (0.0, 1.0):
            scores = extrapolate(logits, second, strength)
            assert float(scores[0, 1]) == -math.inf and not bool(scores.isnan().any())


def test_no_plausibility_cuts_nothing() -> None:
    logits = torch.tensor([[0.0, -50.0]])
    assert torch.equal(cut_implausible(logits, logits, 0), logits)
    assert cut_implausible(logits, logits, 1.0).tolist() == [[0.0, -math.inf]]


def test_the_released_run_contrasts_the_first_token_only() -> None:
    part = VCD.preset("released")
    assert [part.contrasts_at(step) for step in range(3)] == [True, False, False]
    assert [VCD.preset("paper").contrasts_at(step) for step in range(3)] == [True, True, True]
    logits = torch.tensor([[0.3, 0.1, -9.0]])
    assert torch.equal(part.combine(logits, logits)[:, :2], logits[:, :2])


@pytest.mark.parametrize(
    "bad", [{"alpha": -1.0}, {"plausibility": 2.0}, {"noise_step": 1000}, {"noise_step": -1}, {"steps": "last"}]
)
def test_a_bad_field_is_refused_in_one_line(bad: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"VCD.{next(iter(bad))}"):
        VCD(**bad)
