"""Losses and gradients on pruned prompts against the masked model, and how labels and wrappers behave."""

from __future__ import annotations

import pytest
import torch

from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.types import UserError
from tests.masked_reference import distance, generate, num_hooks, visible_mask
from tests.surgery.test_stage0 import Ragged, flipped
from tests.tiny_models import tiny_batch, tiny_llava


def answer_labels(inputs, last=6):
    """The last real tokens of every row are what the model learns."""
    labels = torch.full_like(inputs["input_ids"], -100)
    for row, mask in enumerate(inputs["attention_mask"].bool()):
        columns = mask.nonzero()[-last:, 0]
        labels[row, columns] = inputs["input_ids"][row, columns]
    return labels


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("apply", ["drop", "mask"])
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_loss_and_every_gradient_equal_the_masked_model(model, batch, padding, use_cache, apply):
    inputs = batch.inputs if padding == "left" else flipped(batch)
    spans = batch.spans if padding == "left" else None
    pruner = Ragged(apply=apply) if spans else Simignore(num_keep=5, apply=apply)
    labels = answer_labels(inputs)
    if spans is None:
        with pytest.warns(UserWarning), attach(model, pruner) as trace:
            output = model(**inputs, labels=labels, use_cache=use_cache)
    else:
        with attach(model, pruner, spans=spans) as trace:
            output = model(**inputs, labels=labels, use_cache=use_cache)
    got = gradients(model, output.loss)
    positions = torch.arange(batch.length)[None].expand(3, -1)
    masked = {**inputs, "attention_mask": visible_mask(inputs, trace.kept), "position_ids": positions}
    reference = model(**masked, labels=labels, use_cache=use_cache)
    expected = gradients(model, reference.loss)
    assert abs(float((output.loss - reference.loss).detach())) < 1e-4
    assert set(got) == set(expected)
    largest = max(float(value.abs().max()) for value in expected.values())
    assert max(distance(got[name], expected[name]) for name in expected) < 1e-4 * largest
    assert float(got["model.vision_tower.embeddings.patch_embedding.weight"].abs().max()) > 0


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(batch, reentrant):
    model = tiny_llava().train()
    labels = answer_labels(batch.inputs)
    with attach(model, Ragged(), spans=batch.spans):
        plain = gradients(model, model(**batch.inputs, labels=labels, use_cache=False).loss)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()
        checkpointed = gradients(model, model(**batch.inputs, labels=labels, use_cache=False).loss)
    assert max(distance(plain[name], checkpointed[name]) for name in plain) < 1e-5


def test_backward_may_come_after_the_block(model, batch):
    labels = answer_labels(batch.inputs)
    with attach(model, Ragged(), spans=batch.spans):
        inside = gradients(model, model(**batch.inputs, labels=labels).loss)
        loss = model(**batch.inputs, labels=labels).loss
    outside = gradients(model, loss)
    assert all(torch.equal(inside[name], outside[name]) for name in inside)


@pytest.mark.parametrize("where", ["on visual tokens", "right after the image"])
def test_a_label_that_a_dropped_token_would_have_to_predict_is_refused(model, batch, where):
    labels = answer_labels(batch.inputs)
    image = (batch.inputs["input_ids"][1] == 4).nonzero()[:, 0]
    column = int(image[3]) if where == "on visual tokens" else int(image[-1]) + 1
    labels[1, column] = 9
    from lit_simignore.pruning.text_only import TextOnly

    with attach(model, TextOnly(), spans=batch.spans), pytest.raises(UserError, match="sample s1 has a label"):
        model(**batch.inputs, labels=labels)
    with attach(model, Simignore(num_keep=4, apply="mask"), spans=batch.spans):
        assert torch.isfinite(model(**batch.inputs, labels=labels).loss)


def test_answers_never_count_as_text(model, batch):
    """Without spans, labelled tokens must not choose the visual tokens that they are predicted from."""
    labels = answer_labels(batch.inputs)
    other = {**batch.inputs, "input_ids": batch.inputs["input_ids"].clone()}
    other["input_ids"][labels != -100] = 9
    kept = []
    for inputs in (batch.inputs, other):
        with torch.no_grad(), pytest.warns(UserWarning), attach(model, Simignore(num_keep=4)) as trace:
            model(**inputs, labels=answer_labels(inputs))
        kept.append(trace.kept)
    assert all(torch.equal(a, b) for a, b in zip(*kept, strict=True))


def test_a_loop_that_stays_attached_sets_the_spans_of_every_batch(model, batch):
    other = tiny_batch((1, 2))
    with torch.no_grad(), attach(model, Simignore(num_keep=4), spans=batch.spans) as trace:
        model(**batch.inputs)
        trace.spans = other.spans
        model(**other.inputs)
        with pytest.raises(UserError, match="spans label 2 prompts"):
            model(**batch.inputs)
    assert [call.num_visual for call in trace.calls] == [[16, 16, 16], [16, 32]]


def test_spans_of_another_batch_are_refused(model, batch):
    changed = {**batch.inputs, "input_ids": batch.inputs["input_ids"].clone()}
    changed["input_ids"][0, -2] = 30
    with (
        torch.no_grad(),
        attach(model, Simignore(num_keep=4), spans=batch.spans),
        pytest.raises(UserError, match="other prompts"),
    ):
        model(**changed)


def test_a_peft_model_prunes_in_generate_and_trains_its_adapters(batch):
    peft = pytest.importorskip("peft")
    base = tiny_llava()
    with torch.no_grad(), attach(base, Simignore(num_keep=4), spans=batch.spans):
        expected, _, _ = generate(base, batch.inputs)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=True)
    model = peft.get_peft_model(base, config).eval()
    with torch.no_grad():
        model(**batch.inputs)  # transformers installs its own recording hooks on the first call
    hooks = num_hooks(model)
    with attach(model, Simignore(num_keep=4), spans=batch.spans) as trace:
        with torch.no_grad():
            got, _, _ = generate(model, batch.inputs)
        loss = model(**batch.inputs, labels=answer_labels(batch.inputs)).loss
    loss.backward()
    assert torch.equal(got, expected) and [len(kept) for kept in trace.kept] == [4, 4, 4]
    trained = [name for name, value in model.named_parameters() if value.grad is not None]
    assert trained and all("lora" in name for name in trained)
    assert num_hooks(model) == hooks


def test_bfloat16_runs_and_keeps_the_columns(batch):
    model = tiny_llava().to(torch.bfloat16)
    with torch.no_grad(), attach(model, Simignore(num_keep=4), spans=batch.spans) as trace:
        logits = model(**batch.inputs).logits
    assert logits.dtype == torch.bfloat16 and logits.shape[1] == batch.length
    assert trace.stages[0].scores[0].dtype == torch.float32
