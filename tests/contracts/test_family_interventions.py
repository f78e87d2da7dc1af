"""Every intervention on every family, in the prefill and in later steps, against attention written out in full."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_simignore.interventions import INTERVENTIONS
from lit_simignore.interventions.base import AttentionIntervention, Branch, LogitsIntervention
from lit_simignore.interventions.eah import EAH
from lit_simignore.interventions.head_ablation import HeadAblation
from lit_simignore.interventions.vcd import VCD
from lit_simignore.interventions.visual_boost import VisualBoost
from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.stride import Stride
from lit_simignore.surgery.attach import attach
from lit_simignore.types import UserError
from tests.contracts.test_family_methods import METHODS, build, missing
from tests.masked_reference import IMAGE_ID, distance, generate, num_hooks
from tests.naive_attention import Rule, ablate, boost_image, broadcast_densest, naively
from tests.tiny_families import BUILDERS, FamilyBatch, tiny_family, tiny_family_batch

FAMILIES, TOLERANCE = sorted(BUILDERS), 1e-4
RULES: dict[str, tuple[AttentionIntervention, dict[int, Rule]]] = {
    "eah": (EAH(layer_idx=[1, 3]), {layer: broadcast_densest for layer in (1, 3)}),
    "boost": (VisualBoost(first_layer=1), {layer: boost_image for layer in (1, 2, 3)}),
    "zero": (HeadAblation(layer_idx=2, heads=(0, 3)), {2: partial(ablate, heads=(0, 3), mode="zero")}),
    "uniform": (HeadAblation(heads=(1,), mode="uniform"), {1: partial(ablate, heads=(1,), mode="uniform")}),
    "blind": (HeadAblation(heads=(1, 2), mode="blind"), {1: partial(ablate, heads=(1, 2), mode="blind")}),
}
COUNTS = {"one": (1,), "ragged": (2, 1, 0)}


def visual_of(family: str, model: Any, batch: FamilyBatch) -> Tensor:
    return batch.inputs["input_ids"] == IMAGE_ID


def run(model: Any, batch: FamilyBatch, *parts: Any, **options: Any) -> tuple[Tensor, Tensor, Any]:
    with torch.no_grad(), attach(model, *parts) as trace:
        sequences, logits, _ = generate(model, batch.inputs, **options)
    return sequences, logits, trace


def equal_to_the_oracle(family: str, attention: str, counts: tuple[int, ...], rule: str) -> None:
    part, rules = RULES[rule]
    model = tiny_family(family, attention)
    batch = tiny_family_batch(family, model, counts)
    with torch.no_grad():
        plain = generate(model, batch.inputs)[1]
        before = num_hooks(model)  # the first call makes transformers install some of its own
        sequences, logits, trace = run(model, batch, part)
        with naively(model, batch.inputs, visual_of(family, model, batch), rules) as oracle:
            expected, expected_logits, _ = generate(model, batch.inputs)
        assert num_hooks(model) == before and torch.equal(generate(model, batch.inputs)[1], plain)
    assert distance(logits, expected_logits) < TOLERANCE and torch.equal(sequences, expected)
    assert distance(logits, plain) > 1e-3, "the rule did nothing, so equality says nothing"
    for edit in trace.edits if rule == "eah" else []:
        heads = [oracle.memory[edit.layer_idx, row]["head"] for row in range(len(counts))]
        assert edit.found["winning_head"].tolist() == [-1 if head is None else head for head in heads]


CASES = [
    (family, "sdpa" if number % 3 else "eager", "ragged" if number % 4 else "one", rule)
    for number, (family, rule) in enumerate(itertools.product(FAMILIES, RULES))
]
ALL = [
    case
    for case in itertools.product(FAMILIES, ("sdpa", "eager"), COUNTS, RULES)
    if case not in set(CASES)
]  # fmt: skip


@pytest.mark.parametrize(("family", "attention", "counts", "rule"), CASES)
def test_a_rule_equals_attention_written_out(family: str, attention: str, counts: str, rule: str) -> None:
    equal_to_the_oracle(family, attention, COUNTS[counts], rule)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "attention", "counts", "rule"), ALL)
def test_a_rule_equals_attention_written_out_in_all_cases(family: str, attention: str, counts: str, rule: str) -> None:
    equal_to_the_oracle(family, attention, COUNTS[counts], rule)


@pytest.mark.parametrize("family", FAMILIES)
def test_rules_act_on_what_pruning_left(family: str) -> None:
    """Stride before the decoder, FastV before layer 3, EAH in layers 1 and 3."""
    part, rules = RULES["eah"]
    model = tiny_family(family)
    batch = tiny_family_batch(family, model)
    late = FastV(layer_idx=3, keep_ratio=0.5)
    sequences, logits, trace = run(model, batch, Stride(keep_ratio=0.6), part, late)
    visual = visual_of(family, model, batch)
    hidden = {}
    for layer, stage in zip((0, 3), trace.stages, strict=True):
        hidden[layer] = visual.clone()
        for row, kept in enumerate(stage.kept):
            hidden[layer][row, visual[row].nonzero()[:, 0][kept]] = False
    with torch.no_grad(), naively(model, batch.inputs, visual, rules, hidden=hidden):
        expected, expected_logits, _ = generate(model, batch.inputs)
    assert torch.equal(sequences, expected) and distance(logits, expected_logits) < TOLERANCE


# -- second runs


Logits = Callable[[Tensor, Tensor], Tensor]
"""Ids and mask of whole sequences to the logits behind them, without any cache."""


def reader(family: str, model: Any, inputs: dict[str, Tensor]) -> Logits:
    generated = 1 if family == "paligemma" else 0  # the type of what stands behind PaliGemma's prefix

    def read(ids: Tensor, mask: Tensor) -> Tensor:
        given = dict(inputs)
        for name in given:
            if "token_type" in name:
                behind = (0, ids.shape[1] - given[name].shape[1])
                given[name] = torch.nn.functional.pad(given[name], behind, value=generated)
        given |= {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        return model(**given).logits[:, -1]

    return read


def two_runs(part: LogitsIntervention, prompts: list[dict[str, Tensor]], readers: list[Logits], tokens: int = 8):
    """Greedy decoding by hand: both prompts read anew for every token."""
    ids, masks = ([prompt[name] for prompt in prompts] for name in ("input_ids", "attention_mask"))
    scores = []
    for step in range(tokens):
        clean, poorer = (read(*given) for read, *given in zip(readers, ids, masks, strict=True))
        scores.append(part.combine(clean, poorer if part.contrasts_at(step) else clean))
        choices = scores[-1].clone()
        choices[:, IMAGE_ID] = -torch.inf  # a sequence that is read anew would look for one more image
        token = choices.argmax(-1, keepdim=True)
        ids = [torch.cat([each, token], 1) for each in ids]
        masks = [torch.cat([each, torch.ones_like(token)], 1) for each in masks]
    return ids[0], torch.stack(scores, 1)


def without_images(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The prompts without placeholders, padded anew."""
    rows = [
        ids[(ids != IMAGE_ID) & mask.bool()]
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]
    length = max(map(len, rows))
    padded = [torch.nn.functional.pad(row, (length - len(row), 0)) for row in rows]
    mask = [torch.nn.functional.pad(torch.ones_like(row), (length - len(row), 0)) for row in rows]
    return {"input_ids": torch.stack(padded), "attention_mask": torch.stack(mask)}


def finite(scores: Tensor) -> Tensor:
    return scores.masked_fill(scores == -torch.inf, -99.0)


def close(scores: Tensor, expected: Tensor) -> bool:
    """Equal up to rounding; a score at the edge of plausibility may be cut on one side only."""
    differs = (finite(scores) - finite(expected)).abs() > 5e-4
    return float(differs.float().mean()) < 0.002


WITH_PIXELS = [family for family in FAMILIES if family != "instructblip"]


@pytest.mark.parametrize("family", WITH_PIXELS)
def test_vcd_equals_two_models_run_by_hand(family: str) -> None:
    model = tiny_family(family)
    batch = tiny_family_batch(family, model, (1,))
    part = VCD(plausibility=0.0, noise_step=700)
    noisy = {**batch.inputs, "pixel_values": part.second_pixels(batch.inputs["pixel_values"], "")}
    sequences, scores, _ = run(model, batch, part, suppress_tokens=[IMAGE_ID])
    with torch.no_grad():
        prompts = [batch.inputs, noisy]
        expected, expected_scores = two_runs(part, prompts, [reader(family, model, each) for each in prompts])
    assert close(scores, expected_scores) and torch.equal(sequences, expected)
    assert distance(scores, generate(model, batch.inputs)[1]) > 1e-2


@pytest.mark.parametrize("family", WITH_PIXELS)
def test_vcd_of_a_batch_equals_vcd_of_its_samples(family: str) -> None:
    """Every sample's own pixels get the noise, whatever shape the family gives them."""
    model = tiny_family(family)
    batch = tiny_family_batch(family, model)
    part = VCD(plausibility=0.0)
    scores = run(model, batch, part)[1]
    single = tiny_family_batch(family, model, (2,))
    alone = run(model, single, part)[1]
    assert distance(scores[:1], alone) < 1e-3


@pytest.mark.parametrize("family", WITH_PIXELS)
@pytest.mark.parametrize("part", [VCD(plausibility=0.0), VisualBoost(gamma=1.3, plausibility=0.0), EAH()])
def test_beams_are_the_same_alone_and_in_a_batch(family: str, part: Any) -> None:
    model = tiny_family(family)
    batch, single = tiny_family_batch(family, model, (1, 2)), tiny_family_batch(family, model, (1,))
    together = run(model, batch, part, num_beams=3, tokens=5)[0]
    alone = run(model, single, part, num_beams=3, tokens=5)[0]
    greedy = run(model, single, part, tokens=5)[0]
    assert torch.equal(together[:1, -5:], alone[:, -5:]) and alone.shape == greedy.shape


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_away_from_the_run_without_images_equals_two_runs_by_hand(family: str) -> None:
    model = tiny_family(family)
    batch = tiny_family_batch(family, model)
    part = VisualBoost(alpha=0.0, gamma=1.3, plausibility=0.0)
    sequences, scores, _ = run(model, batch, part, suppress_tokens=[IMAGE_ID])
    with torch.no_grad():
        bare = without_images(batch.inputs)
        if family == "paligemma":
            bare["token_type_ids"] = torch.zeros_like(bare["input_ids"])
        # InstructBLIP always encodes an image; only its language model can read the second prompt
        text_model = model.language_model if family == "instructblip" else model
        readers = [reader(family, model, batch.inputs), reader(family, text_model, bare)]
        expected, expected_scores = two_runs(part, [batch.inputs, bare], readers)
    images = [row for row, count in enumerate(batch.num_visual) if count]
    assert close(scores[images], expected_scores[images]) and torch.equal(sequences, expected)


def test_every_intervention_is_tested_here() -> None:
    covered = {type(part) for part, _ in RULES.values()} | {VCD}
    assert set(INTERVENTIONS().values()) <= covered, "add a naive rule, or a second run, for the new one"
    assert VCD.branch is Branch.NOISY_IMAGE and VisualBoost.branch is Branch.NO_IMAGE


def test_an_image_that_is_encoded_inside_generate_cannot_be_made_noisy() -> None:
    with pytest.raises(UserError, match="second time"), attach(tiny_family("instructblip"), VCD()):
        pass




@pytest.mark.parametrize("method", [name for name in METHODS if not missing("llava", name)])
def test_every_pruner_goes_together_with_interventions(method: str) -> None:
    """An idle rule changes no bit of what the pruner does alone; one that acts sees what the pruner left."""
    model = tiny_family("llava")
    batch = tiny_family_batch("llava", model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no spans: whatever is text counts
        alone = run(model, batch, build(method))
        idle = run(model, batch, build(method), EAH(threshold=900.0))
        acting = run(model, batch, EAH(layer_idx=3, threshold=0.1), build(method))
    assert torch.equal(alone[1], idle[1])
    assert all(torch.equal(a, b) for a, b in zip(alone[2].kept, acting[2].kept, strict=True))
    heads = acting[2].edits[0].found["winning_head"].tolist()
    reaches = [len(kept) > 0 for kept in acting[2].kept]
    assert [head >= 0 for head in heads] == reaches, "a head wins exactly where visual tokens are left in layer 3"
