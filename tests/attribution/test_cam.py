from __future__ import annotations

import math

import pytest
import torch

from lit_simignore.attribution.cam import class_activation, layer_activations, normalise, share_on, smooth
from lit_simignore.attribution.saliency import gradients
from lit_simignore.attribution.targets import answer_score
from lit_simignore.types import UserError
from tests.attribution.tiny_decoder import TinyDecoder, embeddings

FEATURES = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
GRADIENT = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mode", ["grad_cam", "released"])
def test_a_map_is_the_formula_token_by_token(mode: str) -> None:
    found = class_activation(FEATURES, GRADIENT, mode=mode)
    for token in range(6):
        total = 0.0
        for channel in range(5):
            slopes = [float(GRADIENT[other, channel]) for other in range(6)]
            slopes = [max(0.0, slope) for slope in slopes] if mode == "released" else slopes
            total += sum(slopes) / 6 * float(FEATURES[token, channel])
        total = total / 5 if mode == "released" else total
        assert math.isclose(float(found[token]), max(0.0, total), abs_tol=1e-6)
    assert bool((found == 0).any()) and bool((found > 0).any())


def test_layers_of_one_backward_pass_are_mapped_at_the_visual_tokens() -> None:
    run = TinyDecoder()(embeddings())
    visual = torch.zeros(14, dtype=torch.bool)
    visual[2:8] = True
    slopes = gradients(answer_score(run.logits, torch.tensor([4, 9]), 12), run.features)
    maps = layer_activations(run.features, slopes, visual).detach()
    assert maps.shape == (2, 6)
    assert torch.allclose(maps[0], class_activation(run.features[0][2:8], slopes[0][2:8]).detach())
    assert float(maps[0].max()) > 0
    assert maps[1].tolist() == [0] * 6, "nothing leads from the last layer's visual features to the answer"


def test_a_normalised_map_peaks_at_one_and_zeros_stay_zeros() -> None:
    maps = torch.tensor([[0.0, 2.0, 4.0], [0.0, 0.0, 0.0]])
    assert normalise(maps).tolist() == [[0, 0.5, 1], [0, 0, 0]]
    assert normalise(maps, floor=0.6).tolist() == [[0, 0, 1], [0, 0, 0]]
    assert normalise(maps, floor=0.5).tolist() == [[0, 0.5, 1], [0, 0, 0]], "the released cut is below, not at, 0.5"


def test_smoothing_averages_over_seeded_noise() -> None:
    inputs = torch.tensor([1.0, -2.0])
    squares = smooth(torch.square, inputs, sigma=0.5, num_samples=4000, seed=3)
    assert torch.allclose(squares, inputs.square() + 0.25, atol=0.1)  # E (x + n)^2 = x^2 + sigma^2
    assert torch.equal(squares, smooth(torch.square, inputs, sigma=0.5, num_samples=4000, seed=3))
    assert not torch.equal(squares, smooth(torch.square, inputs, sigma=0.5, num_samples=4000, seed=4))
    assert torch.equal(smooth(torch.square, inputs, sigma=0), inputs.square())


def test_heat_on_some_tokens_is_a_share_of_all() -> None:
    maps = torch.tensor([[1.0, 3.0, 0.0, 4.0], [1.0, 1.0, 1.0, 1.0]])
    assert share_on(maps, torch.tensor([1, 2])).tolist() == [0.375, 0.5]
    assert bool(share_on(torch.zeros(4), torch.tensor([1])).isnan())


def test_bad_arguments_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="mode of the map"):
        class_activation(FEATURES, GRADIENT, mode="cam")
    with pytest.raises(UserError, match="one shape"):
        class_activation(FEATURES, GRADIENT[:3])
    with pytest.raises(UserError, match="sigma >= 0"):
        smooth(torch.square, FEATURES, sigma=-1)
    with pytest.raises(UserError, match="num_samples >= 1"):
        smooth(torch.square, FEATURES, num_samples=0)
