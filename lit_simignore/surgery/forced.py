"""Prompts with their answers written behind them: one pass shows how every token of the answer was predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_simignore.attribution.targets import answer_rows
from lit_simignore.surgery.attach import unwrap
from lit_simignore.surgery.families import family_of
from lit_simignore.types import UserError


@dataclass(frozen=True, slots=True, eq=False)
class Forced:
    """A batch of left-padded prompts, each followed by its answer and padded again on the right.

    Args:
        inputs: keyword arguments of the model's forward.
        first: column of every answer's first token: prompts end together.
        answers: ``(T,)`` int64 tokens per sample, T at least 1.
    """

    inputs: dict[str, Any]
    first: int
    answers: tuple[Tensor, ...]

    def rows(self, sample: int) -> Tensor:
        """``(T,)`` int64 columns that predict the sample's answer; the first one is the prompt's last token."""
        return answer_rows(self.first, len(self.answers[sample]))


def teacher_forced(model: nn.Module, inputs: Mapping[str, Any], answers: Sequence[Tensor]) -> Forced:
    """Append answers to prompts.

    Args:
        model: of a known family.
        inputs: of :func:`~lit_simignore.surgery.prepare.prepare`, or a processor's with left padding.
        answers: one ``(T,)`` tensor of token ids per prompt, as generated or as they should be; end tokens are tokens.

    Raises:
        UserError: not one answer per prompt, an empty one, or prompts that do not end together (right padding).
    """
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    if len(answers) != ids.shape[0]:
        raise UserError(f"expected one answer for each of {ids.shape[0]} prompts; got {len(answers)}")
    empty = next((row for row, answer in enumerate(answers) if not len(answer)), None)
    if empty is not None:
        raise UserError(f"the answer of prompt {empty} is empty: there is nothing whose prediction could be looked at")
    if not bool(mask[:, -1].all()):
        raise UserError("prompts must end in the last column: pad them on the left, as prepare() does")
    width = max(map(len, answers))
    padded = [F.pad(answer.to(ids), (0, width - len(answer)), value=_padding(model)) for answer in answers]
    lengths = torch.tensor([len(answer) for answer in answers], device=mask.device)
    real = torch.arange(width, device=mask.device) < lengths[:, None]
    forced = {
        **inputs,
        "input_ids": torch.cat([ids, torch.stack(padded)], dim=1),
        "attention_mask": torch.cat([mask, real.to(mask)], dim=1),
    }
    for name, value in family_of(unwrap(model).config).answer_inputs.items():
        if inputs.get(name) is not None:
            forced[name] = F.pad(inputs[name], (0, width), value=value)
    return Forced(forced, ids.shape[1], tuple(answer.to(ids) for answer in answers))


def _padding(model: nn.Module) -> int:
    """Any id will do where it is masked, as long as it is none that means an image."""
    config: Any = unwrap(model).config
    found = getattr(config.get_text_config(decoder=True), "pad_token_id", None)
    return 0 if found is None else int(found)
