"""A way into single attention modules: see the queries and keys of one layer, or change what its kernel is given.

One name is registered with transformers' attention interface. A module is switched to it by a shallow copy of its own
configuration, so every other layer, the masks, the vision tower and whatever is saved keep theirs. What a call needs
travels with it as a keyword argument: gradient checkpointing recomputes layers in other threads, where context
variables would be gone.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lit_simignore.surgery.masks import attends
from lit_simignore.types import UserError

IMPLEMENTATION = "lit_simignore"
RUN = "lit_simignore_run"
"""Keyword argument that carries the prefill's :class:`Observer` into every layer."""

EDITS = "lit_simignore_edits"
"""Keyword argument that carries what is to be done to one layer's attention."""

TAP = "_lit_simignore_tap"


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """What one attention module computed for one prefill.

    Args:
        query: ``(B, H, n, d)`` queries after rotation.
        key: ``(B, G, n, d)`` keys after rotation, G dividing H.
        mask: as the kernel gets it: ``None`` (plainly causal), 2-D padding, or 4-D bool or additive.
        scaling: factor of the logits.
        causal: whether ``None`` and 2-D masks mean causal attention.
        value: ``(B, G, n, e)``; ``None`` where only queries and keys are known.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    scaling: float
    causal: bool = True
    value: Tensor | None = None

    def probabilities(self, row: int, queries: Tensor) -> Tensor:
        """``(H, R, n)`` float32 softmax over all slots that the queries ``(R,)`` of batch row ``row`` may see."""
        heads, groups = self.query.shape[1], self.key.shape[1]
        asked = self.query[row][:, queries].detach().float().unflatten(0, (groups, heads // groups))
        logits = torch.einsum("ghrd,gnd->ghrn", asked, self.key[row].detach().float()).flatten(0, 1) * self.scaling
        seen = self._seen(row, queries)
        if seen is not None:
            logits = logits.masked_fill(~seen, float("-inf"))
        return logits.softmax(dim=-1)

    def _seen(self, row: int, queries: Tensor) -> Tensor | None:
        """``(1 or H, R, n)`` bool."""
        num_slots = self.key.shape[2]
        if self.mask is not None and self.mask.ndim == 4:
            mask = self.mask[row if self.mask.shape[0] > 1 else 0]
            return attends(mask[:, queries, :num_slots])
        if not self.causal and self.mask is None:
            return None
        seen = torch.ones(len(queries), num_slots, dtype=torch.bool, device=queries.device)
        if self.causal:
            seen = torch.arange(num_slots, device=queries.device) <= queries[:, None]
        if self.mask is not None:
            seen = seen & self.mask[row, :num_slots].bool()
        return seen[None]


class Observer(Protocol):
    """What a tapped attention module reports to."""

    probing: bool
    """True while a module is asked for its queries and keys alone: its kernel is then skipped."""

    def observe(self, layer_idx: int, heads: Heads) -> None:
        """Receive queries and keys. May be called again when a layer is recomputed."""


LayerKernel: TypeAlias = "Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]"
"""Query, key and value to output ``(B, Q, H, e)`` and, where the kernel gives them, probabilities."""


class LayerEdits(Protocol):
    """What is done to one layer's attention in one call of the model."""

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
        """Output ``(B, Q, H, e)`` and, where the kernel gives them, probabilities; called again if recomputed."""


@dataclass(slots=True)
class Tap:
    """What a tapped module remembers.

    Args:
        config: the configuration that it had.
        observers: who listens to every call, beside the run that a call may carry; ``None`` for taps without.
    """

    config: Any
    observers: list[Observer | None]


class TapHandle:
    """Undoes one tap by :meth:`remove`, like the handles of hooks."""

    def __init__(self, attention: nn.Module, observer: Observer | None) -> None:
        self._attention, self._observer = attention, observer

    def remove(self) -> None:
        """Stop listening; the last one gives the module back its own configuration."""
        tap: Tap = getattr(self._attention, TAP)
        index = next(i for i, each in enumerate(tap.observers) if each is self._observer)
        del tap.observers[index]
        if not tap.observers:
            self._attention.config = tap.config
            delattr(self._attention, TAP)


def install_tap(attention: nn.Module, observer: Observer | None = None) -> TapHandle:
    """Switch one attention module to this file's function. Several taps of one module stand side by side.

    Args:
        attention: looks its kernel up by its configuration, as all of transformers' do.
        observer: who listens to every call, whether or not it carries a run of its own.

    Raises:
        UserError: the module does not look its kernel up by configuration.
    """
    tap: Tap | None = getattr(attention, TAP, None)
    if tap is not None:
        tap.observers.append(observer)
        return TapHandle(attention, observer)
    config = getattr(attention, "config", None)
    if getattr(config, "_attn_implementation", None) is None:
        raise UserError(
            f"{type(attention).__name__} cannot be observed: it does not choose its attention by configuration"
        )
    setattr(attention, TAP, Tap(config, [observer]))
    own: Any = copy.copy(config)
    own._attn_implementation_internal = IMPLEMENTATION
    attention.config = own
    return TapHandle(attention, observer)


def tapped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """The registered function: report, then do what the module would have done, edited where the call says so.

    A run sees what the layer computed (its stages score before anything is edited); taps see what the kernel is given.
    """
    run: Observer | None = kwargs.pop(RUN, None)
    edits: LayerEdits | None = kwargs.pop(EDITS, None)
    probing = run is not None and run.probing  # asked for by that run alone, which wants no output
    taps = [] if probing else [tap for tap in getattr(module, TAP).observers if tap is not None]
    if run is not None or taps or edits is not None:
        _check_kernel(attention_mask, kwargs)
    scaling, causal = _rule(module, query, kwargs)
    layer = int(getattr(module, "layer_idx", -1))

    def report(listeners: Sequence[Observer], query: Tensor, key: Tensor, value: Tensor) -> None:
        stored = slice(query.shape[2])
        heads = Heads(query, key[:, :, stored], attention_mask, scaling, causal, value[:, :, stored])
        for listener in listeners:
            listener.observe(layer, heads)

    def kernel(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor | None]:
        report(taps, query, key, value)
        return call_original(module, query, key, value, attention_mask, **kwargs)

    if run is not None:
        report([run], query, key, value)
    if probing:
        return torch.zeros_like(query.transpose(1, 2)), None
    if edits is None:
        return kernel(query, key, value)
    return edits.attend(kernel, query, key, value, attention_mask, scaling, causal)


def _rule(module: nn.Module, query: Tensor, kwargs: dict[str, Any]) -> tuple[float, bool]:
    """Factor of the logits, and whether no mask means causal attention."""
    return kwargs.get("scaling") or query.shape[-1] ** -0.5, bool(getattr(module, "is_causal", True))


def call_original(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Attention by the implementation that the module had before it was tapped."""
    config = getattr(module, TAP).config
    name = config._attn_implementation
    kernel = ALL_ATTENTION_FUNCTIONS.get_interface(name, _eager_of(module))
    # flash attention reads the name off the module's configuration to load its kernel
    caller = _WithConfig(module, config) if "flash" in name else module
    return kernel(caller, query, key, value, attention_mask, **kwargs)


class _WithConfig:
    """A module, except for its configuration."""

    def __init__(self, module: nn.Module, config: Any) -> None:
        self.__dict__.update(_module=module, config=config)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _eager_of(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    for cls in type(module).__mro__:
        function = getattr(sys.modules.get(cls.__module__), "eager_attention_forward", None)
        if function is not None:
            return function
    raise UserError(f"no eager attention stands beside {type(module).__name__}; load the model with sdpa")


def _check_kernel(mask: Any, kwargs: dict[str, Any]) -> None:
    if mask is not None and not isinstance(mask, Tensor):
        raise UserError(
            f"attention with a {type(mask).__name__} cannot be read; load the model with attn_implementation='sdpa'"
        )
    if kwargs.get("softcap") is not None:
        raise UserError("attention with soft-capped logits cannot be read; use a rule that needs no attention")


AttentionInterface.register(IMPLEMENTATION, tapped_attention)
