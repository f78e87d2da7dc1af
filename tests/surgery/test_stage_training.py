"""Loss and gradients behind stages inside the decoder."""

from __future__ import annotations

import pytest
import torch

from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.pyramiddrop import PyramidDrop
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from tests.masked_reference import (
    HiddenFromLayers,
    distance,
)
from tests.surgery.parts_inside import PARTS, reference_for
from tests.surgery.test_training import answer_labels, gradients
from tests.tiny_models import tiny_llava


@pytest.mark.parametrize("parts", [PARTS[0], PARTS[2], PARTS[4], PARTS[5]])
@pytest.mark.parametrize("use_cache", [True, False])
def test_loss_and_every_gradient_equal_hiding(sdpa, batch, parts, use_cache):
    labels = answer_labels(batch.inputs)
    with attach(sdpa, *parts, spans=batch.spans) as trace:
        output = sdpa(**batch.inputs, labels=labels, use_cache=use_cache)
    got = gradients(sdpa, output.loss)
    inputs, hidden = reference_for(batch, trace)
    inputs["position_ids"] = torch.arange(batch.length)[None].expand(3, -1)
    with HiddenFromLayers(sdpa, hidden):
        reference = sdpa(**inputs, labels=labels, use_cache=use_cache)
        expected = gradients(sdpa, reference.loss)
    assert abs(float((output.loss - reference.loss).detach())) < 1e-4
    largest = max(float(value.abs().max()) for value in expected.values())
    assert max(distance(got[name], expected[name]) for name in expected) < 1e-4 * largest


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient_and_no_choice(batch, reentrant):
    model, labels = tiny_llava().train(), answer_labels(batch.inputs)
    parts = (Simignore(num_keep=9), FastV(layer_idx=2, num_keep=5), PyramidDrop(layers=(3,), num_keep=(3,)))
    with attach(model, *parts, spans=batch.spans) as trace:
        plain = gradients(model, model(**batch.inputs, labels=labels, use_cache=False).loss)
        kept = trace.kept
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()
        checkpointed = gradients(model, model(**batch.inputs, labels=labels, use_cache=False).loss)
    assert all(torch.equal(a, b) for a, b in zip(kept, trace.kept, strict=True))
    assert max(distance(plain[name], checkpointed[name]) for name in plain) < 1e-5


def test_a_recomputed_layer_is_not_listened_to(batch):
    """Otherwise queries and keys of every step of training would stay in memory until the next one."""
    from lit_simignore.surgery.attention import Heads
    from lit_simignore.surgery.drops import Drop
    from lit_simignore.surgery.stages import LayerStages

    model = tiny_llava()
    run = LayerStages(model.get_decoder(), [Drop("FastV", FastV(layer_idx=2, num_keep=4))]).begin(*_empty_prefill())
    heads = Heads(torch.zeros(1, 4, 2, 16), torch.zeros(1, 2, 2, 16), None, 1.0)
    run.observe(1, heads)
    assert run.heads == {1: heads}
    run.finish()
    run.observe(1, heads)
    assert not run.heads


def _empty_prefill():
    from lit_simignore.surgery.prompt import Prompt
    from lit_simignore.surgery.trace import CallTrace

    nothing = torch.zeros(1, 2, dtype=torch.bool)
    prompt = Prompt(visual=nothing, text=nothing)
    return prompt, CallTrace([0], [()]), prompt.slots(~nothing, ())
