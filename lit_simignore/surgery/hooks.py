"""The hooks of one attachment: on the model (what the prompt is, later steps) and on its decoder (the drop).

The decoder is where ``inputs_embeds`` holds image rows and text rows side by side, in the space that rules compare
in; nothing is encoded twice and nothing above the decoder learns that the sequence got shorter.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from lit_simignore.interventions.base import Branch, Intervention, LogitsIntervention
from lit_simignore.metrics.flops import DecoderShape
from lit_simignore.surgery.attention import RUN
from lit_simignore.surgery.cache import CacheState, Owner, check_cache, remember, state_of
from lit_simignore.surgery.calls import Signature, cache_in, note_ids, take_noted_ids
from lit_simignore.surgery.choose import Place, check_labels, choose_visual
from lit_simignore.surgery.columns import EXPLICIT
from lit_simignore.surgery.contrast import Contrast, contrasting_part
from lit_simignore.surgery.decode import later_inputs
from lit_simignore.surgery.drops import ENDS_OF_PROMPTS, Drop
from lit_simignore.surgery.edits import LayerInterventions, attention_parts, refuse_foreign_edits
from lit_simignore.surgery.families._mrope import MultiAxisRope
from lit_simignore.surgery.families.base import Family
from lit_simignore.surgery.masks import alive_columns
from lit_simignore.surgery.prefill import masked_inputs, shortened_inputs
from lit_simignore.surgery.prompt import AFTER_IMAGE, Prompt, PromptReader, Slots
from lit_simignore.surgery.refusals import (
    refuse_foreign_stages,
    refuse_growth,
    refuse_late_images,
    refuse_packed,
    refuse_pieces,
    refuse_video,
    refuse_window,
    window_of,
)
from lit_simignore.surgery.rows import hide_columns, scatter_rows
from lit_simignore.surgery.running import PREFILL, Prefill, begun_prefill, pruned_prefill
from lit_simignore.surgery.runs import visual_runs
from lit_simignore.surgery.second_run import SECOND
from lit_simignore.surgery.smaller_images import smaller_images
from lit_simignore.surgery.stages import LayerStages
from lit_simignore.surgery.towers import VISION_OFFERS
from lit_simignore.surgery.trace import CallTrace, Trace
from lit_simignore.surgery.vision import VisionTaps
from lit_simignore.types import UserError


class Attachment:
    """The hooks of one ``attach`` block."""

    def __init__(
        self, model: nn.Module, decoder: nn.Module, family: Family, drops: tuple[Drop, ...], trace: Trace,
        interventions: Sequence[Intervention] = (),
    ) -> None:  # fmt: skip
        self.model, self.decoder, self.family, self.drops, self.trace = model, decoder, family, drops, trace
        self.entry = tuple(drop for drop in drops if drop.layer_idx is None)
        inside = [drop for drop in drops if drop.layer_idx is not None]
        self.stages = LayerStages(decoder, inside, first_allowed=max(1, family.deepstack_layers(model.config)))
        self.edits = LayerInterventions(decoder, attention_parts(interventions))
        self.owner = Owner()
        self.reader = PromptReader(family.image_token_id(model.config), family.special_token_ids(model))
        self.shape = DecoderShape.from_config(model.config)
        self.scopes = {drop.scope for drop in drops if drop.scope is not None}
        self.waits = any(drop.needs & ENDS_OF_PROMPTS for drop in drops)
        self.window = window_of(decoder.config)
        read = frozenset().union(*(drop.needs for drop in self.entry)) & VISION_OFFERS
        tower = family.vision(model)
        self.vision = VisionTaps(tower, read) if tower is not None and read else None
        self.smaller = smaller_images(tower, self.entry)
        self.masks = any(drop.hides for drop in self.entry)
        self.renumbers = any(drop.renumbers for drop in self.entry)
        self.entrances = family.entrances(model)
        self.contrast = self._contrast(contrasting_part(interventions))
        self._handles: list[Any] = []
        self._signatures = {module: Signature(module) for module in (*self.entrances, decoder)}
        self._warned = False

    def _contrast(self, part: LogitsIntervention | None) -> Contrast | None:
        if part is None:
            return None
        if part.branch is Branch.NOISY_IMAGE and len(self.entrances) > 1:
            raise UserError(
                f"{type(part).__name__} encodes images a second time, which {type(self.family).__name__} models do "
                "inside generate; use another family, or an intervention without a second image"
            )
        encoder: Any = self.model.base_model
        return Contrast(
            part, self.entrances[-1], encoder, self.owner, self.shape,
            multi_axis=isinstance(self.family, MultiAxisRope), images_per_row=self.family.images_per_row,
            begun=begun_prefill,
        )  # fmt: skip

    # -- lifecycle

    def install(self) -> None:
        """Register all hooks."""
        if self.contrast is not None:
            self.contrast.install(self._handles.append)  # it must see the caller's arguments, and know the prefill
        embedding = self.family.embedding(self.model)
        planned: list[tuple[Any, Any, dict[str, bool]]] = []
        for entrance in self.entrances:
            planned.append((entrance.register_forward_pre_hook, self._enter, {"with_kwargs": True}))
            planned.append((entrance.register_forward_hook, self._leave, {"with_kwargs": True, "always_call": True}))
        planned.append((self.decoder.register_forward_pre_hook, self._shorten, {"with_kwargs": True}))
        planned.append((self.decoder.register_forward_hook, self._restore, {"with_kwargs": True}))
        if embedding is not None:
            planned.append((embedding.register_forward_pre_hook, note_ids, {}))
        for register, hook, options in planned:  # one by one, so that a failure leaves none behind
            self._handles.append(register(hook, **options))
        if self.vision is not None:
            self.vision.install(self._handles.append)
        if self.smaller is not None:
            self.smaller.install(self._handles.append)
        if self.stages:
            self.stages.install(self._handles.append)
        if self.edits:
            self.edits.install(self._handles.append)  # behind the stages: a layer's drop comes before its edits

    def remove(self) -> None:
        """Take all hooks away; caches that they shortened can be continued only by another attachment."""
        for handle in reversed(self._handles):
            handle.remove()
        self._handles.clear()
        if self.vision is not None:
            self.vision.forget()
        self.owner.live = False

    # -- the model

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs = self._signatures[module].named(args, kwargs)
        ids, embeds, cache = inputs.get("input_ids"), inputs.get("inputs_embeds"), cache_in(inputs)
        given = ids if ids is not None else embeds
        if given is None:
            return None
        batch, length = given.shape[:2]
        state = state_of(cache)
        if state is None and length == 1:
            return None
        if state is None and (cache is None or int(cache.get_seq_length()) == 0):
            self._begin(module, ids, embeds, inputs)
            return None
        if length > 1 and (self.drops or self.edits):
            refuse_late_images(ids, self.family.image_token_id(self.model.config), inputs)
            if self.waits and self.trace.spans is None:
                refuse_pieces(cache, state, inputs)
        if state is None or module is not self.entrances[-1]:
            return None
        refuse_growth(self.window, cache, length)
        if state.owner is not self.owner:
            refuse_foreign_stages(state, self.stages.hooked)
            refuse_foreign_edits(state, self.edits.parts)
            state.owner = self.owner  # a later attachment goes on with an earlier one's cache
        if state.entry is None:
            return None
        if inputs.get("position_ids") is None:
            counted = self.family.later_positions(self.model, inputs.get("attention_mask"), length)
            inputs |= {} if counted is None else {"position_ids": counted}
        return (), later_inputs(inputs, cache, state.entry, batch, length)

    def _begin(self, module: nn.Module, ids: Tensor | None, embeds: Tensor | None, inputs: Mapping[str, Any]) -> None:
        second = SECOND.get()
        if (second is not None and second.bare) or (module is not self.entrances[0] and PREFILL.get() is not None):
            return  # nothing is visual in it, or an outer entrance has seen more of the prompt than this one does
        refuse_video(inputs)
        explicit = EXPLICIT.get()
        if ids is None and embeds is not None and explicit is None:
            ids = take_noted_ids(embeds)
        if explicit is not None:
            given = ids if ids is not None else embeds
            assert given is not None
            prompt = self.reader.from_columns(explicit, given.shape[0], given.shape[1], inputs)
        elif ids is not None:
            prompt = self.reader.from_ids(ids, inputs, self.trace.spans)
            self._warn_without_spans(prompt)
        elif self.drops or self.edits or self.contrast is not None:
            raise UserError(
                "a prompt given as inputs_embeds does not show its visual tokens: pass input_ids, or name them with "
                "visual_columns(mask)"
            )
        else:
            return
        prefill = Prefill(prompt, module)
        prefill.token = PREFILL.set(prefill)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._signatures[module].is_single_step(args, kwargs):
            return
        prefill = PREFILL.get()
        if prefill is not None and prefill.entrance is module and prefill.token is not None:
            PREFILL.reset(prefill.token)
            prefill.token = None

    def _warn_without_spans(self, prompt: Prompt) -> None:
        if self.scopes - {AFTER_IMAGE} and prompt.spans is None and not self._warned:
            self._warned = True
            warnings.warn(
                "attach() got no spans: every token that is neither special nor visual counts as text, the chat "
                "template included. Pass spans= from prepare(processor, samples) to compare with the question alone.",
                stacklevel=2,
            )

    # -- the decoder

    def _shorten(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._signatures[module].is_single_step(args, kwargs):
            return None
        prefill = pruned_prefill()
        if prefill is None or prefill.call is not None:
            return None
        inputs = self._signatures[module].named(args, kwargs)
        embeds = inputs.get("inputs_embeds")
        if embeds is None:
            if inputs.get("input_ids") is None:
                return None
            if not bool(prefill.prompt.visual.any()):
                return None
            raise UserError(
                "visual_columns were named for a call with input_ids; pass inputs_embeds, which hold the visual tokens"
            )
        call, slots = self._open_call(prefill, inputs, embeds)
        edits = self.edits.begin(SECOND.get())
        if not self.drops and edits is None:
            return None
        refuse_packed(self.decoder, inputs)
        changed = self._at_entry(prefill, call, slots, inputs) if self.drops else None
        if not self.stages and edits is None:
            return None if changed is None else ((), changed)
        refuse_window(self.window, embeds.shape[1], cache_in(inputs))
        check_cache(cache_in(inputs) if edits is not None else None)
        assert prefill.slots is not None
        prefill.run = self.stages.begin(prefill.prompt, call, prefill.slots, prefill.hiding)
        prefill.run.edits = edits
        return (), {**(changed or inputs), RUN: prefill.run}

    def _at_entry(
        self, prefill: Prefill, call: CallTrace, slots: Slots, inputs: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Run the pruners before the decoder; its new arguments, or ``None`` if everything stays as it is."""
        enrich = None
        if self.vision is not None and any(call.num_visual):
            enrich = self.vision.enrich(slots, inputs["inputs_embeds"])
        place = Place(prefill.prompt, slots, call, enrich=enrich)
        chosen = choose_visual(place, inputs["inputs_embeds"], self.entry)
        if torch.equal(chosen.keep, slots.alive) and not chosen.merged:
            return None
        check_cache(cache_in(inputs))
        refuse_window(self.window, slots.alive.shape[1], cache_in(inputs))
        if self.masks and self.stages.returns:
            prefill.hiding = hide_columns(chosen.keep)
            return {**inputs, "inputs_embeds": chosen.rows}
        if self.masks:
            changed, prefill.columns = masked_inputs(chosen, slots, inputs, renumber=self.renumbers)
            prefill.slots = slots.without(slots.alive & ~chosen.keep)
            return changed
        check_labels(prefill.prompt, slots, chosen.keep)
        own = self.family.column_inputs
        short, prefill.columns = shortened_inputs(chosen, slots, inputs, renumber=self.renumbers, known=own)
        prefill.slots = slots.take(prefill.columns)
        return {**short, **self.family.shortened(inputs, chosen.keep, prefill.columns)}

    def _open_call(self, prefill: Prefill, inputs: Mapping[str, Any], embeds: Tensor) -> tuple[CallTrace, Slots]:
        """Learn what is padding, count visual tokens, open the call's trace."""
        prompt = prefill.prompt
        alive = alive_columns(inputs.get("attention_mask"), embeds.shape[0], embeds.shape[1], embeds.device)
        slots = prompt.slots(alive, self.scopes)
        counts = slots.visual.sum(dim=1).tolist()[:: prompt.repeats]
        runs = visual_runs(slots.visual, prompt.ids, inputs.get("position_ids"))[:: prompt.repeats]
        grids = [self.family.grids(self.model.config, sample) for sample in runs]
        prefill.num_text = (slots.alive & ~slots.visual).sum(dim=1).tolist()[:: prompt.repeats]
        prefill.whole = prefill.slots = slots
        prefill.call = CallTrace(num_visual=counts, grids=grids)
        return prefill.call, slots

    def _restore(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if self._signatures[module].is_single_step(args, kwargs):
            return None
        prefill = pruned_prefill()
        if prefill is None or prefill.call is None:
            return None
        prefill.close(self.shape, self.trace, 0 if self.masks else len(self.entry))
        inside = None if prefill.run is None else prefill.run.columns
        edits = None if prefill.run is None else prefill.run.edits
        if prefill.columns is None and inside is None and edits is None:
            return None
        as_tuple = isinstance(output, tuple)
        hidden = output[0] if as_tuple else output.last_hidden_state
        found = [part for part in output if isinstance(part, Cache)] if as_tuple else [cache_in(output)]
        if found and found[0] is not None:
            check_cache(found[0])
            stages = {} if prefill.run is None else prefill.run.maps
            remember(found[0], CacheState(self.owner, prefill.columns, stages, edits))
        full = hidden if inside is None else scatter_rows(hidden, inside)
        if prefill.columns is not None and not self.masks:
            full = scatter_rows(full, prefill.columns)
        if full is hidden:
            return None
        if as_tuple:
            return (full, *output[1:])
        output.last_hidden_state = full
        return output
