"""Which token of a prompt is context, question, options, template or answer, and whose prompt it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_simignore.discovery import pick
from lit_simignore.types import Role, UserError

NO_ROLE = -1
ROLE_CODES = {role: code for code, role in enumerate(Role)}
SCOPES: dict[str, tuple[Role, ...]] = {
    "options": (Role.OPTIONS,),
    "question": (Role.QUESTION,),
    "prompt": (Role.CONTEXT, Role.QUESTION, Role.OPTIONS),
}
"""What a pruner's ``text`` means: never the template, never the answer."""


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Labels of one batch of prompts, in the order of its rows.

    Args:
        input_ids: ``(B, L)`` int64, the ids that were labelled: a call with other ids is refused.
        roles: ``(B, L)`` int8 codes of :class:`~lit_simignore.types.Role`, -1 for padding and visual tokens.
        keys: one ``sample_id`` per row, for rules that are seeded per sample.
    """

    input_ids: Tensor
    roles: Tensor
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return self.roles.shape[0]

    def tokens(self, scope: str) -> Tensor:
        """``(B, L)`` bool, the tokens that ``scope`` (options, question or prompt) means."""
        codes = [ROLE_CODES[role] for role in pick("text scope", scope, SCOPES)]
        return torch.isin(self.roles, torch.tensor(codes, dtype=self.roles.dtype, device=self.roles.device))

    def to(self, device: torch.device | str) -> Spans:
        """The same spans on another device."""
        return Spans(self.input_ids.to(device), self.roles.to(device), self.keys)

    def take(self, rows: Sequence[int]) -> Spans:
        """The spans of some rows, for a batch that was cut or reordered."""
        index = torch.tensor(list(rows), dtype=torch.long, device=self.roles.device)
        return Spans(self.input_ids[index], self.roles[index], tuple(self.keys[row] for row in rows))

    def repeats(self, batch: int) -> int:
        """How many rows of a call with ``batch`` rows belong to each labelled prompt (beams, several returns).

        Raises:
            UserError: ``batch`` is no multiple of the number of labelled prompts.
        """
        if batch % len(self):
            raise UserError(f"spans label {len(self)} prompts; the call has {batch} rows: pass the spans of this batch")
        return batch // len(self)

    def check(self, input_ids: Tensor) -> None:
        """Refuse a call whose prompts are not the labelled ones. Columns after the labelled ones are free."""
        repeats, length = self.repeats(input_ids.shape[0]), self.roles.shape[1]
        if input_ids.shape[1] < length:
            raise UserError(
                f"spans label prompts of {length} tokens; the call has {input_ids.shape[1]}: pass the spans of this "
                "batch, and do not split a prompt (prefill_chunk_size)"
            )
        labelled = self.input_ids.to(input_ids.device).repeat_interleave(repeats, dim=0)
        if not torch.equal(labelled, input_ids[:, :length]):
            raise UserError(
                "spans label other prompts than this call's input_ids: pass the spans that prepare() returned with them"
            )
