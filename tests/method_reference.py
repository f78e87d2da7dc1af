"""The oracle for methods: the untouched model at full length, told what a method decided and nothing of how.

From every stage on, the tokens that it dropped are hidden from attention; rows that it merged are written over the rows
of the tokens that carry them, at the layer of the stage. What was decided is read off the trace, merged values off the
rule itself, so selections are not tested here: they have tests of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lit_simignore.pruning.base import Features, Need, Pruner
from lit_simignore.surgery.families import family_of
from lit_simignore.surgery.trace import Trace
from lit_simignore.surgery.vision import VisionTaps
from lit_simignore.types import Selection
from tests.family_reference import forward_positions, hidden_generate
from tests.masked_reference import IMAGE_ID, HiddenFromLayers, hidden_by_stage, visible_mask, visual_columns_of
from tests.tiny_families import FamilyBatch

LIVE = SimpleNamespace(needs=frozenset({Need.VISION_HIDDEN}))
"""What has to be read again where gradients flow through merged rows."""


class Recorded:
    """A method whose stages remember what they were last asked and what they answered.

    Args:
        pruner: the method; its stages are watched from now on.
    """

    def __init__(self, pruner: Pruner) -> None:
        self.stages = pruner.stages()
        self.answers: dict[int, list[tuple[Features, Selection]]] = {}
        for stage in self.stages:
            self._watch(stage)
        pruner.stages = lambda: self.stages  # type: ignore[method-assign] # staged methods make new ones every time
        self.pruner = pruner

    def _watch(self, stage: Pruner) -> None:
        choose = stage.choose_batch

        def watched(features: Sequence[Features]) -> list[Selection]:
            selections = choose(features)
            self.answers[id(stage)] = list(zip(features, selections, strict=True))
            return selections

        stage.choose_batch = watched  # type: ignore[method-assign]

    def asked(self, stage: int) -> list[tuple[Features, Selection]]:
        """What the stage was shown and answered, for the samples that it was asked about."""
        return self.answers.get(id(self.stages[stage]), [])


@dataclass
class Merge:
    """Merged rows of one sample at one stage: ``live`` columns went in, ``columns`` carry what came out."""

    stage: Pruner
    row: int
    live: Tensor
    columns: Tensor
    features: Features
    merged: Tensor


class Oracle:
    """The untouched model doing what a method decided.

    Args:
        model: not attached.
        batch: the prompts.
        trace: what was decided, stage by stage.
        recorded: the method that decided, for its merged values.
    """

    def __init__(self, model: Any, batch: FamilyBatch, trace: Trace, recorded: Recorded) -> None:
        self.model, self.batch = model, batch
        self.hidden = hidden_by_stage(batch.inputs, trace)
        entry = [stage for stage in trace.stages if stage.layer_idx is None]
        self.mask = visible_mask(batch.inputs, entry[-1].kept) if entry else batch.inputs["attention_mask"]
        self.merges = self._merges(trace, recorded)
        self.taps: VisionTaps | None = None
        self.handles: list[Any] = []

    def _merges(self, trace: Trace, recorded: Recorded) -> list[Merge]:
        columns, found = visual_columns_of(self.batch.inputs["input_ids"]), []
        for number, stage in enumerate(trace.stages):
            rows = [row for row, candidates in enumerate(stage.candidates) if len(candidates)]
            for row, (features, selection) in zip(rows, recorded.asked(number), strict=True):
                if selection.merged is not None:
                    live, kept = columns[row][stage.candidates[row]], columns[row][stage.kept[row]]
                    found.append(Merge(recorded.stages[number], row, live, kept, features, selection.merged))
        return found

    @property
    def gone(self) -> Tensor:
        """``(B, N)`` bool, columns that reach no logits: padding, and visual tokens that some stage dropped."""
        gone = self.mask == 0
        for hidden in self.hidden.values():
            gone = gone | hidden
        return gone

    def forward(self, **more: Any) -> Any:
        """The whole prompt at its own positions."""
        given = {"attention_mask": self.mask, "position_ids": forward_positions(self.model, self.batch)}
        with self:
            return self.model(**self.batch.inputs | given, **more)

    def generate(self, tokens: int) -> tuple[Tensor, Tensor]:
        """Greedy sequences and the logits of every step."""
        with self:
            return hidden_generate(self.model, self.batch, self.mask, tokens)

    def __enter__(self) -> Oracle:
        decoder = self.model.get_decoder()
        for layer in {merge.stage.stage for merge in self.merges}:
            module = decoder if layer is None else decoder.layers[layer]
            self.handles.append(module.register_forward_pre_hook(self._writer(layer), with_kwargs=True))
        if any(merge.features.vision_hidden is not None for merge in self.merges):
            tower = family_of(self.model.config).vision(self.model)
            assert tower is not None
            self.taps = VisionTaps(tower, LIVE.needs)
            self.taps.install(self.handles.append)
        hiding = HiddenFromLayers(self.model, self.hidden).__enter__()
        self.handles += hiding.handles
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def _writer(self, layer: int | None) -> Any:
        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            rows = args[0] if args else kwargs["inputs_embeds"]
            if rows.shape[1] == 1:
                return None
            written = rows.clone()
            for merge in self.merges:
                if merge.stage.stage == layer:
                    written[merge.row, merge.columns] = self._merged(merge, rows)
            return ((written, *args[1:]), kwargs) if args else (args, {**kwargs, "inputs_embeds": written})

        return before

    def _merged(self, merge: Merge, rows: Tensor) -> Tensor:
        """The rule's own values; asked once more where gradients have to flow through them."""
        if not torch.is_grad_enabled():
            return merge.merged
        features = replace(merge.features, visual=rows[merge.row, merge.live])
        if features.vision_hidden is not None:
            # that these are the rows that visual tokens are made of is shown by tests/contracts/test_family_towers.py
            assert self.taps is not None
            visual = self.batch.inputs["input_ids"] == IMAGE_ID
            slots: Any = SimpleNamespace(original=visual.long().cumsum(1) - 1, visual=visual)
            live: Any = self.taps.enrich(slots, rows)
            features = live(LIVE, features, merge.row, merge.live, merge.live)
        merged = merge.stage.choose(features).merged
        assert merged is not None
        return merged
