"""The released Simignore on its own decoder, against dropping tokens from the unmodified one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from lit_simignore.config.evaluation import compose_evaluation
from lit_simignore.pruning.base import Features, Pruner
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.pruning.text_only import TextOnly
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.columns import visual_columns
from lit_simignore.types import Selection
from tests.masked_reference import HiddenFromLayers

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

    def similar(self, rule: Simignore, apply: str) -> Pruner:
        """The rule, comparing with this file's text rows, which the released code passed beside the prompt."""
        return WithText(rule, self.tensors["text_embeds"], apply)

    def columns(self) -> torch.Tensor:
        mask = torch.zeros(1, self.tensors["inputs_embeds"].shape[1], dtype=torch.bool)
        mask[:, self.image] = True
        return mask


def logits_of(reference, attention, *parts, visual=None):
    """Last logits and the trace."""
    model = reference.model()
    model.set_attn_implementation(attention)
    columns = reference.columns() if visual is None else visual
    with torch.no_grad(), attach(model, *parts) as trace, visual_columns(columns):
        logits = model(inputs_embeds=reference.tensors["inputs_embeds"], logits_to_keep=1).logits[:, -1]
    return logits, trace


class Fixed(Pruner):
    """A rule that hides all tokens but the given ones."""

    apply = "mask"

    def __init__(self, kept: torch.Tensor) -> None:
        self.kept = kept

    def choose(self, features: Features) -> Selection:
        return Selection(kept=self.kept)

    def with_budget(self, definition, num_tokens, shape=None):
        raise NotImplementedError


class WithText(Pruner):
    """A rule that compares with rows of its own."""

    def __init__(self, rule: Simignore, text: torch.Tensor, apply: str) -> None:
        self.rule, self.rows, self.apply = rule, text, apply

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
    logits, trace = logits_of(reference, "sdpa", reference.similar(RULES[seed], apply))
    assert float((logits - reference.tensors["simignore_last_logits"]).abs().max()) < 1e-4
    assert float((logits - reference.tensors["dense_last_logits"]).abs().max()) > 1e-3
    assert len(trace.kept[0]) == reference.constants["simignore_keep"]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_fastv_gives_the_released_logits(reference, attention):
    constants = reference.constants
    rule = FastV(layer_idx=constants["fastv_layer"], num_keep=constants["fastv_keep"])
    logits, _ = logits_of(reference, attention, rule)
    assert float((logits - reference.tensors["fastv_last_logits"]).abs().max()) < 1e-4


WHOLE_RUN = [("drop", "stay"), ("mask", "stay"), ("mask", "return")]


@pytest.mark.parametrize(("apply", "hidden"), WHOLE_RUN)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_both_halves_of_the_released_run_give_its_logits(reference, seed, attention, apply, hidden):
    """The released "Simignore" run: the similarity mask at the input, then FastV inside the decoder.

    Its FastV forgets the mask, which shows only where fewer tokens are seen than it keeps.
    """
    constants = reference.constants
    fastv = FastV(layer_idx=constants["fastv_layer"], num_keep=constants["fastv_keep"], hidden=hidden)
    logits, trace = logits_of(reference, attention, reference.similar(RULES[seed], apply), fastv)
    assert float((logits - reference.tensors["simignore_then_fastv_last_logits"]).abs().max()) < 1e-4
    assert [len(stage.kept[0]) for stage in trace.stages] == [constants["simignore_keep"], constants["fastv_keep"]]


@pytest.mark.parametrize(("name", "seed"), [("simignore-released-7b", 1), ("simignore-released-13b", 2)])
def test_the_files_that_ship_are_the_released_runs(monkeypatch, name, seed):
    """The sets of constants of two seeds are those of the two releases."""
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    reference, (method,) = Reference(seed), compose_evaluation([f"methods=[{name}]"]).methods[-1:]
    simignore, fastv = method.parts
    logits, _ = logits_of(reference, "sdpa", reference.similar(simignore, simignore.apply), fastv)
    assert simignore.apply == "mask" and fastv.hidden == "return"
    assert float((logits - reference.tensors["simignore_then_fastv_last_logits"]).abs().max()) < 1e-4


# -- what the release does beyond its numbers here: hidden tokens that come back, a span that begins one token late


class LateSpan(FastV):
    """FastV over tokens 1 to 576 of 577: the first always stays, and the text token behind the image competes."""

    def score(self, features: Features) -> torch.Tensor:
        scores = super().score(features)
        scores[0] = torch.inf
        return scores


def naive_run(reference, seen, layer, num_keep, first):
    """The released forward as its code reads, on the untouched model: full attention maps, masks, no row is dropped.

    Layers before ``layer`` do not see the visual tokens outside ``seen``. From there on a plainly causal mask over what
    FastV keeps: everything outside the 576 columns from ``first`` on, and the ``num_keep`` most attended inside.
    """
    model, embeds = reference.model(), reference.tensors["inputs_embeds"]
    model.set_attn_implementation("eager")
    hidden = reference.columns()
    hidden[0, reference.image.start + seen] = False
    with torch.no_grad(), HiddenFromLayers(model, {0: hidden}):
        shown = model(inputs_embeds=embeds, output_attentions=True).attentions[layer - 1]
    attention = shown[0, :, -1, first : first + 576].mean(0)
    best = attention.argsort(descending=True, stable=True)[:num_keep]
    dropped = torch.zeros_like(hidden)
    dropped[0, first : first + 576] = True
    dropped[0, first + best] = False
    with torch.no_grad(), HiddenFromLayers(model, {0: hidden, layer: dropped}):
        return model(inputs_embeds=embeds).logits[:, -1], (best + first).sort().values


@pytest.mark.parametrize("seen", [452, 144, 72, 0])
@pytest.mark.parametrize("late", [False, True])
def test_hidden_tokens_come_back_as_in_the_released_code(reference, seen, late):
    """With fewer than 144 tokens seen, FastV fills up with hidden ones: "576 of 576 ignored" is not blind."""
    constants, start = reference.constants, reference.image.start
    layer, num_keep = constants["fastv_layer"], constants["fastv_keep"]
    kept = reference.tensors["max_similarity"].argsort(descending=True)[:seen].sort().values
    expected, columns = naive_run(reference, kept, layer, num_keep, start + late)
    half, visual = Fixed(kept), reference.columns()
    fastv = FastV(layer_idx=layer, num_keep=num_keep, hidden="return")
    if late:
        visual[0, reference.image.stop] = True  # the text token that the release takes for the last visual one
        half = Fixed(torch.cat([kept, torch.tensor([576])]))
        fastv = LateSpan(layer_idx=layer, num_keep=num_keep + 1, hidden="return")
        columns = torch.cat([torch.tensor([start]), columns])
    logits, trace = logits_of(reference, "sdpa", half, fastv, visual=visual)
    assert torch.equal(trace.kept[0] + start, columns)
    assert float((logits - expected).abs().max()) < 1e-4
    back = set(trace.kept[0].tolist()) - set(half.kept.tolist()) - {0}
    assert bool(back) == (seen < num_keep)


def test_without_the_accident_hidden_tokens_stay_hidden(reference):
    """All ignored is then the same as no image at all."""
    constants = reference.constants
    parts = Fixed(torch.zeros(0, dtype=torch.long)), FastV(layer_idx=constants["fastv_layer"], num_keep=144)
    blind, trace = logits_of(reference, "sdpa", *parts)
    none, _ = logits_of(reference, "sdpa", TextOnly())
    assert [len(kept) for kept in trace.kept] == [0] and float((blind - none).abs().max()) < 1e-4
    back, _ = logits_of(reference, "sdpa", parts[0], replace(parts[1], hidden="return"))
    assert float((back - none).abs().max()) > 1e-2
