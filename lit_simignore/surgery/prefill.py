"""The stage before the decoder: ask the pruners, then shorten (or mask) everything the decoder is called with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lit_simignore.pruning.base import Features, Need, Pruner
from lit_simignore.surgery.masks import hidden_mask, prefill_mask
from lit_simignore.surgery.prompt import IGNORED_LABEL, Prompt
from lit_simignore.surgery.rows import ColumnMap, gather_positions, gather_rows, hide_columns, keep_columns
from lit_simignore.surgery.trace import CallTrace, StageTrace
from lit_simignore.types import Selection, UserError

KNOWN_INPUTS = frozenset({"inputs_embeds", "attention_mask", "position_ids", "past_key_values", "input_ids", "labels"})


@dataclass(slots=True, eq=False)
class Chosen:
    """What the pruners before the decoder decided.

    Args:
        keep: ``(B, N)`` bool over all columns: kept visual tokens and everything else that is real.
        embeds: ``(B, N, D)`` rows, with merged values in place of the rows that carry them.
        merged: whether any row changed.
    """

    keep: Tensor
    embeds: Tensor
    merged: bool = False


def choose_visual(prompt: Prompt, embeds: Tensor, pruners: Sequence[Pruner], call: CallTrace) -> Chosen:
    """Run the pruners one after the other, each on the visual tokens that the one before left.

    Args:
        prompt: the settled columns of this prefill.
        embeds: ``(B, N, D)`` the decoder's input rows.
        pruners: those that run before the decoder.
        call: receives one :class:`~lit_simignore.surgery.trace.StageTrace` per pruner.
    """
    assert prompt.alive is not None
    chosen = Chosen(prompt.alive.clone(), embeds)
    original = _original_indices(prompt.visual)
    for pruner in pruners:
        call.stages.append(_run_stage(pruner, prompt, chosen, original, call))
    return chosen


def _run_stage(pruner: Pruner, prompt: Prompt, chosen: Chosen, original: Tensor, call: CallTrace) -> StageTrace:
    stage = StageTrace(type(pruner).__name__, None)
    wants_text = Need.TEXT in pruner.needs
    text = prompt.scored_text(getattr(pruner, "text", "prompt")) if wants_text else torch.zeros_like(prompt.visual)
    for row in range(prompt.visual.shape[0]):
        columns = (prompt.visual[row] & chosen.keep[row]).nonzero()[:, 0]
        whole = call.num_visual[row // prompt.repeats] == columns.shape[0]
        features = Features(
            visual=chosen.embeds[row, columns].detach(),
            text=chosen.embeds[row, text[row]].detach(),
            key=prompt.key(row),
            grids=call.grids[row // prompt.repeats] if whole else (),
        )
        selection = _select(pruner, features)
        _apply(selection, chosen, row, columns, pruner, features)
        if row % prompt.repeats == 0:
            _record(stage, selection, original[row, columns])
    return stage


def _select(pruner: Pruner, features: Features) -> Selection:
    """Ask for one sample. A prompt without image has nothing to choose from."""
    if features.visual.shape[0] == 0:
        return Selection(kept=torch.zeros(0, dtype=torch.long, device=features.visual.device))
    with torch.no_grad():
        return pruner.choose(features)


def _apply(
    selection: Selection, chosen: Chosen, row: int, columns: Tensor, pruner: Pruner, features: Features
) -> None:
    kept = columns[selection.kept]
    chosen.keep[row, columns] = False
    chosen.keep[row, kept] = True
    if selection.merged is None:
        return
    merged = selection.merged
    live = chosen.embeds[row, columns]
    if torch.is_grad_enabled() and live.requires_grad:
        # the choice itself carries no gradient; merged rows do, so the deterministic rule is asked once more
        again = pruner.choose(replace(features, visual=live)).merged
        assert again is not None
        merged = again
    if not chosen.merged:
        chosen.embeds, chosen.merged = chosen.embeds.clone(), True
    chosen.embeds[row, kept] = merged.to(chosen.embeds.dtype)


def _record(stage: StageTrace, selection: Selection, candidates: Tensor) -> None:
    candidates = candidates.cpu()
    stage.candidates.append(candidates)
    stage.kept.append(candidates[selection.kept.cpu()])
    stage.scores.append(None if selection.scores is None else selection.scores.detach())
    sources = selection.sources
    named = candidates.tolist()
    stage.sources.append(None if sources is None else tuple(tuple(named[i] for i in group) for group in sources))


def _original_indices(visual: Tensor) -> Tensor:
    """``(B, N)`` int64: for every visual column, its index among the row's visual tokens."""
    return visual.long().cumsum(dim=1) - 1


def shortened_inputs(chosen: Chosen, prompt: Prompt, inputs: dict[str, Any], *, renumber: bool) -> tuple[dict[str, Any], ColumnMap]:
    """The decoder's arguments with only the kept columns, left-padded, and where these came from.

    Raises:
        UserError: an argument has one entry per column and is not known here, or a label would be predicted by a
            dropped token.
    """
    _check_inputs(inputs, prompt.visual.shape[1])
    _check_labels(prompt, chosen.keep)
    columns = keep_columns(chosen.keep)
    if renumber:
        columns = replace(columns, shift=_dropped(chosen, prompt)[:, -1:])
    cached = inputs.get("past_key_values") is not None
    changed = {
        "inputs_embeds": gather_rows(chosen.embeds, columns.index),
        "position_ids": gather_positions(_positions(chosen, prompt, inputs, renumber), columns.index).masked_fill(~columns.valid, 0),
        "attention_mask": prefill_mask(inputs.get("attention_mask"), columns, cached=cached),
    }
    return {**inputs, **changed}, columns


def masked_inputs(chosen: Chosen, prompt: Prompt, inputs: dict[str, Any], *, renumber: bool) -> tuple[dict[str, Any], ColumnMap]:
    """The decoder's arguments with the other visual tokens hidden from attention; the length stays."""
    columns = hide_columns(chosen.keep)
    changed: dict[str, Any] = {"attention_mask": hidden_mask(inputs.get("attention_mask"), chosen.keep)}
    if renumber:
        columns = replace(columns, shift=_dropped(chosen, prompt)[:, -1:])
        changed["position_ids"] = _positions(chosen, prompt, inputs, renumber)
    if chosen.merged:
        changed["inputs_embeds"] = chosen.embeds
    return {**inputs, **changed}, columns


def _dropped(chosen: Chosen, prompt: Prompt) -> Tensor:
    """``(B, N)`` int64, how many columns up to each one were dropped."""
    assert prompt.alive is not None
    return (prompt.alive & ~chosen.keep).long().cumsum(dim=1)


def _positions(chosen: Chosen, prompt: Prompt, inputs: dict[str, Any], renumber: bool) -> Tensor:
    """``(..., B or 1, N)`` rotary positions of the whole prompt, closed up on request."""
    positions = inputs.get("position_ids")
    if positions is None:
        positions = torch.arange(chosen.keep.shape[1], device=chosen.keep.device)[None]
    if not renumber:
        return positions
    if positions.ndim != 2:
        raise UserError("positions='renumber' is undefined for positions with height and width; use positions='original'")
    return (positions - _dropped(chosen, prompt)).clamp(min=0)


def _check_inputs(inputs: dict[str, Any], length: int) -> None:
    for name, value in inputs.items():
        per_column = isinstance(value, Tensor) and value.ndim >= 2 and value.shape[1] == length
        if per_column and name not in KNOWN_INPUTS:
            raise UserError(
                f"the decoder is given {name!r} of shape {tuple(value.shape)}, one entry per token, which pruning does "
                "not know how to shorten; leave it out, or use apply='mask'"
            )


def _check_labels(prompt: Prompt, keep: Tensor) -> None:
    """A dropped column has no hidden state, so it can neither be a target nor predict the next token."""
    if prompt.labels is None:
        return
    assert prompt.alive is not None
    labelled = prompt.labels.to(keep.device) != IGNORED_LABEL
    dropped = prompt.alive & ~keep
    lost = (labelled & dropped).any(dim=1) | (labelled[:, 1:] & dropped[:, :-1]).any(dim=1)
    if bool(lost.any()):
        row = int(lost.nonzero()[0, 0])
        raise UserError(
            f"sample {prompt.key(row) or row} has a label on, or right after, a dropped visual token; set labels to "
            f"{IGNORED_LABEL} on visual tokens and on the token after the last one"
        )
