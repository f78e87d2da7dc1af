"""Ask a pruner which visual tokens stay, for every sample of a batch, and write the answer down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lit_simignore.pruning.base import Features, Pruner
from lit_simignore.surgery.drops import Drop
from lit_simignore.surgery.prompt import IGNORED_LABEL, Prompt, Slots
from lit_simignore.surgery.trace import CallTrace, StageTrace
from lit_simignore.types import Selection, UserError


@dataclass(slots=True, eq=False)
class Chosen:
    """What the pruners of one place decided so far.

    Args:
        keep: ``(B, n)`` bool over all slots: kept visual tokens and everything else that is real.
        rows: ``(B, n, D)`` values of all slots, with merged values in place of the rows that carry them.
        merged: whether any row changed.
    """

    keep: Tensor
    rows: Tensor
    merged: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a pruner runs.

    Args:
        prompt: the prefill.
        slots: what is left of it here.
        call: the trace that receives a stage.
        layer_idx: decoder layer before which it runs; ``None`` before the decoder.
        enrich: fills in features that only this place knows, given the drop, the features, the row, and the slots of
            the row's visual tokens and text.
        entered: visual tokens per sample that entered decoder layer 0; ``None`` where that is still open.
    """

    prompt: Prompt
    slots: Slots
    call: CallTrace
    layer_idx: int | None = None
    enrich: Callable[[Drop, Features, int, Tensor, Tensor], Features] | None = None
    entered: Sequence[int] | None = None


def choose_visual(place: Place, rows: Tensor, drops: Sequence[Drop]) -> Chosen:
    """Run the drops one after the other, each on the visual tokens that the one before left.

    Args:
        place: where in the model this is.
        rows: ``(B, n, D)`` the rows that enter here.
        drops: those that run here.
    """
    chosen = Chosen(place.slots.alive.clone(), rows)
    for drop in drops:
        _run_stage(drop, place, chosen)
    return chosen


def _run_stage(drop: Drop, place: Place, chosen: Chosen) -> None:
    repeats, batch = place.prompt.repeats, chosen.keep.shape[0]
    stage = StageTrace(drop.method, place.layer_idx)
    text = torch.zeros_like(chosen.keep) if drop.scope is None else place.slots.text[drop.scope]
    columns = [(place.slots.visual[row] & chosen.keep[row]).nonzero()[:, 0] for row in range(0, batch, repeats)]
    _check_scope(drop, place, [bool(len(found)) for found in columns])
    features = [
        _features(drop, place, chosen, sample * repeats, found, text[sample * repeats].nonzero()[:, 0])
        for sample, found in enumerate(columns)
    ]
    for sample, selection in enumerate(_select(drop.pruner, features)):
        # beams of one sample are copies of each other at prefill: one answer serves all
        for row in range(sample * repeats, (sample + 1) * repeats):
            _apply(selection, chosen, row, columns[sample], drop.pruner, features[sample])
        _record(stage, selection, place.slots.original[sample * repeats, columns[sample]])
    place.call.stages.append(stage)


def _check_scope(drop: Drop, place: Place, has_visual: Sequence[bool]) -> None:
    """Refuse a sample that has nothing of what the pruner was told to compare with; its rule would choose blindly."""
    if drop.scope not in ("options", "question") or place.prompt.spans is None:
        return
    has_text = place.slots.text[drop.scope].any(dim=1).tolist()[:: place.prompt.repeats]
    for sample, (visual, text) in enumerate(zip(has_visual, has_text, strict=True)):
        if visual and not text:
            key = place.prompt.key(sample * place.prompt.repeats)
            raise UserError(
                f"sample {key!r} has no {drop.scope} that {drop.method}(text={drop.scope!r}) could compare with; "
                "use text='prompt'"
            )


def _features(drop: Drop, place: Place, chosen: Chosen, row: int, visual: Tensor, text: Tensor) -> Features:
    sample = row // place.prompt.repeats
    total = place.call.num_visual[sample]
    entered = total if place.entered is None else place.entered[sample]
    features = Features(
        visual=chosen.rows[row, visual].detach(),
        text=chosen.rows[row, text].detach(),
        key=place.prompt.key(row),
        grids=place.call.grids[sample] if visual.shape[0] == total else (),
        visual_columns=place.slots.place[row, visual],
        text_columns=place.slots.place[row, text],
        num_input=None if visual.shape[0] == entered else entered,
    )
    if place.enrich is None or not visual.shape[0]:
        return features
    return place.enrich(drop, features, row, visual, text)


def _select(pruner: Pruner, features: Sequence[Features]) -> list[Selection]:
    """One answer per sample. A prompt without image has nothing to choose from and is not asked about."""
    asked = [sample for sample in features if sample.visual.shape[0]]
    with torch.no_grad():
        answers = iter(pruner.choose_batch(asked) if asked else [])
    nothing = torch.zeros(0, dtype=torch.long)
    return [next(answers) if sample.visual.shape[0] else Selection(kept=nothing) for sample in features]


def _apply(selection: Selection, chosen: Chosen, row: int, columns: Tensor, pruner: Pruner, features: Features) -> None:
    kept = columns[selection.kept.to(columns.device)]
    chosen.keep[row, columns] = False
    chosen.keep[row, kept] = True
    if selection.merged is None:
        return
    merged = selection.merged
    live = chosen.rows[row, columns]
    if torch.is_grad_enabled() and live.requires_grad:
        # the choice itself carries no gradient; merged rows do, so the deterministic rule is asked once more
        again = pruner.choose(replace(features, visual=live)).merged
        assert again is not None
        merged = again
    if not chosen.merged:
        chosen.rows, chosen.merged = chosen.rows.clone(), True
    chosen.rows[row, kept] = merged.to(chosen.rows)


def _record(stage: StageTrace, selection: Selection, candidates: Tensor) -> None:
    candidates = candidates.cpu()
    stage.candidates.append(candidates)
    stage.kept.append(candidates[selection.kept.cpu()])
    stage.scores.append(None if selection.scores is None else selection.scores.detach())
    named, sources = candidates.tolist(), selection.sources
    stage.sources.append(None if sources is None else tuple(tuple(named[i] for i in group) for group in sources))


def check_labels(prompt: Prompt, slots: Slots, keep: Tensor) -> None:
    """A dropped slot has no hidden state, so it can neither be a target nor predict the next token.

    Raises:
        UserError: names the first sample that has a label there.
    """
    if slots.needed is None:
        return
    lost = (slots.needed & slots.alive & ~keep).any(dim=1)
    if bool(lost.any()):
        row = int(lost.nonzero()[0, 0])
        raise UserError(
            f"sample {prompt.key(row) or row} has a label on, or right after, a dropped visual token; set labels to "
            f"{IGNORED_LABEL} on visual tokens and on the token after the last one"
        )
