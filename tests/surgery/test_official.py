"""The released Simignore on its own decoder, against dropping tokens from the unmodified one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from lit_simignore.pruning.base import Features, Pruner
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.columns import visual_columns
from lit_simignore.types import Selection

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "reference" / "official"
RULES = {
    0: Simignore(num_keep=452),
    1: Simignore.preset("released-7b"),
    2: Simignore.preset("released-13b"),
}

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"reference outputs are not here: {FOLDER}")


class Reference:
    """One file: constants, tensors, and the model with its weights."""

    def __init__(self, seed: int) -> None:
        with safe_open(FOLDER / f"simignore_seed{seed}.safetensors", "pt") as file:
            self.constants = {name: json.loads(value) for name, value in file.metadata().items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        self.weights = {name[2:]: tensors.pop(name) for name in list(tensors) if name.startswith("w.")}
        self.tensors = tensors
        start = self.constants["image_start"]
        self.image = slice(start, start + self.constants["image_tokens"])
        self.visual = tensors["inputs_embeds"][0, self.image]

    def model(self) -> LlamaForCausalLM:
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        config = LlamaConfig(
            **{name: self.constants[name] for name in names},
            rms_norm_eps=float(self.constants["rms_norm_eps"]),
            rope_parameters={"rope_type": "default", "rope_theta": float(self.constants["rope_theta"])},
            max_position_embeddings=4096,
        )
        model = LlamaForCausalLM(config).eval()
        model.load_state_dict(self.weights)
        return model

    def columns(self) -> torch.Tensor:
        mask = torch.zeros(1, self.tensors["inputs_embeds"].shape[1], dtype=torch.bool)
        mask[:, self.image] = True
        return mask


class WithText(Pruner):
    """A rule that compares with rows of its own, which the released code passed beside the prompt."""

    def __init__(self, rule: Simignore, text: torch.Tensor) -> None:
        self.rule, self.rows, self.apply = rule, text, rule.apply

    def choose(self, features: Features) -> Selection:
        return self.rule.choose(Features(visual=features.visual, text=self.rows))

    def with_budget(self, definition, num_tokens, shape=None):
        raise NotImplementedError


@pytest.fixture(scope="module", params=sorted(RULES))
def seed(request):
    return request.param


@pytest.fixture(scope="module")
def reference(seed):
    return Reference(seed)


def test_the_selection_is_the_released_one(reference, seed):
    kept = RULES[seed].select(reference.visual, reference.tensors["text_embeds"])
    assert torch.equal(kept, reference.tensors["kept_image_tokens"].nonzero()[:, 0])


def test_the_constants_of_the_presets_are_those_of_the_release(reference, seed):
    rule, constants = RULES[seed], reference.constants
    assert (rule.num_keep, rule.first, rule.step) == (
        constants["simignore_keep"],
        constants["simignore_first"],
        constants["simignore_step"],
    )


def test_scores_are_the_largest_cosines(reference):
    features = Features(visual=reference.visual, text=reference.tensors["text_embeds"])
    scores = Simignore(num_keep=1).choose(features).scores
    assert torch.allclose(scores, reference.tensors["max_similarity"], atol=1e-6)


@pytest.mark.parametrize("apply", ["drop", "mask"])
def test_dropping_and_masking_give_the_released_logits(reference, seed, apply):
    rule = WithText(RULES[seed], reference.tensors["text_embeds"])
    rule.apply = apply
    model = reference.model()
    with torch.no_grad(), attach(model, rule) as trace, visual_columns(reference.columns()):
        logits = model(inputs_embeds=reference.tensors["inputs_embeds"], logits_to_keep=1).logits[:, -1]
    assert float((logits - reference.tensors["simignore_last_logits"]).abs().max()) < 1e-4
    assert float((logits - reference.tensors["dense_last_logits"]).abs().max()) > 1e-3
    assert len(trace.kept[0]) == reference.constants["simignore_keep"]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_fastv_gives_the_released_logits(reference, attention):
    constants, model = reference.constants, reference.model()
    model.set_attn_implementation(attention)
    rule = FastV(layer_idx=constants["fastv_layer"], num_keep=constants["fastv_keep"])
    with torch.no_grad(), attach(model, rule), visual_columns(reference.columns()):
        logits = model(inputs_embeds=reference.tensors["inputs_embeds"], logits_to_keep=1).logits[:, -1]
    assert float((logits - reference.tensors["fastv_last_logits"]).abs().max()) < 1e-4


@pytest.mark.parametrize("apply", ["drop", "mask"])
def test_both_halves_of_the_released_run_give_its_logits(reference, seed, apply):
    """The released "Simignore" run: the similarity mask at the input, then FastV inside the decoder."""
    constants, model = reference.constants, reference.model()
    rule = WithText(RULES[seed], reference.tensors["text_embeds"])
    rule.apply = apply
    fastv = FastV(layer_idx=constants["fastv_layer"], num_keep=constants["fastv_keep"])
    with torch.no_grad(), attach(model, rule, fastv) as trace, visual_columns(reference.columns()):
        logits = model(inputs_embeds=reference.tensors["inputs_embeds"], logits_to_keep=1).logits[:, -1]
    assert float((logits - reference.tensors["simignore_then_fastv_last_logits"]).abs().max()) < 1e-4
    assert [len(stage.kept[0]) for stage in trace.stages] == [constants["simignore_keep"], constants["fastv_keep"]]
