"""What is taken out of a prefill equals what eager attention and plain autograd give, and the model stays as it was."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_simignore.attribution.targets import answer_score
from lit_simignore.interventions.eah import EAH
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.random_tokens import RandomTokens
from lit_simignore.pruning.truncation import Truncation
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.capture import Capture, SeenLayer, capture
from lit_simignore.surgery.forced import Forced, teacher_forced
from lit_simignore.types import UserError
from tests.masked_reference import HiddenFromLayers, hidden_by_stage, num_hooks, visible_mask, visual_columns_of
from tests.tiny_families import BUILDERS, FamilyBatch, tiny_family, tiny_family_batch

FIRST = ["gemma3", "internvl", "llava", "qwen2_5_vl"]
NAMES = [pytest.param(name, marks=[] if name in FIRST else [pytest.mark.slow]) for name in sorted(BUILDERS)]
ANSWERS = [torch.tensor([30, 31]), torch.tensor([40]), torch.tensor([50, 51, 52])]
WIDTH = 64
"""More visual tokens than any sample has."""
pytestmark = pytest.mark.filterwarnings("ignore:attach.. got no spans")


@cache
def case(name: str, attention: str = "sdpa") -> tuple[Any, FamilyBatch, Forced]:
    model = tiny_family(name, attention)
    batch = tiny_family_batch(name, model)
    return model, batch, teacher_forced(model, batch.inputs, ANSWERS)


def run(model: Any, inputs: dict[str, Any], **options: Any) -> Any:
    return model(**inputs, use_cache=False, **options)


def attentions_of(model: Any, output: Any) -> tuple[Tensor, ...]:
    return output.language_model_outputs.attentions if model.config.model_type == "instructblip" else output.attentions


def total_score(logits: Tensor, forced: Forced) -> Tensor:
    return sum(answer_score(rows, answer, forced.first) for rows, answer in zip(logits, forced.answers, strict=True))


def rows_of(forced: Forced) -> Any:
    """A reader that keeps the attention of all rows that predict an answer."""
    return lambda layer: [layer.attention(row, forced.rows(row)) for row in range(len(forced.answers))]


@pytest.mark.parametrize("name", NAMES)
def test_attention_rows_are_those_of_eager_attention(name: str) -> None:
    model, _, forced = case(name)
    with torch.no_grad(), capture(model, read=rows_of(forced)) as seen:
        run(model, forced.inputs)
    with torch.no_grad():
        expected = attentions_of(model, run(case(name, "eager")[0], forced.inputs, output_attentions=True))
    assert list(seen.layers) == list(range(4)) == list(range(len(expected)))
    for index, layer in seen.layers.items():
        for row, found in enumerate(layer.read):
            assert torch.allclose(found, expected[index][row][:, forced.rows(row)], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_all_layers_are_those_of_autograd_on_eager_attention(name: str) -> None:
    model, _, forced = case(name)
    with capture(model, gradients=True) as seen:
        seen.differentiate(total_score(run(model, forced.inputs).logits, forced))
    eager = case(name, "eager")[0]
    features: list[Tensor] = []
    norms = [getattr(layer, _norm(layer)) for layer in eager.get_decoder().layers]
    handles = [norm.register_forward_hook(lambda module, args, output: features.append(output)) for norm in norms]
    output = run(eager, forced.inputs, output_attentions=True)
    maps = attentions_of(eager, output)
    slopes = torch.autograd.grad(total_score(output.logits, forced), [*maps, *features], allow_unused=True)
    for handle in handles:
        handle.remove()
    for index, layer in seen.layers.items():
        by_features, expected = layer.feature_gradient, slopes[len(maps) + index]
        assert by_features is not None
        assert torch.allclose(by_features, expected, atol=1e-4 * float(expected.abs().max()))
        for row in range(len(ANSWERS)):
            asked = forced.rows(row)
            eager_saliency = (maps[index][row][:, asked] * slopes[index][row][:, asked]).abs().detach()
            found = seen.saliency(index, row, asked)
            assert torch.allclose(found, eager_saliency, atol=1e-4 * float(eager_saliency.max()))
            assert float(eager_saliency.max()) > 0


def _norm(layer: Any) -> str:
    return "pre_feedforward_layernorm" if hasattr(layer, "pre_feedforward_layernorm") else "post_attention_layernorm"


def test_a_feature_gradient_is_the_slope_of_the_score() -> None:
    """Without autograd: move one layer's features a little and look at the score."""
    model, _, forced = case("llava")
    with capture(model, gradients=True) as seen:
        seen.differentiate(total_score(run(model, forced.inputs).logits, forced))
    gradient = seen.layers[1].feature_gradient
    assert gradient is not None
    direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(5))

    def score(step: float) -> float:
        norm = model.get_decoder().layers[1].post_attention_layernorm
        handle = norm.register_forward_hook(lambda module, args, output: output + step * direction)
        with torch.no_grad():
            found = float(total_score(run(model, forced.inputs).logits.double(), forced))
        handle.remove()
        return found

    slope = (score(1e-3) - score(-1e-3)) / 2e-3
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=0.02)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gradients", [False, True])
def test_the_model_computes_the_same_bits_and_is_left_as_it_was(name: str, gradients: bool) -> None:
    model, _, forced = case(name)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    configs = [id(getattr(module, "config", None)) for module in model.modules()]
    with torch.set_grad_enabled(gradients):
        before = run(model, forced.inputs).logits
        hooks = num_hooks(model)  # transformers puts some of its own on vision towers at the first call
        with capture(model, read=lambda layer: None, gradients=gradients):
            inside = run(model, forced.inputs).logits
        after = run(model, forced.inputs).logits
    assert torch.equal(before, inside) and torch.equal(before, after)
    assert num_hooks(model) == hooks
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert [id(getattr(module, "config", None)) for module in model.modules()] == configs
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_an_error_inside_leaves_nothing_behind() -> None:
    model, _, forced = case("llava")
    run(model, forced.inputs)
    hooks = num_hooks(model)

    def fail(layer: SeenLayer) -> None:
        raise RuntimeError("a reader that fails")

    with pytest.raises(RuntimeError, match="a reader that fails"), capture(model, read=fail, gradients=True):
        run(model, forced.inputs)
    assert num_hooks(model) == hooks and all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(UserError, match="layers from 0 to 3"), capture(model, layers=[4]):
        pass
    with capture(model, layers=[2]) as seen:
        run(model, forced.inputs)
    assert list(seen.layers) == [2] and num_hooks(model) == hooks


def test_queries_and_keys_are_let_go_unless_gradients_need_them() -> None:
    model, _, forced = case("llava")
    with torch.no_grad(), capture(model, read=lambda layer: layer.layout.visual.sum()) as seen:
        run(model, forced.inputs)
    assert all(layer.heads is None and layer.features is None and layer.mixed is None for layer in seen.layers.values())


# -- pruning


@pytest.mark.parametrize("name", FIRST)
def test_behind_a_drop_before_the_decoder_rows_are_those_of_the_masked_model(name: str) -> None:
    model, _, forced = case(name)
    with torch.no_grad(), attach(model, RandomTokens(keep_ratio=0.5)) as trace, capture(model, read=_on_image) as seen:
        run(model, forced.inputs)
        kept = trace.kept
    hidden = {**forced.inputs, "attention_mask": visible_mask(forced.inputs, kept)}
    with torch.no_grad():
        hidden |= _positions(model, forced.inputs)
        expected = run(case(name, "eager")[0], hidden, output_attentions=True).attentions
    _compare(seen, forced, expected, {index: kept for index in range(4)})


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize("stage", [FastV(layer_idx=2, num_keep=3), Truncation(layer_idx=2)])
def test_behind_a_stage_inside_the_decoder_rows_are_those_of_the_masked_model(name: str, stage: Any) -> None:
    model, _, forced = case(name)
    with torch.no_grad(), attach(model, stage) as trace, capture(model, read=_on_image) as seen:
        run(model, forced.inputs)
        kept, hidden = trace.kept, hidden_by_stage(forced.inputs, trace)
    everything = [torch.arange(len(columns)) for columns in visual_columns_of(forced.inputs["input_ids"])]
    eager = case(name, "eager")[0]
    with torch.no_grad(), HiddenFromLayers(eager, hidden):
        expected = run(eager, forced.inputs, output_attentions=True).attentions
    _compare(seen, forced, expected, {index: everything if index < 2 else kept for index in range(4)})


def _on_image(layer: SeenLayer) -> list[tuple[Tensor, Tensor]]:
    """Per sample, attention of the last column behind the prompt's end, over the image, and what is visible there."""
    found = []
    for row in range(len(layer.layout.visual)):
        attention = layer.heads.probabilities(row, layer.layout.alive[row].nonzero()[-1])
        found.append((layer.layout.to_image(attention[:, 0], row, WIDTH), layer.layout.visible(row, WIDTH)))
    return found


def _compare(seen: Capture, forced: Forced, expected: Any, kept: dict[int, list[Tensor]]) -> None:
    columns = visual_columns_of(forced.inputs["input_ids"])
    for index, layer in seen.layers.items():
        for row, (attention, visible) in enumerate(layer.read):
            last = int(forced.inputs["attention_mask"][row].nonzero()[-1])
            reference = torch.zeros_like(attention)
            reference[:, kept[index][row]] = expected[index][row][:, last, columns[row][kept[index][row]]]
            assert torch.allclose(attention, reference, atol=1e-5)
            assert torch.equal(visible.nonzero()[:, 0], kept[index][row])


def _positions(model: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
    if not hasattr(model.base_model, "get_rope_index"):
        return {}
    names = ("input_ids", "image_grid_thw", "attention_mask", "mm_token_type_ids")
    return {"position_ids": model.base_model.get_rope_index(**{name: inputs[name] for name in names})[0]}


def test_under_eah_all_heads_show_the_winners_map() -> None:
    model, _, forced = case("llava")
    with torch.no_grad(), capture(model, layers=[1, 2], read=rows_of(forced)) as seen:
        run(model, forced.inputs)
    before = [rows.clone() for rows in seen.layers[1].read]
    eah = EAH(layer_idx=1, threshold=0.5)
    with torch.no_grad(), attach(model, eah) as trace, capture(model, layers=[1, 2], read=rows_of(forced)) as seen:
        run(model, forced.inputs)
    winners = trace.edits[0].found["winning_head"].tolist()
    assert max(winners) >= 0
    for row, winner in enumerate(winners):
        expected = before[row] if winner < 0 else before[row][winner].expand_as(before[row])
        assert torch.allclose(seen.layers[1].read[row], expected, atol=1e-6)


def test_a_pruned_column_that_is_asked_for_is_named() -> None:
    model, _, forced = case("llava")
    first = visual_columns_of(forced.inputs["input_ids"])[0][:1]
    ask = pytest.raises(UserError, match=f"column {int(first)} of sample 0 is not computed in this layer")
    reader = capture(model, read=lambda layer: layer.attention(0, first))
    with torch.no_grad(), ask, attach(model, RandomTokens(num_keep=0)), reader:
        run(model, forced.inputs)


# -- generation


def test_generate_shows_its_prompt_and_later_steps_change_nothing() -> None:
    model, batch, _ = case("llava")
    with torch.no_grad(), capture(model, read=lambda layer: layer.layout.alive.shape[1]) as seen:
        model.generate(**batch.inputs, max_new_tokens=4, do_sample=False)
    assert [layer.read for layer in seen.layers.values()] == [batch.length] * 4
    assert seen.visual.sum(dim=1).tolist() == batch.num_visual
    assert [seen.grids(row) for row in range(3)] == batch.grids


@pytest.mark.parametrize("name", NAMES)
def test_the_rows_of_a_forced_answer_predict_what_was_generated(name: str) -> None:
    model, batch, _ = case(name)
    with torch.no_grad():
        ids = model.generate(**batch.inputs, max_new_tokens=4, do_sample=False)[:, -4:]
        answers = [ids[0], ids[1, :1], ids[2, :3]]
        forced = teacher_forced(model, batch.inputs, answers)
        logits = run(model, forced.inputs).logits
    for row, answer in enumerate(answers):
        assert torch.equal(logits[row, forced.rows(row)].argmax(dim=-1), answer)


def test_what_cannot_be_forced_is_refused_in_one_line() -> None:
    model, batch, _ = case("llava")
    with pytest.raises(UserError, match="one answer for each of 3 prompts; got 1"):
        teacher_forced(model, batch.inputs, ANSWERS[:1])
    with pytest.raises(UserError, match="answer of prompt 1 is empty"):
        teacher_forced(model, batch.inputs, [ANSWERS[0], torch.tensor([], dtype=torch.long), ANSWERS[2]])
    turned = {**batch.inputs, "attention_mask": batch.inputs["attention_mask"].flip(1)}
    with pytest.raises(UserError, match="pad them on the left"):
        teacher_forced(model, turned, ANSWERS)


def test_gradients_that_were_not_asked_for_are_refused_in_one_line() -> None:
    model, _, forced = case("llava")
    with capture(model) as seen:
        output = run(model, forced.inputs)
    with pytest.raises(UserError, match="gradients=True"):
        seen.differentiate(total_score(output.logits, forced))
    with torch.no_grad(), capture(model, gradients=True) as seen:
        output = run(model, forced.inputs)
    with pytest.raises(UserError, match="no_grad"):
        seen.differentiate(total_score(output.logits, forced))
    with pytest.raises(UserError, match="call differentiate"):
        seen.activation(0, 0)
