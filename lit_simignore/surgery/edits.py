"""Interventions inside the decoder: before chosen layers, the call is told what to do to that layer's attention.

Where a layer also drops visual tokens, the drop comes first: its hook is registered before this one, so interventions
see the slots that are left. A pruner that reads a layer's attention reads it as the model computes it, before any
intervention on that layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lit_simignore.interventions.base import AttentionIntervention, Intervention, KernelInputs, LayerContext, attend
from lit_simignore.surgery.attention import EDITS, RUN, LayerKernel, install_tap
from lit_simignore.surgery.cache import CacheState, state_of
from lit_simignore.surgery.calls import cache_in
from lit_simignore.surgery.prompt import Slots
from lit_simignore.surgery.trace import EditTrace
from lit_simignore.types import UserError

if TYPE_CHECKING:
    from lit_simignore.surgery.second_run import Second


@dataclass(slots=True, eq=False)
class EditState:
    """What the interventions of one generation remember, from the prefill to the last step.

    Args:
        parts: the interventions, as attached.
        places: by layer, the visual ``(B, n)`` and the real ``(B, n)`` slots of the prompt from that layer on.
        memory: by layer and intervention, what it noted. Tensors have the batch first.
    """

    parts: tuple[AttentionIntervention, ...]
    places: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    memory: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)

    def note(self, layer: int, slots: Slots) -> tuple[Tensor, Tensor]:
        """Remember what the slots are that reach ``layer``; the same ones as before are not held twice."""
        known = self.places[max(self.places)] if self.places else None
        if known is not None and known[0] is slots.visual:
            return known
        self.places[layer] = slots.visual, slots.alive
        return self.places[layer]

    def at(self, layer: int) -> tuple[Tensor, Tensor]:
        """The prompt's slots in ``layer``."""
        return self.places[max(first for first in self.places if first <= layer)]

    @property
    def num_slots(self) -> int:
        """Slots of the prompt in the first edited layer."""
        return self.places[min(self.places)][0].shape[1]

    def rows(self, choose: Callable[[Tensor], Tensor]) -> EditState:
        """The same state after the batch was reordered, repeated or cut by ``choose``."""
        places = {layer: (choose(visual), choose(alive)) for layer, (visual, alive) in self.places.items()}
        memory = {
            key: {name: choose(value) if isinstance(value, Tensor) else value for name, value in noted.items()}
            for key, noted in self.memory.items()
        }
        return EditState(self.parts, places, memory)

    def without_last(self, num_columns: int) -> EditState:
        """The state after the last ``num_columns`` of the prompt were taken back."""
        kept = slice(None, -num_columns)
        places = {layer: (visual[:, kept], alive[:, kept]) for layer, (visual, alive) in self.places.items()}
        return EditState(self.parts, places, self.memory)


class LayerEdit:
    """What is done to one layer's attention in one call. Travels with the call as a keyword argument."""

    def __init__(
        self, parts: Sequence[tuple[AttentionIntervention, dict[str, Any]]], layer: int, num_layers: int,
        places: tuple[Tensor, Tensor], *, prefill: bool,
    ) -> None:  # fmt: skip
        self.parts, self.layer, self.num_layers, self.places, self.prefill = parts, layer, num_layers, places, prefill

    def attend(
        self,
        kernel: LayerKernel,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float,
        causal: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """See :class:`~lit_simignore.surgery.attention.LayerEdits`; rows computed beside the kernel show no map."""
        visual, alive = (part.to(query.device) for part in self.places)
        given = inputs = KernelInputs(query, key, value)
        for part, memory in self.parts:
            context = LayerContext(
                self.layer, self.num_layers, visual, alive, scaling, self.prefill, mask, causal, memory
            )  # fmt: skip
            inputs = part.edit(inputs, context)
        if inputs is given:
            return kernel(query, key, value)
        shown: list[Tensor | None] = []

        def without_map(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            output, probabilities = kernel(query, key, value)
            shown.append(probabilities)
            return output

        output = attend(without_map, inputs, context)
        return output, None if inputs.row_edits else shown[0]


class LayerInterventions:
    """The interventions that act inside the decoder, and their hooks."""

    def __init__(self, decoder: nn.Module, parts: Sequence[AttentionIntervention]) -> None:
        self.decoder, self.parts = decoder, tuple(parts)
        self.num_layers = len(decoder.layers)  # type: ignore[arg-type]
        self.by_layer: dict[int, list[int]] = {}
        for number, part in enumerate(self.parts):
            for layer in part.layers(self.num_layers):
                self.by_layer.setdefault(layer, []).append(number)

    def __bool__(self) -> bool:
        return bool(self.by_layer)

    def install(self, note: Callable[[Any], None]) -> None:
        """Register the layers' hooks and switch their attention modules.

        Args:
            note: receives every handle (with ``remove()``) as soon as it exists.
        """
        layers: Any = self.decoder.layers
        for layer in sorted(self.by_layer):
            note(install_tap(layers[layer].self_attn))
            note(layers[layer].register_forward_pre_hook(self._hook(layer), with_kwargs=True))

    def begin(self, second: Second | None) -> EditState | None:
        """A state for a prefill; ``None`` where nothing is edited.

        Args:
            second: the second run that this is the prefill of, if it is one.
        """
        return EditState(self.parts) if self and (second is None or second.edits) else None

    def _hook(self, layer: int) -> Callable[..., Any]:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            run = kwargs.get(RUN)
            if run is not None:
                state, places = run.edits, None if run.edits is None else run.edits.note(layer, run.slots)
            else:
                cached = state_of(cache_in(kwargs))
                state = None if cached is None else cached.edits
                places = None if state is None else state.at(layer)
            if state is None or places is None:
                return None
            parts = [(self.parts[n], state.memory.setdefault((layer, n), {})) for n in self.by_layer[layer]]
            edit = LayerEdit(parts, layer, self.num_layers, places, prefill=run is not None)
            return args, {**kwargs, EDITS: edit}

        return before


def attention_parts(parts: Sequence[Intervention]) -> list[AttentionIntervention]:
    """Those that act inside the decoder."""
    return [part for part in parts if isinstance(part, AttentionIntervention)]


def edit_traces(state: EditState | None, repeats: int) -> list[EditTrace]:
    """What interventions noted in a prefill, one row per sample, on the CPU."""
    if state is None:
        return []
    traces = []
    for (layer, number), noted in sorted(state.memory.items(), key=lambda item: item[0]):
        tensors = {name: value for name, value in noted.items() if isinstance(value, Tensor)}
        if tensors:
            found = {name: value.detach()[::repeats].cpu() for name, value in tensors.items()}
            traces.append(EditTrace(type(state.parts[number]).__name__, layer, found))
    return traces


def refuse_foreign_edits(state: CacheState, parts: Sequence[AttentionIntervention]) -> None:
    """A cache goes on under the interventions that it was filled under."""
    filled = () if state.edits is None else state.edits.parts
    if filled != tuple(parts):
        names = [" + ".join(type(part).__name__ for part in some) or "no intervention" for some in (filled, parts)]
        raise UserError(
            f"this cache was filled under {names[0]} and would go on under {names[1]} or other fields: attach the same "
            "interventions, or start a new cache"
        )
