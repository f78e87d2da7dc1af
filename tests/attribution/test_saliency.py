from __future__ import annotations

import pytest
import torch

from lit_simignore.attribution.saliency import attention_saliency, gradients, mean_saliency, row_saliency
from lit_simignore.attribution.targets import answer_rows, answer_score
from lit_simignore.types import UserError
from tests.attribution.tiny_decoder import LAYERS, TinyDecoder, embeddings

ANSWER = torch.tensor([4, 9])


def run_and_score():
    model = TinyDecoder()
    run = model(embeddings())
    return model, run, answer_score(run.logits, ANSWER, 12)


def test_one_backward_pass_gives_every_layers_gradient_as_autograd_would_alone() -> None:
    model, run, score = run_and_score()
    together = gradients(score, run.attention)
    for layer in range(LAYERS):
        _, again, same = run_and_score()
        (alone,) = torch.autograd.grad(same, again.attention[layer])
        assert torch.allclose(together[layer], alone, atol=1e-7)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_gradient_is_the_slope_of_the_score() -> None:
    """Central difference in one attention value, with everything behind it recomputed by hand."""
    model = TinyDecoder().double()
    rows = embeddings().double()
    run = model(rows)
    (slope,) = gradients(answer_score(run.logits.double(), ANSWER, 12), run.attention[-1:])
    shift = torch.zeros_like(run.attention[-1])
    head, row, column = 2, 11, 5
    shift[head, row, column] = 1e-4

    @torch.no_grad()
    def scored(attention: torch.Tensor) -> float:
        value = run.values[-1].repeat_interleave(2, 0)
        entered = entering_last_layer(model, rows)
        mixed = (attention @ value).transpose(0, 1)
        hidden = entered + mixed.flatten(1) @ model.out[-1].T
        features = hidden / hidden.square().mean(-1, keepdim=True).sqrt()
        hidden = hidden + (features @ model.up[-1].T).relu() @ model.down[-1].T
        logits = hidden @ model.head.T
        return float(logits[11, 4] + logits[12, 9])

    expected = (scored(run.attention[-1] + shift) - scored(run.attention[-1] - shift)) / 2e-4
    assert abs(float(slope[head, row, column]) - expected) < 1e-4


def entering_last_layer(model: TinyDecoder, rows: torch.Tensor) -> torch.Tensor:
    run = model(rows)
    hidden = rows + run.mixed[0].flatten(1) @ model.out[0].T
    features = hidden / hidden.square().mean(-1, keepdim=True).sqrt()
    return hidden + (features @ model.up[0].T).relu() @ model.down[0].T


def test_rows_that_predict_nothing_of_the_answer_have_no_saliency_in_the_last_layer() -> None:
    _, run, score = run_and_score()
    last = attention_saliency(run.attention[-1], gradients(score, run.attention)[-1]).detach()
    rows = answer_rows(12, 2).tolist()
    assert float(last[:, rows].sum()) > 0
    assert float(last.sum()) == pytest.approx(float(last[:, rows].sum()))


def test_saliency_of_rows_needs_no_map_of_the_kernel() -> None:
    _, run, score = run_and_score()
    full = gradients(score, run.attention, keep_graph=True)
    mixed = gradients(score, run.mixed)
    rows = torch.tensor([6, 11, 12])
    for layer in range(LAYERS):
        expected = attention_saliency(run.attention[layer], full[layer])[:, rows]
        found = row_saliency(run.attention[layer][:, rows], run.values[layer], mixed[layer][rows])
        assert torch.allclose(found, expected, atol=1e-6)
        assert float(expected.detach().max()) > 1e-3


def test_the_mean_over_heads_can_have_rows_of_length_one() -> None:
    saliency = torch.rand(4, 3, 5)
    saliency[:, 1] = 0
    mean = mean_saliency(saliency)
    assert torch.allclose(mean[0], sum(saliency[head, 0] for head in range(4)) / 4)
    lengths = mean_saliency(saliency, unit_rows=True).norm(dim=1)
    assert torch.allclose(lengths, torch.tensor([1.0, 0.0, 1.0]), atol=1e-6)


def test_without_a_graph_the_user_is_told_what_to_do() -> None:
    with torch.no_grad():
        _, run, score = run_and_score()
    with pytest.raises(UserError, match="no_grad"):
        gradients(score, run.attention)


def test_a_tensor_that_the_score_does_not_depend_on_has_no_slope() -> None:
    _, run, score = run_and_score()
    apart = torch.ones(3, requires_grad=True)
    assert gradients(score, [run.attention[0], apart])[1].tolist() == [0, 0, 0]
