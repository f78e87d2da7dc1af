"""Answers to choose from, as tokens behind a prompt, and how likely a model holds each of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_simignore.attribution.targets import answer_score
from lit_simignore.surgery.attach import unwrap
from lit_simignore.surgery.forced import teacher_forced
from lit_simignore.surgery.prepare import render
from lit_simignore.types import Sample, UserError


def candidate_tokens(processor: Any, sample: Sample, candidates: Sequence[str]) -> list[Tensor]:
    """``(T,)`` int64 token ids of every candidate as they stand behind the sample's prompt; end tokens are left out.

    A blank comes in between unless the prompt ends with white space: so does a model write that was asked in this
    template. The ids are those of the whole text less those of the prompt, for tokenizers treat a beginning otherwise.

    Raises:
        UserError: a candidate is empty, or changes the tokens of the prompt before it.
    """
    prompt = render(processor, sample).text
    gap = "" if prompt[-1:].isspace() else " "
    before = _ids(processor, prompt)
    found = []
    for candidate in candidates:
        ids = _ids(processor, f"{prompt}{gap}{candidate}")
        if not candidate.strip() or ids[: len(before)] != before or len(ids) <= len(before):
            raise UserError(
                f"sample {sample.sample_id!r}: the option {candidate!r} has no tokens of its own behind the prompt; "
                "use scoring=generate"
            )
        found.append(torch.tensor(ids[len(before) :], dtype=torch.long))
    return found


@torch.inference_mode()
def candidate_log_probs(
    model: nn.Module, inputs: Mapping[str, Any], candidates: Sequence[Sequence[Tensor]]
) -> list[list[float]]:
    """Log-probability of every candidate of every sample: the sum over its tokens, given the prompt before them.

    Whatever is attached to the model acts; pruners do not see the candidates. One forward pass for each place in the
    longest list, or a single one where all candidates of all samples are single tokens.

    Args:
        model: of a known family.
        inputs: of :func:`~lit_simignore.surgery.prepare.prepare`.
        candidates: token ids, see :func:`candidate_tokens`; at least one for every sample.
    """
    found: list[list[float]] = [[] for _ in candidates]
    single = all(len(tokens) == 1 for several in candidates for tokens in several)
    for place in range(1 if single else max(map(len, candidates))):
        asked = [several[min(place, len(several) - 1)] for several in candidates]
        logits, first = _logits(model, inputs, asked)
        for row, several in enumerate(candidates):
            for tokens in several if single else several[place : place + 1]:
                found[row].append(float(answer_score(logits[row], tokens, first, kind="log_prob")))
    return found


def _logits(model: nn.Module, inputs: Mapping[str, Any], answers: Sequence[Tensor]) -> tuple[Tensor, int]:
    """``(B, n, V)`` logits of the last columns of prompts with answers, and the place of the first answer token."""
    forced = teacher_forced(model, inputs, answers)
    taken = inspect.signature(unwrap(model).forward).parameters
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in taken else {}
    if "logits_to_keep" in taken:
        options["logits_to_keep"] = max(map(len, answers)) + 1
    logits = model(**forced.inputs, **options).logits
    return logits, forced.first - (forced.inputs["input_ids"].shape[1] - logits.shape[1])


def _ids(processor: Any, text: str) -> list[int]:
    bos = processor.tokenizer.bos_token
    special = not (bos is not None and text.startswith(bos))
    ids: list[int] = processor.tokenizer(text, add_special_tokens=special)["input_ids"]
    end = processor.tokenizer.eos_token_id
    return ids[:-1] if special and ids and ids[-1] == end else ids
