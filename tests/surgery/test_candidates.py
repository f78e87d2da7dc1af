"""Likelihoods of given answers. Oracles: logits of ``generate``'s first step, and a loop without batch and padding."""

from __future__ import annotations

import pytest
import torch

from lit_simignore.pruning.fastv import FastV
from lit_simignore.pruning.simignore import Simignore
from lit_simignore.surgery.attach import attach
from lit_simignore.surgery.candidates import candidate_log_probs, candidate_tokens
from lit_simignore.surgery.prepare import prepare
from lit_simignore.types import UserError
from tests.tiny_models import tiny_llava, tiny_processor, tiny_sample

SAMPLES = [tiny_sample("a", "what color ?"), tiny_sample("b", "is it red or is it blue ?"), tiny_sample("c", "what ?")]


@pytest.mark.parametrize("parts", [(), (Simignore(num_keep=5),), (FastV(layer_idx=1, num_keep=4),)])
def test_letters_are_as_likely_as_in_the_first_step_of_generate(parts: tuple[object, ...]) -> None:
    model, processor = tiny_llava(), tiny_processor()
    inputs, spans = prepare(processor, SAMPLES)
    letters = [candidate_tokens(processor, sample, ["red", "blue"]) for sample in SAMPLES]
    assert all(len(tokens) == 1 for several in letters for tokens in several)
    with attach(model, *parts, spans=spans):
        raw = {"output_logits": True, "return_dict_in_generate": True}
        (logits,) = model.generate(**inputs, max_new_tokens=1, do_sample=False, **raw).logits
    with attach(model, *parts, spans=spans):
        found = candidate_log_probs(model, inputs, letters)
    expected = logits.float().log_softmax(dim=-1)
    for row, several in enumerate(letters):
        assert found[row] == pytest.approx([float(expected[row, tokens[0]]) for tokens in several], abs=1e-5)


def test_answers_of_several_tokens_are_the_sum_of_a_loop_over_tokens() -> None:
    model, processor = tiny_llava(), tiny_processor()
    texts = [["red", "red or blue", "what color red"], ["what color"], ["blue is it", "red"]]
    inputs, spans = prepare(processor, SAMPLES)
    tokens = [candidate_tokens(processor, *both) for both in zip(SAMPLES, texts, strict=True)]
    with attach(model, spans=spans):
        found = candidate_log_probs(model, inputs, tokens)
    for row, sample in enumerate(SAMPLES):
        for place, answer in enumerate(tokens[row]):
            alone, _ = prepare(processor, [sample])
            total = 0.0
            for token in answer:
                with torch.no_grad():
                    logits = model(**alone).logits[0, -1]
                total += float(logits.log_softmax(dim=-1)[token])
                alone["input_ids"] = torch.cat([alone["input_ids"], token.view(1, 1)], dim=1)
                alone["attention_mask"] = torch.ones_like(alone["input_ids"])
            assert found[row][place] == pytest.approx(total, abs=1e-4)


def test_tokens_are_those_that_stand_behind_the_prompt() -> None:
    processor = tiny_processor()
    (tokens,) = candidate_tokens(processor, SAMPLES[0], ["red blue"])
    assert processor.tokenizer.decode(tokens) == "red blue"
    with pytest.raises(UserError, match="sample 'a': the option ' ' has no tokens.*scoring=generate"):
        candidate_tokens(processor, SAMPLES[0], ["red", " "])
