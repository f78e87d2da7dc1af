"""Pruning inside the decoder: before chosen layers, fewer rows go on, and every later layer is told so."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lit_simignore.pruning.base import Features, Need
from lit_simignore.surgery.attention import RUN, Heads, install_tap
from lit_simignore.surgery.cache import CacheState, check_cache, state_of
from lit_simignore.surgery.calls import CACHE_NAMES, cache_in
from lit_simignore.surgery.choose import Chosen, Place, check_labels, choose_visual
from lit_simignore.surgery.drops import Drop
from lit_simignore.surgery.edits import EditState
from lit_simignore.surgery.layer_masks import stage_decode_mask, stage_prefill_mask
from lit_simignore.surgery.prefill import closed_up, dropped_before
from lit_simignore.surgery.prompt import Prompt, Slots
from lit_simignore.surgery.rows import ColumnMap, compose, gather_positions, gather_rows, keep_columns
from lit_simignore.surgery.trace import CallTrace
from lit_simignore.types import UserError

PREVIOUS_LAYER = frozenset({Need.QUERY_ATTENTION, Need.TEXT_ATTENTION, Need.LAYER_KEYS})
DECODER_OFFERS = PREVIOUS_LAYER | {
    Need.OWN_ATTENTION,
    Need.LAYER_HIDDEN,
    Need.FINAL_NORM,
    Need.INPUT_EMBEDDINGS,
    Need.ROPE,
}
"""What every decoder of this library's families can be asked for, whatever the vision side."""


@dataclass(slots=True, eq=False)
class DecoderRun:
    """One prefill on its way through the layers. Handed from layer to layer as a keyword argument.

    Args:
        prompt: the prefill.
        call: its trace.
        start: what the slots are that enter layer 0.
        slots: what the slots are that reach the current layer.
        entered: visual tokens per sample that entered layer 0.
        columns: the slots that are left, in terms of those that entered layer 0; ``None`` until something was dropped.
        maps: ``columns`` behind each stage, by layer, for the cache.
        left: visual tokens per sample behind each stage, by layer.
        rows: ``(B, n, D)`` the rows that entered layer 0, if a pruner asks for them.
        wanted: layers whose queries and keys are asked for.
        heads: those queries and keys, until the next stage.
        probing: True while a layer is asked for queries and keys alone.
        finished: True once the decoder returned.
        moved: positions and rotary embeddings of what is left, once a stage closed positions up.
        edits: what interventions remember, if any act.
        memo: arguments that several layers share.
    """

    prompt: Prompt
    call: CallTrace
    start: Slots
    slots: Slots
    entered: list[int]
    columns: ColumnMap | None = None
    maps: dict[int, ColumnMap] = field(default_factory=dict)
    left: dict[int, list[int]] = field(default_factory=dict)
    rows: Tensor | None = None
    wanted: frozenset[int] = frozenset()
    heads: dict[int, Heads] = field(default_factory=dict)
    probing: bool = False
    finished: bool = False
    moved: tuple[Tensor, Any] | None = None
    edits: EditState | None = None
    memo: dict[tuple[str, int, int], tuple[Any, Any]] = field(default_factory=dict)

    def observe(self, layer_idx: int, heads: Heads) -> None:
        """Keep what the next stage asks for; a recomputation in the backward pass is not listened to."""
        if not self.finished and (self.probing or layer_idx in self.wanted):
            self.heads[layer_idx] = heads

    def finish(self) -> None:
        """Let go of everything that only the stages needed."""
        self.finished = True
        self.heads.clear()
        self.memo.clear()
        self.rows = self.moved = None

    def remembered(self, kind: str, value: Any, make: Callable[[], Any]) -> Any:
        """``make()``, once for all layers that are given the same ``value`` behind the same stage."""
        key = (kind, id(value), len(self.maps))
        if key not in self.memo:
            self.memo[key] = (value, make())  # the value is kept alive, so that its id stays its own
        return self.memo[key][1]


class LayerStages:
    """The pruners that run inside the decoder, and their hooks."""

    def __init__(self, decoder: nn.Module, drops: Sequence[Drop], first_allowed: int = 1) -> None:
        self.decoder = decoder
        self.by_layer: dict[int, list[Drop]] = {}
        for drop in drops:
            self.by_layer.setdefault(_layer_of(drop, decoder, first_allowed), []).append(drop)
        self.by_layer = dict(sorted(self.by_layer.items()))
        self.first = min(self.by_layer, default=None)
        self.returns = self.first is not None and self.by_layer[self.first][0].returns
        self.wanted = frozenset(
            layer - 1 for layer, group in self.by_layer.items() if any(drop.needs & PREVIOUS_LAYER for drop in group)
        )
        self._probed = {
            layer for layer, group in self.by_layer.items() if any(Need.OWN_ATTENTION in drop.needs for drop in group)
        }

    def __bool__(self) -> bool:
        return bool(self.by_layer)

    @property
    def hooked(self) -> range:
        """Layers that have hooks: where hidden tokens come back, those before the first stage hide them one by one."""
        if self.first is None:
            return range(0)
        return range(0 if self.returns else self.first, len(self.decoder.layers))  # type: ignore[arg-type]

    def install(self, note: Callable[[Any], None]) -> None:
        """Register the layers' hooks and switch the attention modules that are listened to.

        Args:
            note: receives every handle (with ``remove()``) as soon as it exists.
        """
        layers: Any = self.decoder.layers
        for layer in sorted(self.wanted | self._probed):
            note(install_tap(layers[layer].self_attn))
        for layer in self.hooked:
            note(layers[layer].register_forward_pre_hook(self._hook(layer), with_kwargs=True))
        if any(Need.INPUT_EMBEDDINGS in drop.needs for group in self.by_layer.values() for drop in group):
            note(layers[0].register_forward_pre_hook(_note_rows, with_kwargs=True))

    def begin(self, prompt: Prompt, call: CallTrace, slots: Slots, hiding: ColumnMap | None = None) -> DecoderRun:
        """A run for a prefill whose ``slots`` enter layer 0; ``hiding`` marks those not to be seen before stage one."""
        entered = slots.visual.sum(dim=1).tolist()[:: prompt.repeats]
        run = DecoderRun(prompt, call, slots, slots, entered, wanted=self.wanted)
        if hiding is not None:
            run.columns, run.maps = hiding, {0: hiding}
        return run

    def _hook(self, layer: int) -> Callable[..., Any]:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            run: DecoderRun | None = kwargs.get(RUN)
            hidden = args[0] if args else kwargs["hidden_states"]
            if run is None:
                changed = self._later(layer, hidden, kwargs)
            else:
                hidden, changed = self._prefill(layer, run, hidden, kwargs)
            if changed is None:
                return None
            return ((hidden, *args[1:]), changed) if args else (args, {**changed, "hidden_states": hidden})

        return before

    # -- prefill

    def _prefill(
        self, layer: int, run: DecoderRun, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any] | None]:
        if layer in self.by_layer:
            hidden = self._run_stage(layer, run, hidden, self._adapted(layer, run, hidden, kwargs))
        if run.columns is None:
            return hidden, None
        return hidden, self._adapted(layer, run, hidden, kwargs)

    def _run_stage(self, layer: int, run: DecoderRun, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Ask the layer's pruners; returns the rows that go on."""
        run.slots = run.slots.to(hidden.device)
        if layer in self._probed:
            self._probe(layer, run, hidden, kwargs)
        enrich = _Enrich(self.decoder, layer, run, kwargs)
        place = Place(run.prompt, run.slots, run.call, layer, enrich, run.entered)
        chosen = choose_visual(place, hidden, self.by_layer[layer])
        run.heads.clear()
        run.left[layer] = (chosen.keep & run.slots.visual).sum(dim=1).tolist()[:: run.prompt.repeats]
        if torch.equal(chosen.keep, run.slots.alive) and not run.maps and not chosen.merged:
            return hidden  # nothing was ever dropped: bit-identical
        if layer == self.first and self.returns:
            run.columns = None  # what was hidden so far is seen again, unless it is dropped now
        check_cache(cache_in(kwargs))
        check_labels(run.prompt, run.slots, chosen.keep)
        last = keep_columns(chosen.keep)
        closes = any(drop.renumbers for drop in self.by_layer[layer])
        if closes or run.moved is not None:
            last = self._renumber(run, chosen, last, kwargs.get("position_ids"), closes=closes)
        run.columns = last if run.columns is None else compose(run.columns, last)
        run.slots = run.slots.take(last)
        run.maps[layer] = run.columns
        return gather_rows(chosen.rows, last.index)

    def _renumber(
        self, run: DecoderRun, chosen: Chosen, last: ColumnMap, positions: Tensor | None, *, closes: bool
    ) -> ColumnMap:
        """Positions of what is left, with the new gaps closed if this stage asks for it."""
        if positions is None or not _plain_rotary(self.decoder):
            raise UserError("positions='renumber' inside the decoder needs one rotary embedding; use 'original'")
        dropped = dropped_before(run.slots.alive, chosen.keep)
        moved = gather_positions(closed_up(positions, dropped) if closes else positions, last.index)
        run.moved = moved, self.decoder.rotary_emb(chosen.rows, position_ids=moved)  # type: ignore[operator]
        return replace(last, shift=dropped[:, -1:]) if closes else last

    def _adapted(self, layer: int, run: DecoderRun, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """A layer's arguments for the slots that are left."""
        columns = run.columns
        if columns is None:
            return kwargs
        index, adapted = columns.index, dict(kwargs)
        if run.moved is not None:
            adapted["position_ids"], adapted["position_embeddings"] = run.moved
        else:
            rotary, positions = kwargs.get("position_embeddings"), kwargs.get("position_ids")
            if rotary is not None:
                adapted["position_embeddings"] = run.remembered(
                    "rotary", rotary, lambda: tuple(gather_rows(part, index) for part in rotary)
                )
            if positions is not None:
                adapted["position_ids"] = run.remembered(
                    "positions", positions, lambda: gather_positions(positions, index)
                )
        mask, cache = kwargs.get("attention_mask"), cache_in(kwargs)
        adapted["attention_mask"] = run.remembered(
            "mask",
            mask,
            lambda: stage_prefill_mask(mask, columns, hidden, cache, self.decoder.config, layer),
        )
        return adapted

    def _probe(self, layer: int, run: DecoderRun, hidden: Tensor, kwargs: dict[str, Any]) -> None:
        """Queries and keys that this layer would compute from all rows, without its kernel and without caching."""
        module = self.decoder.layers[layer]  # type: ignore[index]
        inputs = {name: None if name in CACHE_NAMES else value for name, value in kwargs.items()}
        inputs.pop("hidden_states", None)
        run.probing = True
        try:
            with torch.no_grad():
                module.self_attn(hidden_states=module.input_layernorm(hidden), **inputs)  # type: ignore[union-attr]
        finally:
            run.probing = False

    # -- later steps

    def _later(self, layer: int, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any] | None:
        cache = cache_in(kwargs)
        state = state_of(cache)
        passed = [stage for stage in (state.stages if state is not None else ()) if stage <= layer]
        if state is None or not passed:
            return None
        columns = state.stages[max(passed)]
        changed = dict(kwargs)
        changed["attention_mask"] = self._later_mask(state, max(passed), layer, hidden, kwargs)
        if columns.shift is not None:
            positions = kwargs["position_ids"]
            changed["position_ids"] = positions - columns.shift.to(positions.device)
            changed["position_embeddings"] = self.decoder.rotary_emb(hidden, position_ids=changed["position_ids"])  # type: ignore[operator]
        return changed

    def _later_mask(self, state: CacheState, stage: int, layer: int, hidden: Tensor, kwargs: dict[str, Any]) -> Any:
        mask, cache = kwargs.get("attention_mask"), cache_in(kwargs)
        config = self.decoder.config
        if torch.compiler.is_compiling() or cache.is_compileable:
            return stage_decode_mask(mask, state.stages[stage], hidden, cache, config, layer)
        step = int(cache.get_seq_length(layer)), hidden.shape[1]
        found = state.memo.get(stage)
        if found is None or found[0] is not mask or found[1] != step:
            found = mask, step, stage_decode_mask(mask, state.stages[stage], hidden, cache, config, layer)
            state.memo[stage] = found
        return found[2]


class _Enrich:
    """Fills in the features that only a layer knows."""

    def __init__(self, decoder: nn.Module, layer: int, run: DecoderRun, kwargs: dict[str, Any]) -> None:
        self.decoder, self.layer, self.run, self.kwargs = decoder, layer, run, kwargs

    def __call__(self, drop: Drop, features: Features, row: int, visual: Tensor, text: Tensor) -> Features:
        found: dict[str, Any] = {}
        needs = drop.needs
        here = features.visual.device  # that of the layer before, where a decoder is spread over several
        if needs & PREVIOUS_LAYER:
            heads = self.run.heads[self.layer - 1]
            if Need.QUERY_ATTENTION in needs:
                found["query_attention"] = self._query_row(heads, row).to(here)[:, visual]
            if Need.TEXT_ATTENTION in needs:
                shares = heads.probabilities(row, text.to(heads.query.device))
                found["text_attention"] = shares.to(here)[:, :, visual]
            if Need.LAYER_KEYS in needs:
                keys = heads.key[row].to(here)
                found["layer_keys"], found["text_keys"] = keys[:, visual], keys[:, text]
        if Need.OWN_ATTENTION in needs:
            found["own_attention"] = self._query_row(self.run.heads[self.layer], row).to(here)[:, visual]
        if Need.FINAL_NORM in needs:
            norm = self.decoder.norm
            found["normed_visual"], found["normed_text"] = norm(features.visual), norm(features.text)  # type: ignore[operator]
        if Need.ROPE in needs:
            found["visual_rope"], found["text_rope"] = self._rope(row, visual), self._rope(row, text)
        if Need.INPUT_EMBEDDINGS in needs:
            found["input_visual"], found["input_text"] = self._input_rows(row, drop.scope)
        return replace(features, **{name: value.to(here) for name, value in found.items()})

    def _query_row(self, heads: Heads, row: int) -> Tensor:
        """``(H, n)`` attention of the last prompt token."""
        return heads.probabilities(row, self.run.slots.query[row : row + 1].to(heads.query.device))[:, 0]

    def _rope(self, row: int, slots: Tensor) -> Tensor:
        parts = self.kwargs["position_embeddings"]
        return torch.stack([part[row if part.shape[0] > 1 else 0, slots.to(part.device)] for part in parts])

    def _input_rows(self, row: int, scope: str | None) -> tuple[Tensor, Tensor]:
        start, rows = self.run.start, self.run.rows
        assert rows is not None
        text = torch.zeros_like(start.alive) if scope is None else start.text[scope]
        return rows[row, start.visual[row].to(rows.device)], rows[row, text[row].to(rows.device)]


def _note_rows(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    run: DecoderRun | None = kwargs.get(RUN)
    if run is not None:
        run.rows = (args[0] if args else kwargs["hidden_states"]).detach()


def _layer_of(drop: Drop, decoder: nn.Module, first_allowed: int) -> int:
    layer, depth = drop.layer_idx, len(decoder.layers)  # type: ignore[arg-type]
    assert layer is not None
    if not first_allowed <= layer < depth:
        raise UserError(
            f"{drop.method} drops before decoder layer {layer}; this decoder takes {first_allowed} to {depth - 1}"
        )
    return layer


def _plain_rotary(decoder: nn.Module) -> bool:
    rotary = getattr(decoder, "rotary_emb", None)
    return rotary is not None and set(inspect.signature(rotary.forward).parameters) == {"x", "position_ids"}
